"""Streams as servers send them, and how they are read."""

import json
from typing import Any

from tokenstorm.loadgen.stream import Stream


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices,
        **more,
    }


def sse(*events: object, newline: str = "\n", spaced: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    bodies = [event if isinstance(event, str) else json.dumps(event, separators=separators) for event in events]
    return "".join(f"data: {body}{newline}{newline}" for body in bodies).encode()


def read(*pieces: bytes) -> Stream:
    """A stream whose pieces come 10 apart, from 1000 on."""
    stream = Stream()
    for number, piece in enumerate(pieces):
        stream.receive(piece, 1000 + 10 * number)
    stream.finish(200)
    return stream


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
