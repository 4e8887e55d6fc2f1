"""What the parts of a load are made of: bounds of numbers, structures that refuse what they do not know, documentation."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
Count = Annotated[int, Meta(ge=1, le=2**31)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=512)]


class Misfit(ValueError):
    """A part of a load that makes no sense; `field` and `also` are as in `UsageError`, seen from that part.

    msgspec makes a `ValidationError` of it, which knows the place of the part in the whole.
    """

    def __init__(self, message: str, field: str = "", also: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.also = also


class Option(msgspec.Struct, frozen=True):
    """How a field is typed on the command line: as `name`, in a section of `--help`.

    `metavar` stands for the value in the help, which is the field's description unless `help` says it in the command line's
    own words. `default` is taken where the field itself has none.
    """

    name: str
    metavar: str | None = None
    section: Literal["load", "requests", "the run", "where and when"] = "load"
    default: int | None = None
    help: str | None = None


def doc(text: str | None, option: Option | None = None, *examples: object) -> Meta:
    """What a field means, and how it is typed."""
    return Meta(description=text, examples=[*examples] or None, extra={"option": option} if option else None)


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a load: unknown fields are refused, floats are finite."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                message = f"must be a finite number, not {value}"
                raise Misfit(message, name)
