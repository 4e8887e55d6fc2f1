"""Runs an engine in real time."""

import math
from collections.abc import Callable
from typing import Protocol

from .engine import Engine, Sequence
from .metrics import Metrics

__all__ = ["Driver"]

CATCH_UP_NS = 50_000_000


class Later(Protocol):
    """Calls `callback(end)` after a delay in seconds: an event loop's `call_later`."""

    def __call__(self, delay: float, callback: Callable[[int], None], end: int, /) -> object: ...


class Driver:
    """Starts and ends the engine's steps at their absolute times.

    Event loops fire timers up to a millisecond off. A step never ends early, and the next one
    begins where the last one should have ended, so that a late timer shortens the next step
    instead of slowing the engine down. Only when the process is late by more than 50 ms is the
    time given up, and counted in `simulator_late_seconds_total`. Time is in integer nanoseconds.
    """

    def __init__(self, engine: Engine, metrics: Metrics, clock: Callable[[], int], later: Later) -> None:
        self._engine = engine
        self._metrics = metrics
        self._clock = clock
        self._later = later
        self._end: int | None = None  # of the present step; None while there is no work

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; its `on_token` is called for each of its tokens."""
        now = self._clock()
        self._engine.submit(sequence, now)
        if self._end is None:
            self._begin(now)

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence whose client has left."""
        self._engine.abort(sequence)

    def _begin(self, start: int) -> None:
        self._end = self._engine.start_step(start)
        if self._end is not None:
            self._arm(self._end)

    def _arm(self, end: int) -> None:
        remaining = max(end - self._clock(), 0)
        # Whole milliseconds upwards: uvloop rounds to the nearest, which may be too early.
        self._later(math.ceil(remaining / 1e6) / 1e3, self._tick, end)

    def _tick(self, end: int) -> None:
        now = self._clock()
        if now < end:
            self._arm(end)
            return
        start = end
        if now - end > CATCH_UP_NS:
            start = now
            self._metrics.late_seconds += (now - end) / 1e9
        try:
            for sequence in self._engine.finish_step(now):
                sequence.on_token()
        finally:
            self._begin(start)
