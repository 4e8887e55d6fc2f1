"""A mergeable log-linear histogram of integer nanoseconds, with at most 1% relative error."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from itertools import accumulate
from math import ceil
from typing import Annotated, Self

import msgspec
from msgspec import Meta

_BITS = 7
_EXACT = 1 << _BITS
"""Values below are exact; above, 64 bins to each doubling: the middle of a bin is at most 0.8% off."""
_MOST_BINS = 1 << 14
"""Far more than any time needs: the last bin holds values of 261 bits."""


class Histogram(msgspec.Struct):
    """Counts by bin, the exact sum and extremes. Values are nanoseconds, and not negative.

    It is the form on the wire and in files, too. As msgpack it holds a sum below 2⁶⁴ ns (584 years), as JSON any.
    """

    counts: dict[Annotated[int, Meta(ge=0, lt=_MOST_BINS)], int] = {}
    count: int = 0
    total: int = 0
    minimum: int | None = None
    maximum: int | None = None

    def record(self, value: int) -> None:
        """Take in one value."""
        self.record_many([value])

    def record_many(self, values: list[int]) -> None:
        """Take in many values. Raises ValueError for a negative one."""
        if not values:
            return
        low, high = min(values), max(values)
        if low < 0:
            message = f"a duration cannot be negative: {low} ns"
            raise ValueError(message)
        same = low == high  # lengths that are fixed, waits of 0
        bins = Counter(
            [
                value if value < _EXACT else (value >> (shift := value.bit_length() - _BITS)) + (shift << (_BITS - 1))
                for value in (values[:1] if same else values)
            ]
        )
        counts = self.counts
        for index, number in bins.items():
            counts[index] = counts.get(index, 0) + (len(values) if same else number)
        self.count += len(values)
        self.total += sum(values)
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def merge(self, other: Self) -> None:
        """Add another histogram to this one."""
        counts = self.counts
        for index, number in other.counts.items():
            counts[index] = counts.get(index, 0) + number
        self.count += other.count
        self.total += other.total
        if other.minimum is not None and other.maximum is not None:
            self.minimum = other.minimum if self.minimum is None else min(self.minimum, other.minimum)
            self.maximum = other.maximum if self.maximum is None else max(self.maximum, other.maximum)

    @property
    def adds_up(self) -> bool:
        """Whether its parts agree. Those of a damaged file may not."""
        if self.minimum is None or self.maximum is None:
            return not (self.count or self.total or self.counts)
        return (
            self.count == sum(self.counts.values())
            and min(self.counts.values(), default=0) > 0
            and 0 <= self.minimum * self.count <= self.total <= self.maximum * self.count
        )

    def quantile(self, q: float) -> int | None:
        """The value that a share `q` of the samples does not exceed (nearest rank); None without samples."""
        return self.at_rank(max(1, ceil(Fraction(repr(q)) * self.count)))  # 0.55 of 100 are 55, in floats 56

    def at_rank(self, wanted: int) -> int | None:
        """The value of the sample with this number, counted from the least, which is 1; None without samples."""
        if self.minimum is None or self.maximum is None:
            return None
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= wanted:
                return min(max(_middle(index), self.minimum), self.maximum)
        return self.maximum

    def mean(self) -> float | None:
        """The exact mean; None without samples."""
        return self.total / self.count if self.count else None

    def counts_at_most(self, bounds: Iterable[int]) -> list[int]:
        """For each bound, how many samples lie in bins whose middle does not exceed it."""
        indexes = sorted(self.counts)
        middles = [_middle(index) for index in indexes]
        below = [0, *accumulate(self.counts[index] for index in indexes)]
        return [below[bisect_right(middles, bound)] for bound in bounds]

    def values(self) -> list[tuple[int, int]]:
        """Value and count of each bin, from the lowest: its middle, within the extremes."""
        low, high = self.minimum or 0, self.maximum or 0
        return [(min(max(_middle(index), low), high), self.counts[index]) for index in sorted(self.counts)]


def _middle(index: int) -> int:
    if index < _EXACT:
        return index
    shift = (index >> (_BITS - 1)) - 1
    low = (index - (shift << (_BITS - 1))) << shift
    return low + (1 << shift >> 1)
