"""Work that is done while nothing is due: it may take as long as a few requests, and would make them late."""

import asyncio
from collections.abc import Callable
from time import monotonic_ns

from tokenstorm.loadgen.schedule import Schedule

CLOSE_NS = 4_000_000
"""Nothing is begun when an arrival falls due within this time."""


class Ahead:
    """Does one piece of `work` at a time until it says that nothing is left, as long as no arrival is close."""

    def __init__(self, work: Callable[[], bool], schedule: Schedule, started_at: int) -> None:
        self._work = work
        self._schedule = schedule
        self._started_at = started_at
        self._loop = asyncio.get_running_loop()
        self._goes_on = False

    def begin(self) -> None:
        """Go on with it between other callbacks."""
        if not self._goes_on:
            self._goes_on = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._goes_on = False
        due = self._schedule.next_at
        if (due is None or due - (monotonic_ns() - self._started_at) > CLOSE_NS) and self._work():
            self.begin()
