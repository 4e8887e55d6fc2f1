"""OpenAI's responses and Anthropic's messages: what clients send, and the answers in their forms."""

import json
from typing import Any, Final

import msgspec

from tokenstorm.httpd import Reply

from .answers import WORDS, Headers, Label
from .engine import Sequence
from .openai import ApiError, Asked, ChatRequest, Message, Part, understand
from .settings import Settings

__all__ = ["DIALECTS", "messages_error", "parse_messages", "parse_responses"]

Json = dict[str, Any]


class _Item(msgspec.Struct):
    role: str = "user"
    content: str | list[Part] = ""


class _ResponsesRequest(msgspec.Struct):
    input: str | list[_Item]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    ignore_eos: bool | None = None
    seed: int | None = None


class _MessagesRequest(msgspec.Struct):
    model: str
    messages: list[Message]
    max_tokens: int
    system: str | list[Part] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    ignore_eos: bool | None = None
    seed: int | None = None


_RESPONSES: Final = msgspec.json.Decoder(_ResponsesRequest)
_MESSAGES: Final = msgspec.json.Decoder(_MessagesRequest)


def parse_responses(body: bytes, models: tuple[str, ...], settings: Settings) -> Asked:
    """Read and check a request for a response; raises `ApiError`."""
    try:
        found = _RESPONSES.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, str(error)) from error
    if isinstance(found.input, str):
        messages = [Message("user", found.input)]
    else:
        messages = [Message(item.role, item.content) for item in found.input]
    if found.instructions:
        messages.insert(0, Message("system", found.instructions))
    return _as_chat(found, messages, found.max_output_tokens, models, settings, form="responses")


def parse_messages(body: bytes, models: tuple[str, ...], settings: Settings) -> Asked:
    """Read and check a request for a message; raises `ApiError`."""
    try:
        found = _MESSAGES.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, str(error)) from error
    messages = [*([Message("system", found.system)] if found.system else []), *found.messages]
    return _as_chat(found, messages, found.max_tokens, models, settings, form="messages")


def _as_chat(
    found: _ResponsesRequest | _MessagesRequest,
    messages: list[Message],
    max_tokens: int | None,
    models: tuple[str, ...],
    settings: Settings,
    *,
    form: str,
) -> Asked:
    request = ChatRequest(
        model=found.model,
        messages=messages,
        max_tokens=max_tokens,
        temperature=found.temperature,
        top_p=found.top_p,
        stream=found.stream,
        ignore_eos=found.ignore_eos,
        seed=found.seed,
    )
    return msgspec.structs.replace(understand(request, models, settings), form=form)


def messages_error(status: int, message: str) -> bytes:
    """The error object of Anthropic's API."""
    kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    error = {"type": kinds.get(status, "api_error"), "message": message}
    return msgspec.json.encode({"type": "error", "error": error})


