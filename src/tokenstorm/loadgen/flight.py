"""One request of the schedule in flight, and its result line."""

from typing import Literal, Protocol

from msgspec.structs import replace

from tokenstorm.load_parts import Slo
from tokenstorm.loadgen.answers import Answer
from tokenstorm.loadgen.http import Connection, Exchange, Receive
from tokenstorm.loadgen.impatience import Counting, Watch
from tokenstorm.loadgen.stream import Carrier
from tokenstorm.metrics.goodput import is_good
from tokenstorm.result import SCHEMA, Failure, Result

FOLD_TURNS = 20
FOLDED_AT_LEAST = 16


class Sender(Protocol):
    """The sender of a request, which learns how it ended; see `Rank`."""

    def answer_for(self, status: int, carrier: Carrier | None, /) -> Answer: ...

    def ended(self, flight: "Flight") -> None: ...


class Flight(Exchange):
    """One request of the schedule in flight. `scheduled` and `slot_free` are nanoseconds from the common start."""

    answer: Answer | None = None
    deadline: int
    watch: Watch | None = None
    """Of a request that may be given up: sees what comes."""

    def __init__(self, sender: Sender, seq: int, scheduled: int, slot_free: int, replica: int) -> None:
        self.sender = sender
        self.seq = seq
        self.scheduled = scheduled
        self.slot_free = slot_free
        self.replica = replica
        self.prompt: int | None = None
        self.asked: int | None = None
        self.prompt_asked: int | None = None
        self.model: str | None = None

    def began(self, status: int) -> Receive:
        carrier = self.carrier if isinstance(self.carrier, Connection) else None
        if self.watch is None:
            self.answer = self.sender.answer_for(status, carrier)
            return self.answer.receive
        self.answer = self.sender.answer_for(status, carrier and Counting(carrier))
        return self.watch(self.answer, self.answer.receive)

    def ended(self) -> None:
        self.sender.ended(self)

    @property
    def said(self) -> list[str] | None:
        """What was answered, in pieces, where it is kept."""
        return None if self.answer is None else self.answer.said

    def line(
        self,
        answer: Answer,
        failure: Failure | None,
        *,
        ignore_eos: bool,
        rank: int,
        replica: str,
        phase: Literal["warmup", "measured"],
        start: int,
    ) -> Result:
        """The result line; `start` is the common start, in nanoseconds of this machine's monotonic clock."""
        connected, done = self.connected, self.done
        chunk, token, content, last = answer.first_chunk, answer.first_token, answer.first_content, answer.last_token
        usage, warnings = answer.output_tokens, answer.warnings
        if usage is not None and self.asked is not None and usage > self.asked:
            usage, warnings = None, warnings | {"usage"}
        if ignore_eos and failure is None and self.asked is not None and _is_short(answer, self.asked):
            warnings |= {"short"}
        return Result(  # by position: for so many names Python makes a dict at each call, which trebles its time
            SCHEMA,
            self.seq,
            rank,
            replica,
            phase,
            self.scheduled,
            self.slot_free,
            self.sent - start,
            None if connected is None else connected - start,
            None if chunk is None else chunk - start,
            None if token is None else token - start,
            None if content is None else content - start,
            None if last is None else last - start,
            None if done is None else done - start,
            answer.chunks,
            answer.coalesced,
            answer.prompt_tokens,
            (answer.chunks or None) if usage is None else usage,
            "usage" if usage is not None else "chunks" if answer.chunks else None,
            self.resent,
            self.status,
            answer.finish_reason,
            answer.server_id,
            failure,
            self.prompt,
            answer.chunk_times and [time - start for time in answer.chunk_times],
            sorted(warnings) or None,
            hidden_tokens=answer.hidden_tokens,
            prompt_asked=self.prompt_asked,
            model=self.model,
            cached_tokens=answer.cached_tokens,
        )


def judged(line: Result, slo: Slo, answer: Answer | None) -> Result:
    """The line with the word on whether the request met its objectives."""
    p99 = answer.gap_quantile(0.99) if answer and slo.inter_chunk_p99_seconds else None
    return replace(line, good=is_good(line, slo, p99))


class Folds:
    """Folds the answers in flight, a few at a time, so that long ones stay small."""

    def __init__(self) -> None:
        self._left: list[Flight] = []
        self._at_once = 0

    def fold_some(self, in_flight: dict[int, Flight]) -> None:
        """Fold the next few. Within `FOLD_TURNS` calls every answer in flight has its turn."""
        if not self._left:
            self._left = list(in_flight.values())
            self._at_once = max(FOLDED_AT_LEAST, len(self._left) // FOLD_TURNS + 1)
        for flight in self._left[-self._at_once :]:
            if flight.answer is not None:
                flight.answer.fold()
        del self._left[-self._at_once :]


def _is_short(answer: Answer, asked: int) -> bool:
    """Whether an answer has fewer tokens than `ignore_eos` promised. A chunk may hold several tokens."""
    if answer.output_tokens is not None:
        return answer.output_tokens < asked
    return answer.finish_reason == "stop" and answer.chunks < asked
