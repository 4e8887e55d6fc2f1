"""Anthropic's messages: requests, and what their answers say."""

import re
from collections.abc import Callable
from typing import Any, Final

from tokenstorm.loadgen.events import count_of, says
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.said import Said, object_in, usage_of, words_in
from tokenstorm.plan import Plan

HEADERS: Final = {"anthropic-version": "2023-06-01"}
_TEXTS: Final = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
_CACHED: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")
_DATA_URL: Final = re.compile(r"data:([\w/+.-]+);base64,(.*)", re.DOTALL)


def body(plan: Plan, model: str, prompt: Prompt) -> dict[str, Any]:
    """The fields of a request. What a system says stands beside the messages."""
    asked: dict[str, Any] = {"model": model, "max_tokens": prompt.max_tokens or plan.max_tokens}
    if prompt.messages is None:
        asked["messages"] = [{"role": "user", "content": prompt.said}]
    else:
        system = [message.get("content") for message in prompt.messages if _is_system(message)]
        asked["messages"] = [_message(message) for message in prompt.messages if not _is_system(message)]
        if system:
            asked["system"] = system[0] if len(system) == 1 else [part for one in system for part in _blocks(one)]
    asked |= {"temperature": plan.temperature, "stream": plan.stream}
    return asked | ({"ignore_eos": True} if plan.ignore_eos else {})


def whole(value: Any) -> Said | None:
    """An answer in one piece."""
    found = object_in(value)
    if found.get("type") == "error":
        return Said(error=words_in(found.get("error")))
    content = found.get("content")
    if not isinstance(content, list):
        return None
    blocks = [block for block in content if isinstance(block, dict)]
    spoken = any(says(block.get("text")) or block.get("type") == "tool_use" for block in blocks)
    thought = any(says(block.get("thinking")) for block in blocks)
    return Said(
        said=spoken or thought,
        thought=thought and not spoken,
        finish=found.get("stop_reason"),
        usage=_counts(found.get("usage")),
        id=found.get("id"),
    )


def event(value: Any) -> Said | None:
    """One event of a stream."""
    found = object_in(value)
    read = _EVENTS.get(str(found.get("type")))
    return None if read is None else read(found)


def _delta(found: dict[str, Any]) -> Said:
    delta = object_in(found.get("delta"))
    kind = str(delta.get("type"))
    return Said(said=says(delta.get(_TEXTS.get(kind, ""))), thought=kind == "thinking_delta")


def _started(found: dict[str, Any]) -> Said:
    """What the first event says about output tokens is no count yet."""
    message = object_in(found.get("message"))
    counts = _counts(message.get("usage"))
    return Said(id=message.get("id"), usage=counts and {**counts, "completion_tokens": None})


def _stopping(found: dict[str, Any]) -> Said:
    return Said(finish=object_in(found.get("delta")).get("stop_reason"), usage=_counts(found.get("usage")))


_EVENTS: Final[dict[str, Callable[[dict[str, Any]], Said]]] = {
    "content_block_delta": _delta,
    "message_start": _started,
    "message_delta": _stopping,
    "message_stop": lambda _: Said(complete=True),
    "error": lambda found: Said(error=words_in(found.get("error"))),
    **dict.fromkeys(("ping", "content_block_start", "content_block_stop"), lambda _: Said()),
}


def _counts(usage: object) -> dict[str, Any] | None:
    """The counts of a usage: what came from a cache is not among the `input_tokens`."""
    found = object_in(usage)
    if not found:
        return None
    prompt = found.get("input_tokens")
    if (count := count_of(prompt)) is not None:
        prompt = count + sum(count_of(found.get(name)) or 0 for name in _CACHED)
    return usage_of(prompt, found.get("output_tokens"))


def _is_system(message: dict[str, Any]) -> bool:
    return message.get("role") in {"system", "developer"}


def _blocks(content: object) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [_block(part) for part in content]} if isinstance(content, list) else message


def _block(part: object) -> object:
    """A part of a content as Anthropic has it: images are the ones that differ."""
    found = object_in(part)
    if found.get("type") != "image_url":
        return part
    image = found.get("image_url")
    url = str(image.get("url") if isinstance(image, dict) else image)
    if inline := _DATA_URL.fullmatch(url):
        return {"type": "image", "source": {"type": "base64", "media_type": inline[1], "data": inline[2]}}
    return {"type": "image", "source": {"type": "url", "url": url}}
