"""What a user may choose about a recipe: typed values, checked before anything is started."""

import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field

Kind = Literal["string", "integer", "number", "boolean", "strings"]
Value: TypeAlias = str | int | float | bool | tuple[str, ...] | None
"""What a parameter can be. `strings` are as many words of the command as they are; None leaves a parameter out."""

KNOWN = ConfigDict(extra="forbid")
"""Of a part of a recipe: nothing that it does not know."""
_MOST = 10**9
_MOST_NUMBER = 1e300

Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A number that no text is taken for."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Something that a user may choose."""

    __pydantic_config__ = KNOWN

    kind: Annotated[Kind, Field(validation_alias="type")]
    default: Any
    choices: Annotated[tuple[Any, ...], Field(min_length=1)] = ()
    minimum: Real | None = None
    maximum: Real | None = None
    description: Annotated[str, Field(strict=True)] = ""

    def check(self, value: object) -> Value:
        """The value as it is used. Raises ValueError that says what it must be."""
        if value is None and self.default is None:
            return None
        taken = _CHECKS[self.kind](value)
        if self.choices and taken not in self.choices:
            message = f"must be one of {', '.join(map(str, self.choices))}, not {shown(value)}"
            raise ValueError(message)
        if isinstance(taken, int | float) and not isinstance(taken, bool):
            if self.minimum is not None and taken < self.minimum:
                message = f"must be at least {self.minimum:g}, not {taken}"
                raise ValueError(message)
            if self.maximum is not None and taken > self.maximum:
                message = f"must be at most {self.maximum:g}, not {taken}"
                raise ValueError(message)
        return taken


def megabytes(value: object) -> int | None:
    """Megabytes from a number of them, or from text such as `64G`. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST:
        return value
    match = re.fullmatch(r"([1-9]\d{0,8})([MGT]?)(?:I?B)?", value.upper(), re.ASCII) if isinstance(value, str) else None
    megabytes = int(match[1]) * {"": 1, "M": 1, "G": 1024, "T": 1024**2}[match[2]] if match else 0
    if not 1 <= megabytes <= _MOST:
        message = f"must be megabytes (64000), or a whole number with a unit: M, G or T (64G), not {shown(value)}"
        raise ValueError(message)
    return megabytes


def shown(value: object) -> str:
    """A value in a message, cut short."""
    return reprlib.repr(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = f"must be text, not {shown(value)}"
        raise ValueError(message)  # noqa: TRY004 - a wrong value like any other
    if "\0" in value:
        message = "holds a NUL character, which no program can be given"
        raise ValueError(message)
    try:
        value.encode()
    except UnicodeEncodeError:
        message = f"is no text that can be written as UTF-8: {shown(value)}"
        raise ValueError(message) from None
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**53:
        message = f"must be a whole number, not {shown(value)}"
        raise ValueError(message)
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _MOST_NUMBER:
        message = f"must be a number, not {shown(value)}"
        raise ValueError(message)
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        message = f"must be true or false, not {shown(value)}"
        raise ValueError(message)  # noqa: TRY004 - a wrong value like any other
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        message = f"must be a list of texts, not {shown(value)}"
        raise ValueError(message)  # noqa: TRY004 - a wrong value like any other
    return tuple(map(_text, value))


_CHECKS: dict[Kind, Callable[[object], Value]] = {
    "string": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "strings": _texts,
}
