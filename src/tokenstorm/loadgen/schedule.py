"""Which request is due next, for one rank: an open loop reads it off the plan, a closed loop off the answers."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from math import lcm
from typing import NamedTuple, Protocol

from tokenstorm.loadgen.arrivals import constant_times, first_sends, offsets, recorded_offsets, seqs_before
from tokenstorm.plan import Plan
from tokenstorm.result import Result, Turn

FAILURE_PAUSE_NS = 100_000_000
"""A closed-loop client whose request failed waits at least this long, so that a dead service is not hammered."""


ALONE = 1000
"""This many unsent arrivals of a rank have a line each. Further ones are recorded in stretches."""
AT_ONCE = 2000
"""The most arrivals of a stretch whose gaps are drawn: the loop must go on in between."""


class Arrivals(NamedTuple):
    """Arrivals of one replica, a `stride` of sequence numbers apart: the first one's number, and the first and last times.

    `turn` is that of the first one, where they are turns of conversations.
    """

    seq: int
    stride: int
    size: int
    first: int
    last: int
    turn: Turn | None = None


class Schedule(Protocol):
    """The intended sends of one rank, in order. All times are nanoseconds from the common start."""

    next_at: int | None
    """When the next request falls due; None when none is known."""

    exhausted: bool
    """Whether no request will ever fall due again."""

    follows_answers: bool
    """Whether an answer may let a request fall due."""

    @property
    def waiting(self) -> int:
        """How many are due and not taken."""

    def fall_due(self) -> int:
        """The next request waits from now on; its intended time. `next_at` must not be None."""

    def take(self) -> tuple[int, int]:
        """Remove the earliest request that waits: its sequence number and its intended time."""

    def rest(self, before: int | None) -> Iterator[Arrivals]:
        """Remove all that was not taken and falls due before a moment, whether it waits by now or not.

        Nothing is taken one by one after that.
        """

    def lane(self, seq: int) -> int:
        """The number by which a request that was taken gets its replica."""

    def ended(self, line: Result, said: Sequence[str] | None) -> Result:
        """A request that was taken has ended: its line, with what the schedule knows of it. `said` is the answer, where it is kept."""

    def answered(self, done: int, *, failed: bool) -> None:
        """A client is free again."""


class OpenLoop:
    """Arrivals come when the plan says, whatever the answers do.

    The schedule is read twice: by what falls due, and by what is sent. So a backlog costs no memory, however long.
    """

    follows_answers = False

    def __init__(self, plan: Plan, rank: int, ranks: int, times: Sequence[int] | None = None) -> None:
        self._plan = plan
        self._stripe = rank, ranks
        self._due, self._sends = (
            offsets(plan, rank, ranks) if times is None else recorded_offsets(plan, times, rank, ranks)
            for _ in range(2)
        )
        self._ahead: tuple[int, int] | None = None
        self._alone = ALONE
        self._reached: int | None = None
        self.waiting = 0
        self.next_at: int | None = None
        self.exhausted = False
        self._advance()

    def fall_due(self) -> int:
        assert self.next_at is not None
        at = self.next_at
        self.waiting += 1
        self._advance()
        return at

    def take(self) -> tuple[int, int]:
        self.waiting -= 1
        return next(self._sends)

    def rest(self, before: int | None) -> Iterator[Arrivals]:
        self.waiting = 0
        while self._alone and (found := self._next(before, 1)):
            self._alone -= 1
            ((seq, at),) = found
            yield Arrivals(seq, self._stripe[1], 1, at, at)
        if self._alone:
            return
        if self._plan.arrival.kind == "constant":
            yield from self._computed(before)
            return
        while found := self._next(before, AT_ONCE):
            seqs = range(found[0][0], found[-1][0] + 1, self._stripe[1])
            yield from self._stretches(seqs, dict(found).__getitem__)

    def lane(self, seq: int) -> int:
        return seq

    def ended(self, line: Result, said: Sequence[str] | None) -> Result:
        return line

    def answered(self, done: int, *, failed: bool) -> None:
        pass

    def _computed(self, before: int | None) -> Iterator[Arrivals]:
        """The rest of constant arrivals, computed and not drawn, however many there are."""
        if self._reached is None and (found := self._next(None, 1)):
            self._reached = found[0][0]
        if self._reached is not None:
            until = seqs_before(self._plan, *self._stripe, before)
            seqs = range(self._reached, until.stop, until.step)
            self._reached += len(seqs) * seqs.step
            yield from self._stretches(seqs, constant_times(self._plan))

    def _next(self, before: int | None, most: int) -> list[tuple[int, int]]:
        """The next arrivals before a moment, as they are drawn."""
        found: list[tuple[int, int]] = []
        while len(found) < most:
            arrival = self._ahead or next(self._sends, None)
            self._ahead = None
            if arrival is None:
                break
            if before is not None and arrival[1] >= before:
                self._ahead = arrival
                break
            found.append(arrival)
        return found

    def _stretches(self, seqs: range, at: Callable[[int], int]) -> Iterator[Arrivals]:
        """One for each replica that they would have gone to."""
        turns = lcm(seqs.step, len(self._plan.targets)) // seqs.step
        for part in (seqs[turn::turns] for turn in range(min(turns, len(seqs)))):
            yield Arrivals(part[0], part.step, len(part), at(part[0]), at(part[-1]))

    def _advance(self) -> None:
        following = next(self._due, None)
        self.exhausted = following is None
        self.next_at = None if following is None else following[1]


class ClosedLoop:
    """Each client sends when its last answer ended plus think time; `request_count` is shared out over the ranks."""

    follows_answers = True

    def __init__(self, plan: Plan, rank: int, ranks: int) -> None:
        self._coming = first_sends(plan, rank, ranks)
        heapify(self._coming)
        self._due: deque[int] = deque()
        self._seq = rank
        self._ranks = ranks
        self._think = round(plan.think_time_seconds * 1e9)
        self._window_start = plan.window_start_ns
        self._window_end = plan.window_end_ns
        self._left: int | None = None
        if plan.request_count is not None:
            self._left = plan.request_count // ranks + (rank < plan.request_count % ranks)
        self.exhausted = self._left == 0
        self.next_at: int | None = None
        self._set_next()

    @property
    def waiting(self) -> int:
        return len(self._due)

    def fall_due(self) -> int:
        at = heappop(self._coming)
        self._due.append(at)
        if self._left is not None and at >= self._window_start:
            self._left -= 1
            self.exhausted = self._left == 0
        self._set_next()
        return at

    def take(self) -> tuple[int, int]:
        seq = self._seq
        self._seq += self._ranks
        return seq, self._due.popleft()

    def rest(self, before: int | None) -> Iterator[Arrivals]:
        """Each client has one at most."""
        while self._due or self.next_at is not None:
            if not self._due:
                self.fall_due()
            if before is not None and self._due[0] >= before:
                return
            seq, at = self.take()
            yield Arrivals(seq, self._ranks, 1, at, at)

    def lane(self, seq: int) -> int:
        return seq

    def ended(self, line: Result, said: Sequence[str] | None) -> Result:
        return line

    def answered(self, done: int, *, failed: bool) -> None:
        at = done + (max(self._think, FAILURE_PAUSE_NS) if failed else self._think)
        if self._window_end is None or at < self._window_end:
            heappush(self._coming, at)
            self._set_next()

    def _set_next(self) -> None:
        self.next_at = self._coming[0] if self._coming and not self.exhausted else None


def schedule_of(plan: Plan, rank: int, ranks: int, times: Sequence[int] | None = None) -> Schedule:
    """The schedule of one rank; `times` are those of all arrivals, where a trace gives them."""
    return ClosedLoop(plan, rank, ranks) if plan.closed_loop else OpenLoop(plan, rank, ranks, times)
