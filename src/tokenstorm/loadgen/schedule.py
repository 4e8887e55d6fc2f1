"""Which request is due next, for one rank: an open loop reads it off the plan, a closed loop off the answers."""

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Protocol

from tokenstorm.loadgen.arrivals import first_sends, offsets
from tokenstorm.plan import Plan

FAILURE_PAUSE_NS = 100_000_000
"""A closed-loop client whose request failed waits at least this long, so that a dead service is not hammered."""


class Schedule(Protocol):
    """The intended sends of one rank, in order. All times are nanoseconds from the common start."""

    next_at: int | None
    """When the next request falls due; None when none is known."""

    exhausted: bool
    """Whether no request will ever fall due again."""

    @property
    def waiting(self) -> int:
        """How many are due and not taken."""

    def fall_due(self) -> None:
        """The next request waits from now on. `next_at` must not be None."""

    def take(self) -> tuple[int, int]:
        """Remove the earliest request that waits: its sequence number and its intended time."""

    def answered(self, done: int, *, failed: bool) -> None:
        """A client is free again."""


class OpenLoop:
    """Arrivals come when the plan says, whatever the answers do.

    The schedule is read twice: by what falls due, and by what is sent. So a backlog costs no memory, however long.
    """

    def __init__(self, plan: Plan, rank: int, ranks: int) -> None:
        self._due = offsets(plan, rank, ranks)
        self._sends = offsets(plan, rank, ranks)
        self.waiting = 0
        self._advance()

    def fall_due(self) -> None:
        self.waiting += 1
        self._advance()

    def take(self) -> tuple[int, int]:
        self.waiting -= 1
        return next(self._sends)

    def answered(self, done: int, *, failed: bool) -> None:
        pass

    def _advance(self) -> None:
        following = next(self._due, None)
        self.exhausted = following is None
        self.next_at: int | None = None if following is None else following[1]


class ClosedLoop:
    """Each client sends when its last answer ended plus think time; `request_count` is shared out over the ranks."""

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
        self._look()

    @property
    def waiting(self) -> int:
        return len(self._due)

    def fall_due(self) -> None:
        at = heappop(self._coming)
        self._due.append(at)
        if self._left is not None and at >= self._window_start:
            self._left -= 1
            self.exhausted = self._left == 0
        self._look()

    def take(self) -> tuple[int, int]:
        seq = self._seq
        self._seq += self._ranks
        return seq, self._due.popleft()

    def answered(self, done: int, *, failed: bool) -> None:
        at = done + (max(self._think, FAILURE_PAUSE_NS) if failed else self._think)
        if self._window_end is None or at < self._window_end:
            heappush(self._coming, at)
            self._look()

    def _look(self) -> None:
        self.next_at: int | None = self._coming[0] if self._coming and not self.exhausted else None


def schedule_of(plan: Plan, rank: int, ranks: int) -> Schedule:
    """The schedule of one rank."""
    return ClosedLoop(plan, rank, ranks) if plan.closed_loop else OpenLoop(plan, rank, ranks)
