"""What one JSON object of an answer means: an event of a stream, or an answer in one piece.

Servers differ, and what differs is data. A field whose type is odd is an error only where it matters: `choices`, what
they hold, and nothing else. Numbers are bounded, and words are such that they can be written to a file.
"""

import json
from typing import Any

import msgspec

from tokenstorm.errors import NOT_JSON

DETAIL_CHARACTERS = 300
MOST_CHOICES = 1024
LARGEST_COUNT = 2**31
"""Of tokens: what is above it is no count, and sums of counts stay below 2⁶⁴."""

ABORTED = frozenset(("error", "abort"))
"""Finish reasons of an answer that the engine gave up."""
UNFINISHED = frozenset(("", "null"))
"""Some servers say so of a choice that goes on."""

_FINE = (0, 200, "ok", "success")
"""Codes and states that come with a message which is no error."""

_LABELS = frozenset(("type", "id", "index", "role", "format", "call_id", "status"))
"""Members of a part that say what it is: no token generated them."""


class Delta(msgspec.Struct, gc=False):
    """What a choice says: everything in it is generated, be it text or not."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    thinking: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers that were asked for."""

    index: Any = None
    delta: Delta | None = None
    message: Delta | None = None
    text: Any = None
    finish_reason: Any = None

    @property
    def bit(self) -> int:
        """Which of the answers it is, as a bit of its own; who counts beyond all bounds shares the first one."""
        return 1 << self.index if isinstance(self.index, int) and 0 <= self.index < MOST_CHOICES else 1

    @property
    def said(self) -> Delta:
        return self.delta or self.message or _SILENT


class Event(msgspec.Struct, gc=False):
    """One JSON object; an object that is no event has none of these."""

    id: Any = None
    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None
    type: Any = None
    message: Any = None
    msg: Any = None
    detail: Any = None
    errors: Any = None
    fault: Any = None
    code: Any = None
    status: Any = None


_SILENT = Delta()
_decode = msgspec.json.Decoder(Event).decode


def read_event(data: bytes) -> Event:
    """Decode one JSON object; what is JSON and no object is an event that says nothing.

    Raises ValueError: it is no JSON, or a field that matters has a type that makes no sense, which is named.
    """
    try:
        return _decode(data)
    except NOT_JSON:
        pass
    try:  # half of a surrogate pair, and NaN, are what Python's servers write and its clients read
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        message = "not JSON"
        raise ValueError(message) from None
    if not isinstance(value, dict):
        return Event()
    try:
        return msgspec.convert(value, Event)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        message = f"`{path.strip('.`')}`: {what[0].lower()}{what[1:]}"
        raise ValueError(message) from None


def says(value: object) -> bool:
    """Whether something generated is in this: a text, parts with a text, a call of a tool."""
    if isinstance(value, str):
        return value != ""
    if isinstance(value, list):
        return any(map(says, value))
    if isinstance(value, dict):
        return any(says(member) for name, member in value.items() if name not in _LABELS)
    return False


def says_content(choice: Choice) -> bool:
    """Whether it says something that is not reasoning."""
    said = choice.said
    if said.content and not isinstance(said.content, str):
        return says(_without_thoughts(said.content))
    if choice.text or said.content or said.tool_calls or said.function_call or said.refusal or said.audio:
        return any(
            map(says, (choice.text, said.content, said.tool_calls, said.function_call, said.refusal, said.audio))
        )
    return False


def says_anything(choice: Choice) -> bool:
    """Whether it says something, reasoning included."""
    said = choice.said
    if said.content or said.reasoning_content or said.reasoning or said.reasoning_details or said.thinking:
        thoughts = (said.content, said.reasoning_content, said.reasoning, said.reasoning_details, said.thinking)
        return any(map(says, thoughts)) or says_content(choice)
    return says_content(choice)


def _without_thoughts(content: object) -> object:
    """Parts of a content, as Mistral sends them, without those that are reasoning."""
    if not isinstance(content, list):
        return content
    return [part for part in content if not (isinstance(part, dict) and part.get("type") in {"thinking", "reasoning"})]


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


def error_in(event: Event) -> str | None:
    """The server's words where an object is an error, in any of the shapes that there are; None where it is none."""
    if event.error:
        return words_of(event.error) or "an error without words"
    is_named = any(isinstance(name, str) and "error" in name.lower() for name in (event.object, event.type))
    if is_named:
        return words_of(event.message or event.detail or event.msg) or "an error without words"
    if event.choices is not None or event.usage is not None:
        return None
    for words in (event.errors, event.fault, event.detail):
        if words:
            return words_of(words)
    for words in (event.message, event.msg):
        if isinstance(words, str) and words and event.code not in _FINE and event.status not in _FINE:
            return words_of(words)
    codes = [count_of(code) or 0 for code in (event.code, event.status)]
    return f"code {max(codes)}" if max(codes) >= 400 else None  # noqa: PLR2004 - the errors of HTTP


def words_of(value: object) -> str:
    """What a server says in some member of an object, whatever its shape, such that it can be written down."""
    if isinstance(value, dict):
        value = next((value[name] for name in ("message", "msg", "detail", "faultstring") if value.get(name)), value)
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text[:DETAIL_CHARACTERS]
    return text if text.isascii() else text.encode(errors="replace").decode()
