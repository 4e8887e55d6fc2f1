"""The meaning of the bytes: OpenAI's chat and completions, as requests to write and answers to read.

Most events of a stream differ only in the text they carry. `Stream` decodes one of them as JSON and tells the connection
what surrounds its text: an event with the same beginning, the same end and no quote in between is the same JSON with
another text that is not empty, and only its time matters.
"""

from array import array
from collections.abc import Callable
from operator import sub
from typing import Any

import msgspec

from tokenstorm.errors import NOT_JSON, UsageError
from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.loadgen.prompts import Prompt, PromptSource
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.plan import Plan
from tokenstorm.result import Failure

CACHED_BYTES = 32_000_000
KEPT_TIMES = 1024
DETAIL_CHARACTERS = 300


Expect = Callable[[bytes, bytes, Callable[[int], None]], None]
"""`Connection.expect`."""


class Requests:
    """Builds the bytes of request `seq` to any replica."""

    def __init__(
        self, plan: Plan, model: str, endpoints: list[Endpoint], prompts: PromptSource, api_key: str | None
    ) -> None:
        self._plan = plan
        self._model = model
        self._api_key = api_key
        self._prompts = prompts
        self._heads = [request_head("POST", endpoint, f"/v1/{_path(plan)}", api_key) for endpoint in endpoints]
        self._heads = [head + f"x-request-id: {plan.run_id}-".encode() for head in self._heads]
        self._cache: dict[int, tuple[bytes, Prompt]] = {}
        self._room = CACHED_BYTES

    def build(self, seq: int, replica: int) -> tuple[bytes, Prompt]:
        """The whole request, and the prompt that is in it."""
        if self._prompts.cacheable:
            index = self._prompts.index_of(seq)
            if (cached := self._cache.get(index)) is None:
                cached = self._encode(self._prompts.get(seq))
                if self._room > 0:
                    self._cache[index] = cached
                    self._room -= len(cached[0])
            rest, prompt = cached
        else:
            rest, prompt = self._encode(self._prompts.get(seq))
        return b"%b%d%b" % (self._heads[replica], seq, rest), prompt

    def preflight(self, replica: int) -> bytes:
        """A first request that tries the service, outside the schedule."""
        return self._heads[replica] + b"preflight" + self._encode(self._prompts.preflight())[0]

    def redacted(self, failure: Failure) -> Failure:
        """The same without the API key: some engines repeat it in their refusals."""
        if self._api_key and self._api_key in failure.detail:
            return Failure(failure.kind, failure.detail.replace(self._api_key, "***"))
        return failure

    def _encode(self, prompt: Prompt) -> tuple[bytes, Prompt]:
        body = msgspec.json.encode(body_of(self._plan, self._model, prompt))
        return b"\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body), prompt


def request_head(method: str, endpoint: Endpoint, path: str, api_key: str | None) -> bytes:
    """Request line and headers, as far as they are the same for every request."""
    lines = [f"{method} {endpoint.path}{path} HTTP/1.1", f"host: {endpoint.authority}", "user-agent: tokenstorm"]
    if method == "POST":
        lines.append("content-type: application/json")
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable()):
            message = "the API key has characters that no header may hold: check for a newline at its end"
            raise UsageError(message)
        lines.append(f"authorization: Bearer {api_key}")
    return "\r\n".join([*lines, ""]).encode()


def body_of(plan: Plan, model: str, prompt: Prompt) -> dict[str, Any]:
    """The JSON body of one request; a null in `extra_body` takes a field out."""
    body: dict[str, Any] = {"model": model}
    if plan.endpoint == "chat":
        body["messages"] = prompt.messages or [{"role": "user", "content": prompt.text}]
    else:
        body["prompt"] = prompt.tokens if prompt.tokens is not None else prompt.text
    body["max_tokens"] = prompt.max_tokens or plan.max_tokens
    body["temperature"] = plan.temperature
    body["stream"] = plan.stream
    if plan.stream:
        body["stream_options"] = {"include_usage": True}
    if plan.ignore_eos:
        body["ignore_eos"] = True
    body.update(plan.extra_body)
    return {name: value for name, value in body.items() if value is not None}


def _path(plan: Plan) -> str:
    return "chat/completions" if plan.endpoint == "chat" else "completions"


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct, gc=False):
    id: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: str | None = None
    message: Any = None


_NOTHING = _Delta()
_decode = msgspec.json.Decoder(_Event).decode

_TEXT_FIELDS = tuple(
    f'"{name}":{space}"'.encode()
    for name in ("content", "text", "reasoning_content", "reasoning")
    for space in ("", " ")
)


class Answer:
    """What one answer said, and when (`time.monotonic_ns()`)."""

    first_chunk: int | None = None
    first_token: int | None = None
    first_content: int | None = None
    last_token: int | None = None
    chunks = 0
    coalesced = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    server_id: str | None = None
    failure: Failure | None = None
    gaps: list[int] = []  # noqa: RUF012 - that of an answer without tokens, never changed
    older_gaps: Histogram | None = None
    chunk_times: list[int] | None = None

    def receive(self, piece: bytes, at: int) -> None:
        """Take a piece of the body, read at `at`."""
        raise NotImplementedError

    def fold(self) -> None:
        """Give up memory that grows with the answer; called now and then while it goes on."""

    def finish(self, status: int) -> None:
        """The body is complete."""
        raise NotImplementedError

    def cut(self) -> None:
        """The body ends here, unfinished."""

    def _note(self, event: _Event) -> None:
        if self.server_id is None:
            self.server_id = event.id
        if event.usage is not None:
            self.prompt_tokens = event.usage.prompt_tokens
            self.output_tokens = event.usage.completion_tokens
        if event.error is not None or event.object == "error":
            self.failure = self.failure or Failure("stream_error", _words(event.error or event.message))

    def _malformed(self, what: str, data: bytes) -> None:
        self.failure = self.failure or Failure("malformed", f"{what}: {data[:DETAIL_CHARACTERS]!r}")


