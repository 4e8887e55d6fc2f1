"""An answer as server-sent events.

Most events of a stream differ only in the text they carry. `Stream` decodes one of them as JSON, and tells the connection
which bytes stand before and after its text. An event with the same bytes before and after, and part of a JSON string in
between, is the same event with another text: only its time is recorded.
"""

from array import array
from collections.abc import Callable
from operator import sub
from typing import Protocol

from tokenstorm.loadgen.answers import LARGEST_EVENT, Answer, Whole
from tokenstorm.loadgen.events import (
    DETAIL_CHARACTERS,
    Event,
    count_of,
    error_in,
    is_empty,
    read_event,
    refusal_in,
    says_anything,
    says_content,
)
from tokenstorm.loadgen.sse import DONE, ERROR, UNKNOWN, EventReader, Sent, data_alone
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.result import Warned

KEPT_TIMES = 1024
_TEXT_FIELDS = tuple(
    f'"{name}":{space}"'.encode()
    for name in ("content", "text", "reasoning_content", "reasoning")
    for space in ("", " ")
)


class Carrier(Protocol):
    """What an answer tells the connection that carries it; see `Connection`."""

    def expect(self, head: bytes, tail: bytes, note: Callable[[int], None]) -> None: ...

    def answered(self) -> None: ...


