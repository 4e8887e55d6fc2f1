"""How sure a number is: intervals of means, shares and percentiles, and whether two numbers really differ.

Requests that follow one another are not independent: a queue that was long stays long for a while. So no interval here
pools requests: what is resampled or averaged are stretches of time, or whole runs.
"""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise
from math import inf, sqrt
from random import Random
from statistics import fmean, stdev, variance

import msgspec

from tokenstorm.metrics.distributions import beta_quantile, binomial_at_most, t_quantile, t_two_sided

LEVEL = 0.95
BOUND_LEVEL = 0.99
"""The confidence of the upper bound of a percentile: LoadGen's."""
BATCHES = 16
"""A series is cut into this many batches, each longer than what its neighbours have in common; fewer tell too little of the spread."""
LEAST_BATCHES = 8
RESAMPLES = 400
"""Enough for the spread of what is drawn, which is all that is used of it."""


class Interval(msgspec.Struct, frozen=True):
    """From `low` to `high`: made so that a share `level` of such intervals hold the true value."""

    low: float
    high: float
    level: float
    method: str


class Estimate(msgspec.Struct, frozen=True):
    """A number with its standard error, and the degrees of freedom with which that is known."""

    value: float
    error: float
    df: float
    method: str

    def interval(self, level: float = LEVEL) -> Interval:
        """Student's t interval."""
        half = self.error and t_quantile((1 + level) / 2, self.df) * self.error
        return Interval(self.value - half, self.value + half, level, self.method)


def share_lower_bound(good: int, of: int, confidence: float = LEVEL) -> float:
    """The lower confidence bound of a share, after `good` of `of` requests; 0 without any.

    Jeffreys' bound. One-sided it is close to what it claims at every size, where Wilson's is off to one side (Cai 2005), and
    Clopper and Pearson's is so careful that a search would need far longer runs for the same answer.
    """
    if good <= 0:
        return 0.0
    return beta_quantile(1 - confidence, good + 0.5, of - good + 0.5)


def of_runs(values: Sequence[float]) -> Estimate | None:
    """The mean of a number over runs, by Student's t; None for fewer than two runs."""
    n = len(values)
    if n < 2:  # noqa: PLR2004 - a spread needs two
        return None
    return Estimate(fmean(values), stdev(values) / sqrt(n), n - 1, f"t over {n} runs")


def batch_means(sums: Sequence[float], counts: Sequence[float], batches: int = BATCHES) -> Estimate | None:
    """The mean of what `sums` and `counts` add up to, stretch after stretch in time; None for too short a series.

    Batches may hold different numbers of samples: it is a ratio, and its error comes from how each batch's sum departs
    from what its count lets expect. The rate of events is the same, with seconds as counts.
    """
    total, count = sum(sums), sum(counts)
    batches = min(batches, len(sums))
    if batches < LEAST_BATCHES or not count:
        return None
    mean = total / count
    apart = [s - mean * c for s, c in zip(_grouped(sums, batches), _grouped(counts, batches), strict=True)]
    error = sqrt(batches * variance(apart, 0.0)) / count
    return Estimate(mean, error, batches - 1, f"means of {batches} batches")


def _grouped(values: Sequence[float], groups: int) -> list[float]:
    return [sum(values[slice(*edges)]) for edges in edges_of(len(values), groups)]