class Whole(Answer):
    """An answer in one piece: not streamed, or an error."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def receive(self, piece: bytes, at: int) -> None:
        if self.first_chunk is None:
            self.first_chunk = at
        self._pieces.append(piece)

    def finish(self, status: int) -> None:
        body = b"".join(self._pieces)
        try:
            event = _decode(body)
        except NOT_JSON:
            event = None
        if not 200 <= status < 300:  # noqa: PLR2004 - the successes of HTTP
            detail = _words(event.error or event.message) if event else ""
            self.failure = Failure(f"http_{status}", detail or body[:DETAIL_CHARACTERS].decode(errors="replace"))
        elif event is None:
            self._malformed("not an answer in JSON", body)
        else:
            self._note(event)
            for choice in event.choices or ():
                self.finish_reason = choice.finish_reason or self.finish_reason
            if not event.choices and event.usage is None and self.failure is None:
                self._malformed("an answer without choices", body)


class Stream(Answer):
    """An answer as server-sent events."""

    def __init__(self, expect: Expect | None = None, *, keep_times: bool = False) -> None:
        self.gaps = []
        self.chunk_times = [] if keep_times else None
        self._at = 0
        self._pending = b""
        self._data: list[bytes] = []
        self._expect = expect
        self._ended = False
        self._times = array("q")
        self._unread: list[bytes] | None = []  # all there was, until the first event shows that it is a stream

    def fold(self) -> None:
        if len(self._times) > KEPT_TIMES:
            self._count_tokens()
            self.older_gaps = self.older_gaps or Histogram()
            self.older_gaps.record_many(self.gaps)
            self.gaps.clear()

    def finish(self, status: int) -> None:
        if self._pending or self._data:  # the last event was not closed by a blank line
            self.receive(b"\n\n", self._at)
        self.cut()
        if not self._ended and self.finish_reason is None and self.output_tokens is None and self.failure is None:
            if self._unread is not None:
                self._not_a_stream(status)
            else:
                self.failure = Failure("truncated", "the stream ended without a finish reason, usage or [DONE]")

    def cut(self) -> None:
        if self._times:
            self._count_tokens()

    def _not_a_stream(self, status: int) -> None:
        whole = Whole()
        for piece in self._unread or ():
            whole.receive(piece, self._at)
        whole.finish(status)
        self.failure, self.finish_reason, self.server_id = whole.failure, whole.finish_reason, whole.server_id
        self.prompt_tokens, self.output_tokens = whole.prompt_tokens, whole.output_tokens

    def receive(self, piece: bytes, at: int) -> None:
        self._at = at
        if self.first_chunk is None:
            self.first_chunk = at
        if self._unread is not None:
            self._unread.append(piece)
        lines = (self._pending + piece).split(b"\n")
        self._pending = lines.pop()
        for line in lines:
            field = line[:-1] if line.endswith(b"\r") else line
            if field.startswith(b"data:"):
                self._data.append(field[6:] if field.startswith(b"data: ") else field[5:])
            elif not field and self._data:
                self._unread = None
                data = b"\n".join(self._data)
                self._data.clear()
                text = self._event(data)
                if text and self._expect is not None:
                    self._look_for_more(piece, text)

    def _event(self, data: bytes) -> str:
        """Take one event in; its text, where it had nothing else to say."""
        if data == b"[DONE]":
            self._ended = True
            return ""
        try:
            event = _decode(data)
        except NOT_JSON:
            self._malformed("not an event in JSON", data)
            return ""
        self._note(event)
        text = ""
        for choice in event.choices or ():
            delta = choice.delta or _NOTHING
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason
            if content := choice.text or delta.content:
                text = content
                self.first_content = self.first_content or self._at
            else:
                text = delta.reasoning_content or delta.reasoning or text
        if text:
            self._times.append(self._at)
            self.first_token = self.first_token or self._at
        return text if self.finish_reason is None and event.usage is None else ""

    def _look_for_more(self, piece: bytes, text: str) -> None:
        """Expect events like this one, if it came alone in its piece: the same bytes before and after its text."""
        if self._expect is None or self._pending or piece.count(b"data:") != 1 or not piece.startswith(b"data:"):
            return
        raw = text.encode()
        for field in _TEXT_FIELDS:
            start = piece.find(field) + len(field)
            end = start + len(raw)
            if start >= len(field) and piece[start:end] == raw and piece[end : end + 1] == b'"':
                self._expect(piece[:start], piece[end:], self._times.append)
                return

    def _count_tokens(self) -> None:
        times = self._times
        self.chunks += len(times)
        if self.chunk_times is not None:
            self.chunk_times.extend(times)
        self.gaps += self._apart(times)
        self.last_token = times[-1]
        del times[:]

    def _apart(self, times: "array[int]") -> list[int]:
        """The gaps between reads that carried tokens."""
        earlier = times if self.last_token is None else array("q", [self.last_token, *times])
        gaps = list(map(sub, earlier[1:], earlier))
        if 0 in gaps:  # events of one read
            apart = [gap for gap in gaps if gap]
            self.coalesced += len(gaps) - len(apart)
            return apart
        return gaps


def _words(error: object) -> str:
    """The engine's own words in an error object, whatever its shape."""
    if isinstance(error, dict):
        error = error.get("message") or error
    text = error if isinstance(error, str) else msgspec.json.encode(error).decode() if error is not None else ""
    return text[:DETAIL_CHARACTERS]
