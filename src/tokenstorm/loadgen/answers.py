"""An answer of an engine: what it says, and when. `Whole` is one that comes in one piece."""

from tokenstorm.loadgen.events import (
    DETAIL_CHARACTERS,
    FIRST,
    GAVE_UP,
    Choice,
    Event,
    content_of,
    count_of,
    error_in,
    finish_of,
    read_event,
    refusal_in,
    says_anything,
    says_content,
    words_of,
)
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.result import Failure, Warned

LARGEST_EVENT = 64 * 1024 * 1024
"""A larger event, or a larger answer in one piece, fails its request."""


class Answer:
    """What one answer said, and when (`time.monotonic_ns()`)."""

    first_chunk: int | None = None
    first_token: int | None = None
    first_content: int | None = None
    last_token: int | None = None
    chunks = 0
    coalesced = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the server had in its cache, as far as it tells."""
    output_tokens: int | None = None
    reasoning_tokens = 0
    hidden_tokens: int | None = None
    """Reasoning tokens that the server counts and does not show. They are part of the output tokens."""
    finish_reason: str | None = None
    server_id: str | None = None
    failure: Failure | None = None
    warnings: frozenset[Warned] = frozenset()
    gaps: list[int] = []  # noqa: RUF012 - that of an answer without tokens, never changed
    older_gaps: Histogram | None = None
    chunk_times: list[int] | None = None
    said: list[str] | None = None
    """The text of the answer, in pieces and without reasoning; None where nobody wants it."""

    def receive(self, piece: bytes, at: int) -> None:
        """Take a piece of the body, read at `at`."""
        raise NotImplementedError

    def fold(self) -> None:
        """Free memory that grows with the answer. It is called now and then while the answer goes on."""

    def finish(self, status: int) -> None:
        """The body is complete."""
        raise NotImplementedError

    def cut(self) -> None:
        """The body ends here, incomplete."""

    @property
    def pieces(self) -> int:
        """How many pieces with text came so far."""
        return self.chunks

    def gap_quantile(self, q: float) -> int | None:
        """A quantile of the times between its reads with tokens, in nanoseconds; None where there is none."""
        histogram = Histogram()
        histogram.record_many(self.gaps)
        if self.older_gaps is not None:
            histogram.merge(self.older_gaps)
        return histogram.quantile(q)

    def learn(self, server_id: object, usage: object, finish: object) -> None:
        """Take what an answer in another form than chat's tells beside its text; None is not told. `usage` has chat's names."""
        if self.server_id is None and server_id not in (None, ""):
            self.server_id = words_of(server_id)
        if usage is not None:
            self._count(usage)
        if finish is not None:
            self._stop(finish)

    def refuse(self, words: str) -> None:
        """The server says that it failed."""
        self._fail("stream_error", words)

    def _warn(self, warning: Warned) -> None:
        self.warnings |= {warning}

    def _fail(self, kind: str, detail: str) -> None:
        self.failure = self.failure or Failure(kind, detail)

    def _malformed(self, what: str, data: bytes) -> None:
        self._fail("malformed", f"{what}: {data[:DETAIL_CHARACTERS]!r}")

    def _note(self, event: Event, data: bytes) -> None:
        if self.server_id is None and event.id not in (None, ""):
            self.server_id = words_of(event.id)
        if event.usage is not None:
            self._count(event.usage)
        if event.error or not event.choices or event.object == "error":
            words = error_in(data)
            if words is not None:
                self._fail("stream_error", words)

    def _count(self, usage: object) -> None:
        """Take the counts of a usage. What is no count is noted as a warning; earlier counts stay."""
        members = usage if isinstance(usage, dict) else {"completion_tokens": usage}
        prompt, output = members.get("prompt_tokens"), members.get("completion_tokens")
        if prompt is not None:
            self.prompt_tokens = self._counted(prompt, self.prompt_tokens)
        if output is not None:
            self.output_tokens = self._counted(output, self.output_tokens)
        details = members.get("completion_tokens_details")
        if isinstance(details, dict):
            self.reasoning_tokens = count_of(details.get("reasoning_tokens")) or self.reasoning_tokens
        details = members.get("prompt_tokens_details")
        if isinstance(details, dict) and details.get("cached_tokens") is not None:
            self.cached_tokens = self._counted(details["cached_tokens"], self.cached_tokens)

    def _counted(self, value: object, before: int | None) -> int | None:
        count = count_of(value)
        if count is None:
            self._warn("usage")
            return before
        return count

    def _end(self, choice: Choice) -> bool:
        """Take the finish reason and the error of a choice. Returns whether the choice has ended."""
        if choice.error:
            self._fail("stream_error", words_of(choice.error))
        return self._stop(choice.finish_reason)

    def _stop(self, reason: object) -> bool:
        """Take a finish reason. Returns whether it is one."""
        finish, words = finish_of(reason)
        self.finish_reason = finish or self.finish_reason
        if finish is not None and any(part in finish.lower() for part in GAVE_UP):
            self._fail("stream_error", words or f"the engine gave up with finish reason {finish!r}")
        return finish is not None

    def _keep(self, choice: Choice) -> None:
        """Keep the text of the first choice, where it is wanted."""
        if self.said is not None and choice.bit == FIRST:
            self.said.append(content_of(choice))

    def _settle(self, *, thought: bool) -> None:
        """Compare the usage with what came. `thought` tells whether reasoning was seen."""
        if self.output_tokens is not None and self.output_tokens < self.chunks:
            self._warn("usage")
        if self.output_tokens == 0 and "no_token" not in self.warnings:  # for something that came it is no count
            self._warn("usage")
            self.output_tokens = None
        if self.reasoning_tokens and not thought:
            self.hidden_tokens = self.reasoning_tokens


class Whole(Answer):
    """An answer in one piece: not streamed, or an error."""

    def __init__(self, *, keep_text: bool = False) -> None:
        self.said = [] if keep_text else None
        self._pieces: list[bytes] = []
        self._size = 0

    def receive(self, piece: bytes, at: int) -> None:
        if self.first_chunk is None:
            self.first_chunk = at
        self._size += len(piece)
        if self._size <= LARGEST_EVENT:
            self._pieces.append(piece)

    @property
    def body(self) -> bytes:
        """What came, up to `LARGEST_EVENT` bytes."""
        return b"".join(self._pieces)

    def finish(self, status: int) -> None:
        body = self.body
        if not is_success(status):
            words = refusal_in(body) or body[:DETAIL_CHARACTERS].decode(errors="replace")
            self._fail(f"http_{status}", words)
        elif self.is_too_long:
            self._malformed(f"an answer of more than {LARGEST_EVENT >> 20} MiB", body)
        else:
            try:
                self._understand(body)
            except RecursionError:
                self._malformed("an answer that is nested too deep", body)
            except ValueError as error:
                self._malformed("not an answer in JSON" if str(error) == "not JSON" else str(error), body)

    @property
    def is_too_long(self) -> bool:
        return self._size > LARGEST_EVENT

    def _understand(self, body: bytes) -> None:
        event = read_event(body)
        self._note(event, body)
        said = content = False
        for choice in event.choices or ():
            self._end(choice)
            self._keep(choice)
            content = content or says_content(choice)
            said = said or content or says_anything(choice)
        if not event.choices and event.usage is None and self.failure is None:
            self._malformed("an answer without choices", body)
        if not said:
            self._warn("no_token")
        self._settle(thought=said and not content)


def is_success(status: int) -> bool:
    """Whether this is a 2xx."""
    return 200 <= status < 300  # noqa: PLR2004 - the successes of HTTP
