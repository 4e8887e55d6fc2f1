"""Files that tokenstorm wrote, and which versions read them.

A file of another schema or major version is refused before a field of it is read. A file of a later minor version is read
when this version knows all its fields, and refused when it does not.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from tokenstorm import __version__
from tokenstorm.errors import NOT_JSON, OtherVersion, RunError, fault

SCHEMA = 1
T = TypeVar("T")
Skip = Callable[[str], None]
"""Is told, in words, of each line that cannot be read."""


class _By(msgspec.Struct):
    tokenstorm: str = ""


class _Made(msgspec.Struct):
    """What tells who wrote a file: a plan itself, a summary by its plan, a status by its environment, a line by its schema."""

    schema: int = SCHEMA
    tokenstorm: str = ""
    plan: _By | None = None
    environment: _By | None = None

    @property
    def by(self) -> str:
        """The version, as far as it is told."""
        return self.tokenstorm or next((part.tokenstorm for part in (self.plan, self.environment) if part), "")


def refuse_other_version(data: bytes, where: str) -> None:
    """Raise `OtherVersion` for JSON of another schema or major version; what is no JSON, or not ours, is left to the decoder."""
    made = _made(data)
    if made is None or (made.schema == SCHEMA and (not made.by or _major_minor(made.by)[0] == _OURS[0])):
        return
    who = f"tokenstorm {made.by}" if made.by else "another version of tokenstorm"
    message = (
        f"{where} was written for {who} (schema {made.schema}), this is {__version__} (schema {SCHEMA}): "
        "use the same major version"
    )
    raise OtherVersion(message)


def refuse_later_version(data: bytes, where: str, why: str) -> None:
    """Raise `OtherVersion` when a later minor version wrote what this one does not understand, as `why` tells."""
    made = _made(data)
    if made is not None and made.by and _major_minor(made.by) > _OURS:
        message = (
            f"{where} was written for tokenstorm {made.by}, this is {__version__}, which does not know all of "
            f"it ({why}): use {made.by} or a later version"
        )
        raise OtherVersion(message)


def decode(data: bytes, kind: type[T], where: str) -> T:
    """A whole file. Raises `OtherVersion` first, or `RunError` when it is damaged; `where` names it."""
    refuse_other_version(data, where)
    try:
        value = msgspec.json.decode(data, type=kind)
    except NOT_JSON as error:
        refuse_later_version(data, where, fault(error))
        message = f"{where} is damaged: {fault(error)}"
        raise RunError(message) from None
    if unknown := _unknown(msgspec.json.decode(data), msgspec.to_builtins(value, str_keys=True), ""):
        refuse_later_version(data, where, f"there is no field `{unknown}`")
    return value


def read_lines(path: Path, kind: type[T], skip: Skip) -> Iterator[T]:
    """The records of a file with one in each line; a line that is none, or is cut off, costs that line.

    Raises OSError, and `OtherVersion` where another version wrote the file.
    """
    decode_line = msgspec.json.Decoder(kind).decode
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                skip(f"{path.name}, line {number}: it is cut off")
                return
            try:
                value = decode_line(line)
            except NOT_JSON as error:
                if number == 1:
                    refuse_other_version(line, str(path))
                skip(f"{path.name}, line {number}: {fault(error)}")
            else:
                yield value


def _made(data: bytes) -> _Made | None:
    try:
        return msgspec.json.decode(data, type=_Made)
    except NOT_JSON:
        return None


def _unknown(given: object, known: object, path: str) -> str:
    """The first field that was given and is not known."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            where = f"{path}.{name}".lstrip(".")
            if found := where if name not in known else _unknown(value, known[name], where):
                return found
    return ""


def _major_minor(version: str) -> tuple[int, int]:
    found = re.match(r"(\d{1,9})\.(\d{1,9})\b", version)
    return (int(found[1]), int(found[2])) if found else (-1, -1)


_OURS = _major_minor(__version__)
