"""What a rank's process costs: its CPU time, and its garbage collections."""

from time import monotonic_ns, process_time_ns
from typing import NamedTuple


class Pauses:
    """Counts and times the garbage collections of this process; a callback for `gc.callbacks`."""

    def __init__(self) -> None:
        self.count = 0
        self.total_ns = 0
        self.longest_ns = 0
        self._since = 0

    def __call__(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._since = monotonic_ns()
        else:
            took = monotonic_ns() - self._since
            self.count += 1
            self.total_ns += took
            self.longest_ns = max(self.longest_ns, took)

    def take_longest(self) -> int:
        """The longest pause since the last call, in nanoseconds."""
        longest, self.longest_ns = self.longest_ns, 0
        return longest


class Spent(NamedTuple):
    """CPU time of this process, and time on the clock, in nanoseconds."""

    cpu: int
    wall: int

    @property
    def share(self) -> float:
        """The CPU time as a share of one core."""
        return self.cpu / max(1, self.wall)


class Meter:
    """Measures what this process spends from `start` on: `sending` until nothing is sent any more, `whole` until the end."""

    def __init__(self) -> None:
        self.sending = self.whole = Spent(0, 0)
        self._start = self._looked = Spent(0, 0)

    def start(self) -> None:
        """Begin to measure."""
        self._start = self._looked = Spent(process_time_ns(), monotonic_ns())

    def stop_sending(self) -> None:
        """Nothing is sent any more."""
        self.sending = self._spent_since(self._start)

    def stop(self) -> None:
        """The rank is at its end."""
        self.whole = self._spent_since(self._start)

    def take_share(self) -> float:
        """The share of one core since the last call, or since the start."""
        spent = self._spent_since(self._looked)
        self._looked = Spent(self._looked.cpu + spent.cpu, self._looked.wall + spent.wall)
        return spent.share

    def _spent_since(self, earlier: Spent) -> Spent:
        return Spent(process_time_ns() - earlier.cpu, monotonic_ns() - earlier.wall)
