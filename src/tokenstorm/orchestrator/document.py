"""YAML that remembers its lines: what is wrong in a file is named with the place."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tokenstorm.errors import UsageError
from tokenstorm.timelimit import minutes_between

Where = tuple[str | int, ...]
"""The way to a value: keys and positions, from the top of the file."""

_DEEPEST = 20
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


class _Loader(yaml.SafeLoader):
    """YAML without YAML 1.1's surprises: `12:00:00`, `010`, `0x10`, `1_000`, `yes` and `on` are text.

    PyYAML alone reads the first as 43200, by base 60, and the second as 8.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as PyYAML declares it


for _tag, _pattern, _first in (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _NUMBER, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(rf"(?:{_pattern.pattern})\Z"), _first)


class RecipeError(UsageError):
    """A recipe file that is wrong; the message begins with the file and the line."""


@dataclass(frozen=True)
class Document:
    """A file's content as plain values, and the line of each."""

    file: str
    value: object
    lines: Mapping[Where, int]

    def wrong(self, where: Where, message: str) -> RecipeError:
        """The error for one place of the file, or for the nearest one around it that is written down."""
        known = next(where[:length] for length in range(len(where), -1, -1) if where[:length] in self.lines)
        return RecipeError(f"{self.file}, line {self.lines[known]}: {message}")


@dataclass(frozen=True)
class Section:
    """A mapping of a document, whose values are read with the type they must have."""

    document: Document
    where: Where
    values: Mapping[str, object]

    def section(self, key: str, known: Collection[str] | None = None, required: Collection[str] = ()) -> "Section":
        """A mapping below this one; empty if it is not there."""
        return section(self.document, (*self.where, key), self.values.get(key, {}), known, required)

    def text(self, key: str, default: str = "") -> str:
        """Text without a NUL character."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or "\0" in value:
            raise wrong(self, key, f"must be text, not {value!r}: put it in quotes")
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise wrong(self, key, f"must be true or false, not {value!r}")
        return value

    def integer(self, key: str, default: int, *, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise wrong(self, key, f"must be a whole number from {least} to {most}, not {value!r}")
        return value

    def minutes(self, key: str, default: int, *, least: int, most: int) -> int:
        """A time limit within bounds."""
        try:
            return minutes_between(self.values.get(key, default), least, most)
        except ValueError as error:
            raise wrong(self, key, str(error)) from None

    def number(self, key: str, default: float, *, least: float, most: float) -> float:
        """A finite number within bounds."""
        value = self.values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise wrong(self, key, f"must be a number from {least:g} to {most:g}, not {value!r}")
        return value

    def bound(self, key: str) -> float | None:
        """A finite number, or None if it is not there."""
        value = self.values.get(key)
        if value is not None and (
            not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value)
        ):
            raise wrong(self, key, f"must be a number, not {value!r}")
        return value

    def sequence(self, key: str) -> list[object]:
        """A list that is not empty."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value:
            raise wrong(self, key, "must be a list that is not empty")
        return value

    def matching(self, key: str, pattern: str, like: str) -> str:
        """Text of a certain form."""
        value = self.text(key)
        if not re.fullmatch(pattern, value):
            raise wrong(self, key, f"must look like {like}, not {value!r}")
        return value


def wrong(part: Section, key: str, message: str) -> RecipeError:
    """The error for one key of a section."""
    name = ".".join(map(str, (*part.where, key)))
    return part.document.wrong((*part.where, key), f"`{name}` {message}")


def section(
    document: Document, where: Where, value: object, known: Collection[str] | None, required: Collection[str] = ()
) -> Section:
    """Any mapping of a document as a section. `known` are the keys it may have, None for any."""
    name = ".".join(map(str, where)) or "a recipe"
    if not isinstance(value, dict):
        raise document.wrong(where, f"`{name}` must be a mapping of keys to values, not {value!r}")
    for key in value:
        if known is not None and key not in known:
            raise document.wrong((*where, key), f"`{key}` is no key of `{name}`: there are {', '.join(sorted(known))}")
    for key in required:
        if key not in value:
            raise document.wrong(where, f"`{name}` lacks the key `{key}`")
    return Section(document, where, value)


def read_document(path: Path) -> Document:
    """Raises RecipeError, with file and line, for what is no YAML or more than plain values."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}"
        raise RecipeError(message) from None
    except UnicodeDecodeError:
        message = f"{path}: is not UTF-8 text"
        raise RecipeError(message) from None
    return parse_document(text, str(path))


def parse_document(text: str, file: str) -> Document:
    """As `read_document`, from text."""
    lines: dict[Where, int] = {(): 1}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = None if node is None else _plain(loader, node, (), lines, file)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.context, error.problem) if part)
        message = f"{file}, line {mark.line + 1 if mark else 1}: {words}"
        raise RecipeError(message) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"{file}, line {line}: the character U+{error.character:04X} may not be in YAML"
        raise RecipeError(message) from None
    return Document(file, value, lines)


def _plain(loader: yaml.SafeLoader, node: yaml.Node, where: Where, lines: dict[Where, int], file: str) -> object:
    line = node.start_mark.line + 1
    lines.setdefault(where, line)
    if len(where) > _DEEPEST:
        message = f"{file}, line {line}: is nested too deeply"
        raise RecipeError(message)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*where, number), lines, file) for number, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            place = f"{file}, line {key_node.start_mark.line + 1}"
            if key_node.tag != "tag:yaml.org,2002:str":
                message = f"{place}: a key must be text, not {key!r}: put it in quotes"
                raise RecipeError(message)
            if key in found:
                message = f"{place}: the key `{key}` is there twice"
                raise RecipeError(message)
            lines[(*where, key)] = key_node.start_mark.line + 1
            found[key] = _plain(loader, value_node, (*where, key), lines, file)
        return found
    if node.tag == f"{_TAG}int" and not _INTEGER.fullmatch(node.value):
        message = f"{file}, line {line}: {node.value!r} is no plain integer: write decimal digits, and no more"
        raise RecipeError(message)
    try:
        value: object = loader.construct_object(node)
    except ValueError as error:
        message = f"{file}, line {line}: {error}"
        raise RecipeError(message) from None
    return value