class _Dialect:
    """An answer in another form than chat's: streamed event by event, or whole once its last token is there."""

    def __init__(self, asked: Asked, settings: Settings, reply: Reply, label: Label, sequence: Sequence) -> None:
        self._asked = asked
        self._reply = reply
        self._label = label
        self._headers: Headers = ()
        self._events = 0
        self._reasoning = min(settings.reasoning_tokens, sequence.output_tokens)
        self.sequence = sequence

    def start(self, headers: Headers) -> None:
        self._headers = headers
        if self._asked.stream:
            self._reply.start(200, headers=headers)
            self._send(*self._opening())

    def token(self) -> None:
        if not self._asked.stream:
            if self.sequence.done:
                self._reply.send(200, msgspec.json.encode(self._whole()), headers=self._headers)
            return
        number = self.sequence.produced
        self._send(self._piece(self._word(number), thought=number <= self._reasoning))
        if self.sequence.done:
            self._send(*self._closing())
            self._reply.end(b"")

    def break_off(self) -> None:
        if self._asked.stream:
            self._reply.write(b'event: broken\ndata: {"type":"broken","delta":"conte\n\n')
            if self.sequence.done:
                self._reply.end(b"")
        elif self.sequence.done:
            body = msgspec.json.encode(self._whole())
            self._reply.send(200, body[: len(body) // 2], headers=self._headers)

    def _word(self, number: int) -> str:
        return WORDS[(self._label.first_word + number) % len(WORDS)].decode()

    def _said(self, *, thought: bool) -> str:
        numbers = range(1, self.sequence.produced + 1)
        return "".join(self._word(number) for number in numbers if (number <= self._reasoning) == thought)

    def _send(self, *events: Json) -> None:
        lines = []
        for event in events:
            lines.append(
                f"event: {event['type']}\ndata: {json.dumps(self._numbered(event), separators=(',', ':'))}\n\n"
            )
            self._events += 1
        self._reply.write("".join(lines).encode())

    def _numbered(self, event: Json) -> Json:
        return event

    def _opening(self) -> list[Json]:
        raise NotImplementedError

    def _piece(self, word: str, *, thought: bool) -> Json:
        raise NotImplementedError

    def _closing(self) -> list[Json]:
        raise NotImplementedError

    def _whole(self) -> Json:
        raise NotImplementedError


class _Response(_Dialect):
    """As vLLM sends it: one message, its text in one part."""

    def _numbered(self, event: Json) -> Json:
        return {**event, "sequence_number": self._events}

    def _opening(self) -> list[Json]:
        begun = self._response("in_progress", [])
        item = self._item("in_progress", [])
        part = {"type": "output_text", "text": "", "annotations": []}
        place = {"output_index": 0}
        return [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
            {"type": "response.output_item.added", **place, "item": item},
            {"type": "response.content_part.added", **place, "content_index": 0, "item_id": item["id"], "part": part},
        ]

    def _piece(self, word: str, *, thought: bool) -> Json:
        kind = "response.reasoning_text.delta" if thought else "response.output_text.delta"
        place = {"item_id": f"msg_{self._label.name}", "output_index": 0, "content_index": 0}
        return {"type": kind, **place, "delta": word}

    def _closing(self) -> list[Json]:
        text = self._said(thought=False)
        place = {"item_id": f"msg_{self._label.name}", "output_index": 0, "content_index": 0}
        response = self._whole()
        return [
            {"type": "response.output_text.done", **place, "text": text},
            {"type": "response.content_part.done", **place, "part": response["output"][-1]["content"][0]},
            {"type": "response.output_item.done", "output_index": 0, "item": response["output"][-1]},
            {"type": f"response.{response['status']}", "response": response},
        ]

    def _whole(self) -> Json:
        text = {"type": "output_text", "text": self._said(thought=False), "annotations": []}
        thought = self._said(thought=True)
        reasoning = [{"type": "reasoning_text", "text": thought}]
        items = [{"id": f"rs_{self._label.name}", "type": "reasoning", "summary": [], "content": reasoning}]
        output = [*(items if thought else ()), self._item("completed", [text])]
        is_short = self.sequence.finish_reason == "length"
        return self._response("incomplete" if is_short else "completed", output)

    def _item(self, status: str, content: list[Json]) -> Json:
        name = f"msg_{self._label.name}"
        return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self, status: str, output: list[Json]) -> Json:
        usage = {
            "input_tokens": self._asked.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.sequence.produced,
            "output_tokens_details": {"reasoning_tokens": min(self._reasoning, self.sequence.produced)},
            "total_tokens": self._asked.prompt_tokens + self.sequence.produced,
        }
        return {
            "id": f"resp_{self._label.name}",
            "object": "response",
            "created_at": self._label.created,
            "status": status,
            "model": self._label.model,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": output,
            "usage": None if status == "in_progress" else usage,
        }


class _Message(_Dialect):
    """As Anthropic sends it: a block of thinking where there is any, and a block of text."""

    def _opening(self) -> list[Json]:
        message = {**self._message([], None), "usage": {"input_tokens": self._asked.prompt_tokens, "output_tokens": 0}}
        return [{"type": "message_start", "message": message}, *([] if self._reasoning else [self._block()])]

    def _piece(self, word: str, *, thought: bool) -> Json:
        delta = {"type": "thinking_delta", "thinking": word} if thought else {"type": "text_delta", "text": word}
        return {"type": "content_block_delta", "index": 0 if thought or not self._reasoning else 1, "delta": delta}

    def _closing(self) -> list[Json]:
        return [
            {"type": "content_block_stop", "index": 1 if self._reasoning else 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": self._reason, "stop_sequence": None},
                "usage": {"input_tokens": self._asked.prompt_tokens, "output_tokens": self.sequence.produced},
            },
            {"type": "message_stop"},
        ]

    def _whole(self) -> Json:
        thought = self._said(thought=True)
        content = [*([{"type": "thinking", "thinking": thought, "signature": ""}] if thought else [])]
        return self._message([*content, {"type": "text", "text": self._said(thought=False)}], self._reason)

    @property
    def _reason(self) -> str:
        return "max_tokens" if self.sequence.finish_reason == "length" else "end_turn"

    @staticmethod
    def _block() -> Json:
        return {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}

    def _message(self, content: list[Json], reason: str | None) -> Json:
        return {
            "id": f"msg_{self._label.name}",
            "type": "message",
            "role": "assistant",
            "model": self._label.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {"input_tokens": self._asked.prompt_tokens, "output_tokens": self.sequence.produced},
        }


DIALECTS: Final[dict[str, type[_Dialect]]] = {"responses": _Response, "messages": _Message}
"""What answers in each form."""