def edges_of(length: int, groups: int) -> list[tuple[int, int]]:
    """Where each of `groups` groups of neighbours begins and ends, as equal as they can be."""
    cuts = [length * place // groups for place in range(groups + 1)]
    return list(pairwise(cuts))


def block_bootstrap(
    blocks: Sequence[Sequence[int]], values: Sequence[float], quantiles: Sequence[float], *, seed: int
) -> list[Estimate] | None:
    """Quantiles of a distribution over time, each with its error, by drawing blocks of time anew; None for too few blocks.

    `blocks` has for each block of time how many samples have each of the `values`, which rise. Whole blocks are drawn, so what
    holds requests together inside a block stays together.
    """
    number = len(blocks)
    if number < LEAST_BATCHES or not any(map(sum, blocks)):
        return None
    draw, drawn = Random(seed), list[list[float]]()
    while len(drawn) < RESAMPLES:
        if found := _quantiles(draw.choices(blocks, k=number), values, quantiles):
            drawn.append(found)
    told = _quantiles(blocks, values, quantiles) or []
    more = sqrt(number / (number - 1))  # drawing from so few blocks shows a little less than their spread
    method = f"bootstrap of {number} blocks of time"
    return [
        Estimate(value, more * stdev(column), number - 1, method)
        for value, column in zip(told, zip(*drawn, strict=True), strict=True)
    ]


def _quantiles(
    blocks: Sequence[Sequence[int]], values: Sequence[float], quantiles: Sequence[float]
) -> list[float] | None:
    seen = list(accumulate(map(sum, zip(*blocks, strict=True))))
    if not seen or not seen[-1]:
        return None
    return [values[_first_at(seen, quantile * seen[-1])] for quantile in quantiles]


def _first_at(seen: Sequence[int], wanted: float) -> int:
    """The first place at which so many were seen."""
    low, high = 0, len(seen) - 1
    while low < high:
        middle = (low + high) // 2
        if seen[middle] >= wanted - 1e-9:
            high = middle
        else:
            low = middle + 1
    return low


class Difference(msgspec.Struct, frozen=True):
    """Of two estimates, how far the second is above the first: `ratio` is its share of the first, with its interval.

    `p` is how likely so great a difference is where there is none. `ratio` and its interval are None where the first is 0.
    """

    value: float
    ci: Interval
    ratio: float | None
    ratio_ci: Interval | None
    p: float


def difference(first: Estimate, second: Estimate, level: float = LEVEL) -> Difference:
    """Welch's test: the two need not spread alike."""
    apart = _apart(first.error, first.df, second.error, second.df, second.value - first.value)
    ratio = ratio_ci = None
    if first.value:
        times = second.value / first.value
        scaled = (times * first.error / first.value, second.error / first.value)
        relative = _apart(scaled[0], first.df, scaled[1], second.df, times - 1)
        ratio, ratio_ci = times - 1, relative.interval(level)
    p = t_two_sided(apart.value / apart.error, apart.df) if apart.error else 1.0 if not apart.value else 0.0
    return Difference(apart.value, apart.interval(level), ratio, ratio_ci, p)


def _apart(error: float, df: float, other_error: float, other_df: float, value: float) -> Estimate:
    one, other = error**2, other_error**2
    if not one + other:
        return Estimate(value, 0.0, inf, "Welch")
    return Estimate(value, sqrt(one + other), (one + other) ** 2 / (one**2 / df + other**2 / other_df), "Welch")


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p values, made larger for how many there are (Holm's correction), in the same order."""
    corrected, least, number = [0.0] * len(p_values), 0.0, len(p_values)
    for place, index in enumerate(sorted(range(number), key=p_values.__getitem__)):
        least = max(least, min(1.0, (number - place) * p_values[index]))
        corrected[index] = least
    return corrected


@cache
def samples_needed(quantile: float) -> int:
    """The fewest samples with which a percentile has an upper bound."""
    low, high = 2, round(20 / (1 - quantile))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if samples_beyond(middle, quantile) else (middle + 1, high)
    return low


@cache
def samples_beyond(count: int, quantile: float, confidence: float = BOUND_LEVEL) -> int | None:
    """How many of the longest of `count` samples to leave out, so that the longest that is left is an upper bound of the percentile.

    LoadGen's early stopping: the bound is element `count - t` of the sorted samples, counted from 0, where t is what is returned.
    It holds with `confidence` if samples are independent; None where there are too few samples for any.
    """

    def fits(t: int) -> bool:
        return binomial_at_most(t, count, 1 - quantile) < 1 - confidence

    if count < 2 or not fits(1):  # noqa: PLR2004 - the bound leaves out one at least
        return None
    low, high = 1, int(count * (1 - quantile)) + 2  # so unlikely is only what lies below the mean
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
