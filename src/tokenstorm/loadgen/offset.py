"""How this machine's monotonic clock stands to the launcher's."""

from collections import deque
from time import monotonic_ns

from tokenstorm.loadgen.messages import Tell

EXCHANGES_KEPT = 32
"""Clocks drift: what was exchanged longer ago than so many seconds does not count."""


class Clock:
    """What to add to this machine's monotonic clock to get the launcher's.

    The fastest way there and the fastest way back count, of the last exchanges; they need not be of the same exchange.
    Delays that vary hurt far less than in the fastest round trip.
    """

    def __init__(self, *, same_machine: bool) -> None:
        self._same_machine = same_machine
        self._heard: deque[tuple[int, int]] = deque(maxlen=EXCHANGES_KEPT)

    def learn(self, tell: Tell) -> None:
        """Take in the launcher's answer."""
        self._heard.append((tell.now - tell.sent, monotonic_ns() - tell.now))

    def read(self) -> tuple[int, int]:
        """The offset and the round trip in nanoseconds; both 0 on the launcher's machine."""
        if self._same_machine:
            return 0, 0
        there, back = (min(ways) for ways in zip(*self._heard, strict=True))
        return (there - back) // 2, there + back
