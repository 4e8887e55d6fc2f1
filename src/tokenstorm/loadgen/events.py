"""What one JSON object of an answer means: an event of a stream, or an answer in one piece.

Servers differ, and what differs is data. A field whose type is odd is an error only where it matters: `choices`, and what
they are made of. Numbers are bounded, and words are such that they can be written to a file.
"""

import json
from typing import Any

import msgspec

from tokenstorm.errors import NOT_JSON, fault

DETAIL_CHARACTERS = 300
MOST_CHOICES = 1024
FIRST = 1
"""The bit of the first choice."""
LARGEST_COUNT = 2**24
"""Of tokens: no context is that long. Sums of counts stay below 2⁶⁴."""
LONGEST_NUMBER = 300
"""Longer integers are read as 0: they only pass through."""

GAVE_UP = ("error", "abort", "fail", "cancel", "timeout", "insufficient")
"""A finish reason that contains one of these means that the engine gave the answer up."""
UNFINISHED = frozenset(("", "null"))
"""Finish reasons that some servers send while a choice goes on."""

_FINE = (0, 200, "0", "200", "ok", "success")
"""Codes and states that come with a message which is no error."""
_WORDS = ("message", "msg", "error_msg", "errmsg", "error_message", "detail", "reason", "faultstring", "title")
"""Members in which servers put their message."""
_CODES = ("code", "status", "status_code", "statuscode")
_LABELS = frozenset(("type", "id", "index", "role", "format", "call_id", "status"))
"""Members that describe a part. No token generated them."""
_LABELS_OF_CHOICE = _LABELS | {"name"}
_THOUGHTS = ("reason", "think", "thought", "cot")
"""Parts of the names of members that hold reasoning."""


class Choice(msgspec.Struct, gc=False):
    """One of the answers that were asked for. What `delta`, `message` and `text` hold is generated."""

    index: Any = None
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    text: Any = None
    finish_reason: Any = None
    error: Any = None

    @property
    def bit(self) -> int:
        """The bit of this choice. Numbers out of bounds share the first bit."""
        return 1 << self.index if isinstance(self.index, int) and 0 <= self.index < MOST_CHOICES else FIRST

    @property
    def members(self) -> dict[str, Any]:
        """What it says, by kind."""
        return self.delta or self.message or {}


class Event(msgspec.Struct, gc=False):
    """One JSON object; an object that is no event has none of these."""

    id: Any = None
    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None


_decode = msgspec.json.Decoder(Event).decode
_decode_any = msgspec.json.Decoder().decode


def read_event(data: bytes) -> Event:
    """Decode one JSON object; what is JSON and no object is an event that says nothing.

    Raises ValueError: it is no JSON, or a field that matters has a type that makes no sense, which is named.
    """
    try:
        return _decode(data)
    except NOT_JSON:
        pass
    value = read_json(data)
    if not isinstance(value, dict):
        return Event()
    try:
        return msgspec.convert(value, Event)
    except msgspec.ValidationError as error:
        raise ValueError(fault(error)) from None


def read_json(data: bytes) -> object:
    """Any JSON. Half of a surrogate pair, and NaN, are what Python's servers write and its clients read. Raises ValueError."""
    try:
        return _decode_any(data)
    except NOT_JSON:
        pass
    try:
        return json.loads(data.decode(), parse_int=_bounded)
    except (ValueError, RecursionError):
        message = "not JSON"
        raise ValueError(message) from None


def _bounded(digits: str) -> int:
    return int(digits) if len(digits) < LONGEST_NUMBER else 0


def says(value: object) -> bool:
    """Whether this holds anything generated: a text, parts with a text, a tool call."""
    if isinstance(value, str):
        return value != ""
    if isinstance(value, list):
        return any(map(says, value))
    if isinstance(value, dict):
        return any(says(member) for name, member in value.items() if name not in _LABELS)
    return False


def says_content(choice: Choice) -> bool:
    """Whether it says something that is not reasoning."""
    if says(choice.text):
        return True
    for name, value in choice.members.items():
        if value and name not in _LABELS_OF_CHOICE and not _is_thought(name) and says(_without_thoughts(value)):
            return True
    return False


def says_anything(choice: Choice) -> bool:
    """Whether it says something, reasoning included."""
    if says(choice.text):
        return True
    return any(value and name not in _LABELS_OF_CHOICE and says(value) for name, value in choice.members.items())