class Stream(Answer):
    """An answer as server-sent events.

    It is complete by `[DONE]`, by a finish reason of every choice that was seen, or by a usage in an event of its own
    after the last token.
    """

    _at = 0
    _is_done = False
    _ends_with_usage = False
    _skipped = b""
    _open = 0
    _ended = 0
    """One bit for each choice that goes on (`_open`), and for each that has ended (`_ended`)."""
    _thought = False
    _is_stream = False
    _reader: EventReader | None = None
    """Made for the first piece that is not one whole event."""
    _unread: Whole | None = None
    """What came before anything showed that it is a stream."""

    def __init__(self, carrier: Carrier | None = None, *, keep_times: bool = False, keep_text: bool = False) -> None:
        self.gaps = []
        self.said = [] if keep_text else None
        self.chunk_times = [] if keep_times else None
        self._carrier = carrier
        self._times = array("q")

    @property
    def is_complete(self) -> bool:
        """Whether what came proves that the answer is complete."""
        return self._is_done or self._ends_with_usage or (self._ended != 0 and self._open == 0)

    @property
    def pieces(self) -> int:
        return self.chunks + len(self._times)

    def fold(self) -> None:
        if len(self._times) > KEPT_TIMES:
            self._count_tokens()
            self.older_gaps = self.older_gaps or Histogram()
            self.older_gaps.record_many(self.gaps)
            self.gaps.clear()

    def receive(self, piece: bytes, at: int) -> None:
        if self._is_done:
            return
        self._at = at
        if self.first_chunk is None:
            self.first_chunk = at
        reader = self._reader
        if (reader is None or reader.is_between_events) and (data := data_alone(piece)):
            self._is_stream = True
            text = self._take(b"", data)
            if text and self._carrier is not None and self.said is None:  # of what is only timed the text is gone
                self._expect_more(self._carrier, piece, text)
        else:
            self._read(reader or EventReader(started=self._is_stream), piece)

    def _read(self, reader: EventReader, piece: bytes) -> None:
        """Take a piece that is not one whole event."""
        self._reader = reader
        reader.started |= self._is_stream
        self._take_all(reader.take(piece))
        self._is_stream = reader.started
        if not reader.started:
            self._unread = self._unread or self._new_whole()
            self._unread.receive(piece, self._at)
        if reader.held > LARGEST_EVENT or (self._unread is not None and self._unread.is_too_long):
            self._fail("malformed", f"an event of more than {LARGEST_EVENT >> 20} MiB")
            self._finish_now()

    def finish(self, status: int) -> None:
        if self._reader is not None and not self._reader.is_between_events:
            self._take_all(self._reader.end())
            self._is_stream = self._reader.started
        self.cut()
        if not self._is_stream:
            self._take_whole(self._unread or self._new_whole(), status)
            return
        if not self.is_complete:
            last = f"; the last line that is no event: {self._skipped!r}" if self._skipped else ""
            self._fail("truncated", f"the stream ended without a finish reason, usage or [DONE]{last}")
        if self.first_token is None:
            self._warn("no_token")
        self._settle(thought=self._thought)

    def cut(self) -> None:
        if self._times:
            self._count_tokens()

    def _finish_now(self) -> None:
        """The answer is complete. What may still come on its connection is not part of it."""
        self._is_done = True
        if self._carrier is not None:
            self._carrier.answered()

    def _new_whole(self) -> Whole:
        """Make what reads an answer that is no stream after all."""
        return Whole(keep_text=self.said is not None)

    def _take_whole(self, whole: Whole, status: int) -> None:
        """Read the body as one answer: the server did not stream."""
        whole.finish(status)
        self.said, self.cached_tokens = whole.said, whole.cached_tokens
        self.failure, self.finish_reason, self.server_id = whole.failure, whole.finish_reason, whole.server_id
        self.prompt_tokens, self.output_tokens = whole.prompt_tokens, whole.output_tokens
        self.hidden_tokens = whole.hidden_tokens
        self.warnings |= whole.warnings
        self._warn("not_streamed")

    def _take_all(self, events: list[Sent]) -> None:
        for kind, data in events:
            if not self._is_done:
                self._take(kind, data)

    def _fail(self, kind: str, detail: str) -> None:
        super()._fail(kind, detail)
        if kind == "stream_error":  # nothing that comes after it can mend it
            self._finish_now()

    def _take(self, kind: bytes, data: bytes) -> str:
        """Take one event. Returns its text if that is all it says, else an empty string."""
        try:
            if kind == ERROR:
                self._fail("stream_error", _error_text(data) or "an error without words")
            elif kind == UNKNOWN:
                self._take_line(data)
            elif data.startswith(b"{") or not self._says_no_json(data.strip()):
                return self._take_data(data)
        except RecursionError:
            self._malformed("an event that is nested too deep", data)
        except ValueError as error:
            self._malformed("not an event in JSON" if str(error) == "not JSON" else str(error), data)
        return ""

    def _says_no_json(self, data: bytes) -> bool:
        """Take data that is no JSON: `[DONE]`, a heartbeat, or a comment that a proxy turned into data."""
        if data == DONE:
            self._finish_now()
        elif not data or data.startswith(b":"):
            self._skip(data, "skipped")
        else:
            return False
        return True

    def _take_line(self, data: bytes) -> None:
        """Take a line that belongs to no field: an error that a proxy appended, or nothing that counts."""
        words = _error_text(data) if data.startswith(b"{") else ""
        if words and error_in(data) is not None:
            self._fail("stream_error", words)
        else:
            self._skip(data, "unknown")

    def _take_data(self, data: bytes) -> str:
        event = read_event(data)
        self._note(event, data)
        if not event.choices:
            self._take_without_choices(event, data)
            return ""
        text, said = "", False
        for choice in event.choices:
            bit = choice.bit
            if (choice.finish_reason or choice.error) and self._end(choice):
                self._ended |= bit
            self._open = (self._open | bit) & ~self._ended
            self._keep(choice)
            content = choice.text or choice.members.get("content")
            if (content and isinstance(content, str)) or says_content(choice):
                said, text = True, content if isinstance(content, str) else ""
                self.first_content = self.first_content or self._at
            elif says_anything(choice):
                said = self._thought = True
                thought = choice.members.get("reasoning_content") or choice.members.get("reasoning")
                text = thought if isinstance(thought, str) else ""
        if said:
            self._ends_with_usage = False
            self._times.append(self._at)
            self.first_token = self.first_token or self._at
        return text if self.finish_reason is None and event.usage is None else ""

    def _take_without_choices(self, event: Event, data: bytes) -> None:
        if event.usage is not None:
            self._ends_with_usage = isinstance(event.usage, dict) and _tells_a_count(event.usage)
        elif event.choices is None and self.failure is None:
            self._skip(data, "skipped" if is_empty(data) else "unknown")

    def _skip(self, data: bytes, warning: Warned) -> None:
        self._warn(warning)
        self._skipped = data[:DETAIL_CHARACTERS] or self._skipped

    def _expect_more(self, carrier: Carrier, piece: bytes, text: str) -> None:
        """Tell the connection to expect events like this one, if it came alone in its piece."""
        if piece.count(b"data:") != 1 or not piece.startswith(b"data:"):
            return
        raw = text.encode(errors="replace")
        for field in _TEXT_FIELDS:
            start = piece.find(field) + len(field)
            end = start + len(raw)
            if start >= len(field) and piece[start:end] == raw and piece[end : end + 1] == b'"':
                carrier.expect(piece[:start], piece[end:], self._times.append)
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
        """The gaps between reads that brought tokens."""
        earlier = times if self.last_token is None else array("q", [self.last_token, *times])
        gaps = list(map(sub, earlier[1:], earlier))
        if 0 in gaps:  # events of one read
            apart = [gap for gap in gaps if gap]
            self.coalesced += len(gaps) - len(apart)
            return apart
        return gaps


def _tells_a_count(usage: dict[str, object]) -> bool:
    """Whether a usage tells how much was generated."""
    return count_of(usage.get("completion_tokens")) is not None


def _error_text(data: bytes) -> str:
    """The server's words in an error, whatever its form."""
    try:
        words = error_in(data) or refusal_in(data)
    except (ValueError, RecursionError):
        words = ""
    return words or data[:DETAIL_CHARACTERS].decode(errors="replace")
