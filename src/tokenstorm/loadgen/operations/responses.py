"""OpenAI's responses: requests, and what their answers say."""

from typing import Any, Final

from tokenstorm.loadgen.events import says
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.said import Said, object_in, usage_of, words_in
from tokenstorm.plan import Plan

_PARTS: Final = {"user": "input_text", "assistant": "output_text"}
_ENDS: Final = frozenset(("response.completed", "response.incomplete", "response.failed", "response.cancelled"))
_TEXTS: Final = frozenset(
    (
        "response.output_text.delta",
        "response.refusal.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.audio.delta",
    )
)
_REASONS: Final = {"max_output_tokens": "length", "content_filter": "content_filter"}


def body(plan: Plan, model: str, prompt: Prompt) -> dict[str, Any]:
    """The fields of a request. The service is asked to keep no answer: nobody fetches one."""
    asked: dict[str, Any] = {"model": model, "input": prompt.said if prompt.messages is None else _items(prompt)}
    asked |= {"max_output_tokens": prompt.max_tokens or plan.max_tokens, "temperature": plan.temperature}
    return asked | {"stream": plan.stream, "store": False, **({"ignore_eos": True} if plan.ignore_eos else {})}


def whole(value: Any) -> Said | None:
    """An answer in one piece."""
    found = object_in(value)
    output = found.get("output")
    if not isinstance(output, list):
        return None
    items = [item for item in output if isinstance(item, dict)]
    thought = [item for item in items if item.get("type") == "reasoning"]
    spoken = [item for item in items if item.get("type") != "reasoning"]
    has_content = any(says(item.get(name)) for item in spoken for name in ("content", "arguments", "input"))
    has_thought = any(says(item.get(name)) for item in thought for name in ("content", "summary"))
    return _ended(found, said=has_content or has_thought, thought=has_thought and not has_content)


def event(value: Any) -> Said | None:
    """One event of a stream."""
    found = object_in(value)
    kind = found.get("type")
    if kind in _TEXTS:
        return Said(said=says(found.get("delta")))
    if kind in _ENDS:
        said = _ended(object_in(found.get("response")))
        said.complete = True
        return said
    if kind == "error":
        return Said(error=words_in(found.get("error") or found.get("message") or found.get("code")))
    if not isinstance(kind, str) or not kind.startswith("response."):
        return None
    if kind.startswith("response.reasoning") and kind.endswith(".delta"):
        return Said(said=says(found.get("delta")), thought=True)
    return Said(id=object_in(found.get("response")).get("id"))


def _ended(found: dict[str, Any], *, said: bool = False, thought: bool = False) -> Said:
    usage, error = object_in(found.get("usage")), found.get("error")
    counts = None
    if usage:
        reasoning = object_in(usage.get("output_tokens_details")).get("reasoning_tokens")
        counts = usage_of(usage.get("input_tokens"), usage.get("output_tokens"), reasoning=reasoning)
    status = found.get("status")
    reason = object_in(found.get("incomplete_details")).get("reason")
    finish = (
        _REASONS.get(str(reason), reason) if status == "incomplete" else "stop" if status == "completed" else status
    )
    failed = words_in(error) if error or status == "failed" else None
    return Said(said, thought, finish, counts, found.get("id"), failed)


def _items(prompt: Prompt) -> list[dict[str, Any]]:
    """Chat's messages as items: parts of a content have other names here."""
    return [
        {**message, "content": [_part(message.get("role"), part) for part in content]}
        if isinstance(content := message.get("content"), list)
        else message
        for message in prompt.messages or ()
    ]


def _part(role: object, part: object) -> object:
    found = object_in(part)
    if found.get("type") == "text":
        return {**found, "type": _PARTS.get(str(role), "input_text")}
    if found.get("type") == "image_url":
        image = found.get("image_url")
        return {"type": "input_image", "image_url": image.get("url") if isinstance(image, dict) else image}
    return part