def _is_thought(name: str) -> bool:
    return any(part in name for part in _THOUGHTS)


def _without_thoughts(content: Any) -> Any:
    """The parts of a content, as Mistral sends them, without reasoning."""
    if not isinstance(content, list):
        return content
    return [part for part in content if not (isinstance(part, dict) and _is_thought(str(part.get("type"))))]


def finish_of(reason: object) -> tuple[str | None, str]:
    """A finish reason, None while the choice goes on, and the server's words where there are any.

    SGLang has an object there: {"type": "abort", "message": …}.
    """
    if isinstance(reason, dict):
        return finish_of(reason.get("type"))[0], words_of(reason.get("message"))
    if reason is None or reason is False:
        return None, ""
    text = words_of(reason)
    return (None if text in UNFINISHED else text), ""


def count_of(value: object) -> int | None:
    """A number of tokens; None for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT:
        return value
    return None


def counts_of(usage: object) -> dict[str, int]:
    """The tokens that a usage counts; 0 for what is no count."""
    members = usage if isinstance(usage, dict) else {}
    return {name: count_of(members.get(name)) or 0 for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def text_of(choice: Choice) -> str:
    """The words of an answer in one piece: its content, or its reasoning where there is no content."""
    said = (choice.text, *(choice.members.get(name) for name in ("content", "reasoning_content", "reasoning")))
    return next((words for words in said if isinstance(words, str) and words), "")


def content_of(choice: Choice) -> str:
    """The text of an answer, or of a piece of one, without reasoning: what a client says again in the next turn."""
    content = choice.members.get("content", choice.text)
    if isinstance(content, list):
        texts = [part.get("text") for part in _without_thoughts(content) if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def error_in(data: bytes) -> str | None:
    """The server's message if this object is an error, in any known shape; None if it is not. Raises ValueError for invalid JSON."""
    value = read_json(data)
    if isinstance(value, list) and value:
        value = value[0]  # Gemini puts its error into a list
    if not isinstance(value, dict):
        return None
    members = {str(name).lower(): member for name, member in value.items()}
    if any(_names_an_error(name, member) for name, member in members.items()) or _is_bad(members):
        return _best_message(members) or "an error without words"
    fine = any(members.get(code) in _FINE for code in _CODES)
    if "usage" not in members and not fine and any(isinstance(members.get(words), str) for words in _WORDS[:2]):
        return _best_message(members) or None
    return None


def is_empty(data: bytes) -> bool:
    """Whether this JSON is empty, as heartbeats are."""
    return read_json(data) in (None, {}, [], "")


def refusal_in(data: bytes) -> str:
    """The server's message in an answer with an error status; empty if there is none in the usual places."""
    try:
        value = read_json(data)
    except ValueError:
        return ""
    return words_of(value.get("error") or value.get("message")) if isinstance(value, dict) else ""


def _names_an_error(name: str, member: object) -> bool:
    if name.startswith("err") or "error" in name or "exception" in name or name == "fault":
        return member not in (None, False, 0, "", "0", [])
    return name == "detail" and bool(member)


def _is_bad(members: dict[str, Any]) -> bool:
    """Whether a state, a code or a type says that something went wrong."""
    if members.get("success") is False or members.get("ok") is False:
        return True
    for name in (*_CODES, "object", "type", "state"):
        value = members.get(name)
        if isinstance(value, str) and ("error" in value.lower() or "fail" in value.lower()):
            return True
    codes = [members.get(name) for name in _CODES]
    return any((isinstance(code, int) and code >= 400) or str(code) in _BAD_CODES for code in codes)  # noqa: PLR2004 - of HTTP


_BAD_CODES = frozenset(str(code) for code in range(400, 600))


def _best_message(members: dict[str, Any]) -> str:
    """The best message: that of the error itself, one beside it, or its code."""
    found = [words_of(member) for name, member in members.items() if _names_an_error(name, member)]
    found += [words_of(members[name]) for name in (*_WORDS, "errors", *_CODES) if members.get(name)]
    found = [words for words in found if words != "{}"]
    return next((words for words in found if not words.lstrip("-").isdigit()), found[0] if found else "")


def words_of(value: object) -> str:
    """The message in a member of any shape, fit to be written to a file."""
    if isinstance(value, dict):
        value = next((value[name] for name in _WORDS if value.get(name)), value)
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text[:DETAIL_CHARACTERS]
    return text if text.isascii() else text.encode(errors="replace").decode()
