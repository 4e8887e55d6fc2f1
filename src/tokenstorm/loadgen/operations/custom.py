"""Requests of a user's own: their bodies, from a template, and their answers, read by JSON pointers."""

from collections.abc import Callable
from typing import Any

import msgspec

from tokenstorm.custom import PLACEHOLDER, Custom, Reading
from tokenstorm.loadgen.events import says, words_of
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.said import Read, Said, usage_of
from tokenstorm.plan import Plan


class _Missing:
    """Nothing is at that place."""


_NOTHING = _Missing()


def body(plan: Plan, model: str, prompt: Prompt) -> Any:
    """The JSON of a request."""
    assert plan.custom is not None, "the plan is checked"
    given: dict[str, Any] = {
        **(prompt.fields or {}),
        "model": model,
        "prompt": prompt.said,
        "messages": prompt.messages,
        "tokens": prompt.tokens,
        "max_tokens": prompt.max_tokens or plan.max_tokens,
        "temperature": plan.temperature,
        "stream": plan.streams,
    }
    return _filled(plan.custom.body, given)


def reader(answer: Reading) -> Read:
    """What reads an answer of that form, in one piece or an event of it."""
    places = {
        name: _compiled(pointer)
        for name in ("text", "thought", "finish", "done", "prompt_tokens", "output_tokens", "id", "error")
        if (pointer := getattr(answer, name)) is not None
    }

    def read(value: Any) -> Said | None:
        found = {name: at for name, place in places.items() if (at := place(value)) not in (_NOTHING, None)}
        if error := found.get("error"):
            return Said(error=words_of(error))
        if places.keys() - {"error"} and not found:
            return None
        spoken, thought = says(found.get("text")), says(found.get("thought"))
        usage = None
        if "prompt_tokens" in found or "output_tokens" in found:
            usage = usage_of(found.get("prompt_tokens"), found.get("output_tokens"))
        return Said(
            said=spoken or thought,
            thought=thought and not spoken,
            finish=found.get("finish"),
            usage=usage,
            id=found.get("id"),
            complete=bool(found.get("done")),
        )

    return read


def whole_reader(answer: Reading) -> Read:
    """The same for an answer in one piece, which has to have all that is required."""
    read, required = reader(answer), [_compiled(pointer) for pointer in answer.required]

    def read_whole(value: Any) -> Said | None:
        said = read(value)
        has_all = all(place(value) is not _NOTHING for place in required)
        if said is None and required and has_all:
            return Said()
        return said if has_all or (said is not None and said.error is not None) else None

    return read_whole


def what(custom: Custom) -> str:
    """What an answer holds, in words."""
    answer = custom.answer
    return ", ".join(answer.required or (answer.text or "",)) or "what its pointers name"


def _filled(value: Any, given: dict[str, Any]) -> Any:
    if isinstance(value, str):
        if (alone := PLACEHOLDER.fullmatch(value)) and alone[1]:
            return given.get(alone[1])
        return PLACEHOLDER.sub(lambda found: _in_text(found[0], given.get(found[1] or "")), value)
    if isinstance(value, dict):
        return {name: _filled(member, given) for name, member in value.items()}
    return [_filled(member, given) for member in value] if isinstance(value, list) else value


def _in_text(found: str, value: Any) -> str:
    if found in {"{{", "}}"}:
        return found[0]
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _compiled(pointer: str) -> Callable[[Any], Any]:
    """What looks up a place; `_NOTHING` where there is none."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]

    def look(value: Any) -> Any:
        for step in steps:
            if isinstance(value, dict) and step in value:
                value = value[step]
            elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                return _NOTHING
        return value

    return look
