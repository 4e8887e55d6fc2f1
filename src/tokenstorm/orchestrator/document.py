"""YAML that remembers its lines: what is wrong in a file is named with the place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tokenstorm.errors import UsageError

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

    def wrong(self, where: Where, message: str, name: str = "") -> RecipeError:
        """The error for a place of the file, with the line of that or of the nearest one around it that is written down.

        The place is called by its keys, unless it has a `name`.
        """
        known = next(where[:length] for length in range(len(where), -1, -1) if where[:length] in self.lines)
        name = name or ".".join(map(str, where)) or "a recipe"
        return RecipeError(f"{self.file}, line {self.lines[known]}: `{name}` {message}")


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
