"""Which request is due next, for one rank: an open loop reads it off the plan, a closed loop off the answers."""

from heapq import heapify, heappop, heappush
from typing import Protocol

from tokenstorm.loadgen.arrivals import first_sends, offsets
from tokenstorm.plan import Plan

FAILURE_PAUSE_NS = 100_000_000
"""A closed-loop client whose request failed waits at least this long, so that a dead service is not hammered."""


class Schedule(Protocol):
    """The intended sends of one rank, in order. All times are nanoseconds from the common start."""

    next_at: int | None
    """When the next request is due; None when none is known."""

    exhausted: bool
    """Whether no request will ever be due again."""

    def take(self) -> tuple[int, int]:
        """Remove the next request: its sequence number and its intended time. `next_at` must not be None."""

    def answered(self, done: int, *, failed: bool) -> None:
        """A client is free again."""


class OpenLoop:
    """Arrivals come when the plan says, whatever the answers do."""

    def __init__(self, plan: Plan, rank: int, ranks: int) -> None:
        self._arrivals = offsets(plan, rank, ranks)
        self.next_at: int | None = None
        self.exhausted = False
        self._advance()

    def take(self) -> tuple[int, int]:
        taken = self._next
        self._advance()
        return taken

    def answered(self, done: int, *, failed: bool) -> None:
        pass

    def _advance(self) -> None:
        following = next(self._arrivals, None)
        if following is None:
            self.next_at = None
            self.exhausted = True
        else:
            self._next = following
            self.next_at = following[1]


class ClosedLoop:
    """Each client sends when its last answer ended plus think time; `request_count` is shared out over the ranks."""

    def __init__(self, plan: Plan, rank: int, ranks: int) -> None:
        self._due = first_sends(plan, rank, ranks)
        heapify(self._due)
        self._seq = rank
        self._ranks = ranks
        self._think = round(plan.think_time_seconds * 1e9)
        self._window_start = plan.window_start_ns
        self._window_end = plan.window_end_ns
        self._left: int | None = None
        if plan.request_count is not None:
            self._left = plan.request_count // ranks + (rank < plan.request_count % ranks)
        self.exhausted = self._left == 0
        self.next_at: int | None = None if self.exhausted else self._due[0]

    def take(self) -> tuple[int, int]:
        at = heappop(self._due)
        seq = self._seq
        self._seq += self._ranks
        if self._left is not None and at >= self._window_start:
            self._left -= 1
            self.exhausted = self._left == 0
        self._look()
        return seq, at

    def answered(self, done: int, *, failed: bool) -> None:
        at = done + (max(self._think, FAILURE_PAUSE_NS) if failed else self._think)
        if self._window_end is None or at < self._window_end:
            heappush(self._due, at)
            self._look()

    def _look(self) -> None:
        self.next_at = self._due[0] if self._due and not self.exhausted else None


def schedule_of(plan: Plan, rank: int, ranks: int) -> Schedule:
    """The schedule of one rank."""
    return ClosedLoop(plan, rank, ranks) if plan.closed_loop else OpenLoop(plan, rank, ranks)
