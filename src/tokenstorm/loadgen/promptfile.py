"""A file of prompts: text with a prompt a line, or JSON lines with ours. Its name is believed where the content leaves doubt."""

import json
import re
import reprlib
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenstorm.errors import NOT_JSON, PlanError, fault
from tokenstorm.loadgen.formats import binary_format, is_json_line, named_format, record_format, text_format
from tokenstorm.strict import Count

_READ: Final = (
    "what is read is UTF-8 text with a prompt a line, or JSON lines with `prompt` or `messages`, "
    "and a table or JSON with a column `prompt`, or with one that is named (--column prompt=NAME)"
)
_LINE: Final = "a line is an object with `prompt` or `messages`, and `max_tokens`; or with `query` and `documents`"
_CARRIAGE_RETURN_ALONE = re.compile(r"\r(?!\r*(?:\n|\Z))")
_SHOWN = 8
"""So many unknown keys are named."""
_PEEKED = 10
"""So many lines are looked at where the first one does not tell whether they are JSON."""


class Prompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One prompt, as text, chat messages or token ids; `index` is its number in the list or file, if it is from one.

    A text that was composed for a request is JSON already: `composed`. `asked` is how many tokens it was meant to have.
    A `body` is a whole request, sent as it is; `fields` are what else its record holds, for a request of one's own. `texts` go with the text: the documents of a query, more inputs of embeddings.
    `dialogue` are chat messages that are JSON already: a conversation so far.
    """

    index: int | None = None
    text: str | None = None
    composed: msgspec.Raw | None = None
    messages: list[dict[str, Any]] | None = None
    tokens: list[int] | None = None
    max_tokens: int | None = None
    asked: int | None = None
    body: dict[str, Any] | None = None
    dialogue: msgspec.Raw | None = None
    texts: list[str | msgspec.Raw | list[int]] | None = None
    fields: dict[str, Any] | None = None

    @property
    def said(self) -> str | msgspec.Raw | None:
        """The text, be it JSON already or not."""
        return self.text if self.composed is None else self.composed


def read_file(path: Path) -> bytes:
    """The content of a file of prompts. Raises `PlanError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot read the prompts in {path}: {error.strerror} (it must be readable where the ranks run)"
        raise PlanError(message) from None


def parse_prompts(data: bytes, where: str) -> list[Prompt]:
    """The prompts of a file; `where` names it. Raises `PlanError` that says what it is instead, or which line is wrong.

    Lines end at line feeds alone: other breaks, such as U+2028, may stand in a prompt. Blank lines are left out.
    """
    text = decoded(data, where)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        message = f"{where} holds no prompt: write one a line"
        raise PlanError(message)
    if not is_json_line(lines[0][1]):
        named_text = where.lower().endswith((".txt", ".text"))
        if found := text_format(text.lstrip(), [line for _, line in lines], named_text=named_text):
            message = f"{where} is {found}: {_READ}"
            raise PlanError(message)
        if found := named_format(where):
            message = f"{where} is {found}, by its name: {_READ}; name it `.txt` if it is text"
            raise PlanError(message)
        if not _is_meant_as_json(lines, where):
            return _parse_text(lines, where)
    return [_parse_json(where, number, line, index) for index, (number, line) in enumerate(lines)]


def decoded(data: bytes, where: str) -> str:
    if found := binary_format(data):
        message = f"{where} is {found}: {_READ}"
        raise PlanError(message)
    try:
        text = data.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        bad = error.object.count(b"\n", 0, error.start) + 1
        message = f"{where}, line {bad}: not UTF-8 text ({error.reason}): save the file as UTF-8"
        raise PlanError(message) from None
    if (at := text.find("\0")) >= 0:
        message = f"{where}, line {_line_at(text, at)}: it holds a NUL, as binary files and UTF-16 do: {_READ}"
        raise PlanError(message)
    if alone := _CARRIAGE_RETURN_ALONE.search(text):
        number = _line_at(text, alone.start())
        message = f"{where}, line {number}: it holds a carriage return alone (CR): end lines with LF or CRLF"
        raise PlanError(message)
    return text


def _line_at(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _is_meant_as_json(lines: Sequence[tuple[int, str]], where: str) -> bool:
    """Whether the first line of JSON lines is broken, or a file of that name holds something else."""
    if where.lower().endswith((".jsonl", ".ndjson", ".json")):
        return True
    return lines[0][1].lstrip().startswith('{"') and any(is_json_line(line) for _, line in lines[1:_PEEKED])


def _parse_text(lines: Sequence[tuple[int, str]], where: str) -> list[Prompt]:
    for number, line in lines:
        if is_json_line(line) and ('"prompt"' in line or '"messages"' in line):
            message = f"{where}, line {number}: it is JSON, but line {lines[0][0]} is text: {_READ}"
            raise PlanError(message)
    return [Prompt(index=index, text=line.strip()) for index, (_, line) in enumerate(lines)]


def _parse_json(where: str, number: int, line: str, index: int) -> Prompt:
    try:
        found: object = json.loads(line, object_pairs_hook=once)
        parsed = _decode(line, found)
    except _Wrong as error:
        message = f"{where}, line {number}: {error}"
        raise PlanError(message) from None
    except (*NOT_JSON, ValueError) as error:
        what = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        message = f"{where}, line {number}: it is not JSON: {what} ({_LINE})"
        raise PlanError(message) from None
    text = parsed.prompt if parsed.query is None else parsed.query
    texts: list[str | msgspec.Raw | list[int]] | None = None if parsed.documents is None else [*parsed.documents]
    return Prompt(index=index, text=text, messages=parsed.messages, max_tokens=parsed.max_tokens, texts=texts)


class _Wrong(ValueError):
    """JSON that is no line of prompts."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: Count | None = None
    query: str | None = None
    documents: list[str] | None = None

    def __post_init__(self) -> None:
        if self.query is not None or self.documents is not None:
            self._check_pairs()
            return
        if (self.prompt is None) == (self.messages is None) or not (self.prompt or self.messages):
            message = "give a `prompt` or `messages`, one of them and not empty"
            raise ValueError(message)
        if self.prompt is not None and not self.prompt.strip():
            message = "its `prompt` is blank"
            raise ValueError(message)
        if self.messages is not None and all(_is_blank(message.get("content")) for message in self.messages):
            message = "its `messages` are blank"
            raise ValueError(message)

    def _check_pairs(self) -> None:
        if not (self.query or "").strip() or not self.documents or not all(text.strip() for text in self.documents):
            message = "a `query` and its `documents` belong together, none of them blank"
            raise ValueError(message)
        if self.prompt is not None or self.messages is not None or self.max_tokens is not None:
            message = "a `query` with `documents` has no `prompt`, `messages` or `max_tokens`"
            raise ValueError(message)


def _is_blank(content: object) -> bool:
    """Whether a message's content is nothing but white space, in parts or in one."""
    if isinstance(content, list):
        return all(isinstance(part, dict) and _is_blank(part.get("text")) for part in content)
    return isinstance(content, str) and not content.strip()


def _decode(line: str, found: object) -> _Line:
    """The line, whose JSON is `found`. Raises `_Wrong` that tells of keys that are none of ours what they look like."""
    try:
        return msgspec.json.decode(line, type=_Line)
    except msgspec.ValidationError as error:
        unknown = sorted(found.keys() - set(_Line.__struct_fields__)) if isinstance(found, dict) else []
        if not unknown or not isinstance(found, dict):
            message = f"{fault(error)} ({_LINE})"
            raise _Wrong(message) from None
    kind = record_format(found)
    looks = f"this looks like {kind}, which is not read: " if kind else ""
    message = f"there is no field {', '.join(map(reprlib.repr, unknown[:_SHOWN]))}: {looks}{_LINE}"
    raise _Wrong(message)


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        message = f"the key {twice!r} is there twice: leave one out"
        raise _Wrong(message)
    return found
