"""OpenAI's chat and completions: requests. Their answers are read by `Stream` and `Whole`."""

from typing import Any

from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.plan import Plan


def chat(plan: Plan, model: str, prompt: Prompt) -> dict[str, Any]:
    """The fields of a request for the next message."""
    said = prompt.dialogue or prompt.messages or [{"role": "user", "content": prompt.said}]
    return _generating(plan, {"model": model, "messages": said}, prompt)


def complete(plan: Plan, model: str, prompt: Prompt) -> dict[str, Any]:
    """The fields of a request for what follows a text, or token ids."""
    asked = prompt.tokens if prompt.tokens is not None else prompt.said
    return _generating(plan, {"model": model, "prompt": asked}, prompt)


def streaming(*, stream: bool) -> dict[str, Any]:
    """How the answer is to come."""
    return {"stream": stream} | ({"stream_options": {"include_usage": True}} if stream else {})


def _generating(plan: Plan, asked: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    asked["max_tokens"] = prompt.max_tokens or plan.max_tokens
    asked["temperature"] = plan.temperature
    asked |= streaming(stream=plan.stream)
    if plan.ignore_eos:
        asked["ignore_eos"] = True
    return asked
