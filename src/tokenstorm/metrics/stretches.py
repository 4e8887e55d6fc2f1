"""What was seen over time, in few stretches of equal length: from it come intervals of means and the steady part of a run."""

from collections.abc import Mapping, Sequence

import msgspec

from tokenstorm.metrics.counts import Work
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.intervals import Estimate, batch_means

MOST = 128
"""So many stretches at most; where a run is longer, each two become one."""
HISTOGRAMS = ("latency", "service_time", "ttft", "tpot", "inter_chunk")


class Stretch(msgspec.Struct):
    """Some seconds: requests and tokens that ended in them, and the sum of what waited or was in flight each second."""

    start: int
    seconds: int = 0
    backlog: int = 0
    in_flight: int = 0
    succeeded: int = 0
    output_tokens: int = 0
    histograms: dict[str, Histogram] = msgspec.field(default_factory=lambda: {name: Histogram() for name in HISTOGRAMS})

    @classmethod
    def second(
        cls, at: int, *, in_flight: int, waiting: int, work: Work, histograms: Mapping[str, Histogram]
    ) -> "Stretch":
        """One second of a run; the histograms stay the caller's own."""
        found = cls(at, 1, in_flight + waiting, in_flight, work.succeeded, work.output_tokens)
        for name in HISTOGRAMS:
            if name in histograms:
                found.histograms[name].merge(histograms[name])
        return found

    def take(self, other: "Stretch") -> None:
        """Take in what follows."""
        for name in ("seconds", "backlog", "in_flight", "succeeded", "output_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in HISTOGRAMS:
            self.histograms[name].merge(other.histograms[name])


class Stretches:
    """Adds up the seconds of a measured window. Memory does not grow with the length of the run."""

    def __init__(self) -> None:
        self._step = 1
        self._found: list[Stretch] = []
        self._newest: Stretch | None = None
        """The last second is kept apart: it may reach beyond the window's end."""

    def add(self, second: Stretch) -> None:
        """Take in the next second."""
        if self._newest is not None:
            self._put(self._newest)
        self._newest = second

    def until(self, end: float) -> list[Stretch]:
        """The stretches, all equally long, that lie before a time in seconds; what is left over at the end is left out."""
        if self._newest is not None and self._newest.start + 1 <= end:
            self._put(self._newest)
            self._newest = None
        return [one for one in self._found if one.seconds == self._step]

    def _put(self, second: Stretch) -> None:
        found = self._found
        if found and found[-1].seconds < self._step:
            found[-1].take(second)
        else:
            found.append(second)
        if len(found) > MOST:
            self._step *= 2
            joined = []
            for one, other in zip(found[::2], [*found[1::2], None], strict=False):
                if other is not None:
                    one.take(other)
                joined.append(one)
            self._found = joined


def mean_over_time(stretches: Sequence[Stretch], name: str) -> Estimate | None:
    """The mean of one of the times, in nanoseconds."""
    histograms = [one.histograms[name] for one in stretches]
    return batch_means([one.total for one in histograms], [one.count for one in histograms])


def rate_over_time(stretches: Sequence[Stretch], name: str) -> Estimate | None:
    """The rate of one of the counts, a second."""
    return batch_means([getattr(one, name) for one in stretches], [one.seconds for one in stretches])
