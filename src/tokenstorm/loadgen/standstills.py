"""When a rank's event loop stood still: what fell due meanwhile waited for the load generator."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from tokenstorm.metrics.tally import STALL_SECONDS

STALL_NS = round(STALL_SECONDS * 1e9)


class Standstills:
    """The standstills of a run that were longer than `STALL_SECONDS`. All times are nanoseconds from the common start."""

    def __init__(self, now: int) -> None:
        self._looked = now
        self._edges: list[int] = []
        """Where each began and ended, in turn."""

    def forget(self, now: int) -> None:
        """Leave out what was before `now`."""
        self._looked = now

    def look(self, now: int, due: int) -> None:
        """Note that the loop turns at `now`. If it had turned all the time, it would have done something at `due`."""
        since = max(self._looked, due)
        self._looked = now
        if now - since > STALL_NS:
            self._edges += since, now

    def hold(self, at: int) -> bool:
        """Whether the loop stood still at this moment."""
        return bisect_right(self._edges, at) % 2 == 1

    def parts(self, cuts: Iterable[int], end: int | None) -> Iterator[tuple[int | None, bool]]:
        """The time up to `end`, cut at `cuts` and at each edge of a standstill: a part's end, and whether it is in one."""
        for edge in sorted({*cuts, *self._edges}):
            if end is not None and edge >= end:
                break
            yield edge, self.hold(edge - 1)
        yield end, end is not None and self.hold(end - 1)
