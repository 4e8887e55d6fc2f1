"""When a login that failed may be tried again."""

import time
from collections.abc import Callable, Sequence

from tokenstorm.errors import Unreachable

BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds from a failed login to the next try, by the number of failures."""
REFUSED_SECONDS = (10.0, 60.0, 240.0, 600.0)
"""The same after a refusal: sites ban users who try again and again."""


class BackOff:
    """When a login may be tried again, and why the last one failed."""

    def __init__(self, seconds: Sequence[float], clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._failed = self._refused = 0
        self._not_before = 0.0
        self._why = ""

    def check(self) -> None:
        """Raises `Unreachable` while it is too early."""
        if self._clock() < self._not_before:
            raise Unreachable(self._why)

    def failed(self, why: str, *, refused: bool = False) -> Unreachable:
        """Note a failure; the error to raise."""
        count, steps = (self._refused, REFUSED_SECONDS) if refused else (self._failed, self._seconds)
        self._not_before = self._clock() + steps[min(count, len(steps) - 1)]
        self._failed += 1
        self._refused += refused
        self._why = why
        return Unreachable(why)

    def succeeded(self) -> None:
        """Forget it all."""
        self._failed = self._refused = 0
