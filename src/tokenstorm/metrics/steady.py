"""Whether a run became steady, and from when on: pure arithmetic on what was seen over time.

A series has one number for each of equally long stretches of time. Its warm-up is found by MSER (White 1997): what is left out is
what makes the mean of the rest most certain. What remains must have no trend (Mann and Kendall's test, corrected for
neighbours that are alike as Hamed and Rao do), and no step from one level to another.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import NormalDist, fmean, median
from typing import Literal

import msgspec

from tokenstorm.metrics.intervals import edges_of

SteadyState = Literal["steady", "warming", "shifted", "growing", "short"]

LEAST_POINTS = 10
"""Fewer stretches tell nothing about a trend."""
TREND_P = 0.01
"""A trend as clear as the one seen has this probability where there is none."""
TREND_SHARE = 0.10
"""And it must change the level by this share of it: what is certain may still be too small to matter."""
GROWTH_P, GROWTH_SHARE, GROWTH_LEAST = 0.03, 0.20, 2.0
"""The same of a queue that grows, which is looked for harder: a queue that is overlooked makes every number worthless. It must have
grown by this share, and by so many requests."""
STEP_EXPLAINS = 0.6
"""The share of the variance that a step from one level to another explains."""
STEP_SIDE = 0.2
"""The share of the time that each of the two levels lasts at least: what is shorter at the beginning is a warm-up."""
_LEANS, _LEANS_P = 0.4, 0.15
"""One of two levels is none if it goes so far in the direction of the step itself, with this probability by chance."""
_POINTS = 20
"""Longer series are averaged to at most twice as many points."""
_TESTED = 24
"""The most points for the test of a trend: further ones are too much like their neighbours."""


class Trend(msgspec.Struct, frozen=True):
    """From where to where the straight line through a series goes, and how likely so clear a trend is by chance."""

    first: float
    last: float
    p: float

    @property
    def matters(self) -> bool:
        """Whether the level changes, enough and for certain."""
        level = max(abs(self.first), abs(self.last))
        return self.p < TREND_P and abs(self.last - self.first) > TREND_SHARE * level

    @property
    def grows(self) -> bool:
        """Whether it is that of a queue that grows."""
        return self.p < GROWTH_P and self.last - self.first > max(GROWTH_LEAST, GROWTH_SHARE * self.last)


class Found(msgspec.Struct, frozen=True):
    """What a run was, with the name of the series that tells; if steady, from which stretch on.

    `trend` is None where none matters. `step` is the stretch with which the level changed.
    """

    state: SteadyState
    start: int = 0
    series: str = ""
    trend: Trend | None = None
    step: int | None = None


def find_steady(backlog: Sequence[float], others: Mapping[str, Sequence[float]]) -> Found:
    """Judge a run by the requests that wait or are in flight, and by other series of equal length, such as the TTFT."""
    if len(backlog) < LEAST_POINTS:
        return Found("short")
    merged = max(1, len(backlog) // _POINTS)
    groups = edges_of(len(backlog), len(backlog) // merged)
    series = {
        name: points
        for name, values in {"backlog": backlog, **others}.items()
        if len({*(points := [fmean(values[start:end]) for start, end in groups])}) > 1
    }
    cut = max(map(warm_up, series.values()), default=0)
    for name, points in series.items():
        if (step := find_step(points)) is not None:
            return Found("shifted", series=name, step=groups[step][0])
    if "backlog" in series and (growth := trend(series["backlog"][cut:])).grows:
        return Found("growing", series="backlog", trend=growth)
    trends = _trends(series, cut)
    for later in (cut, (cut + len(groups) // 2) // 2):  # a warm-up may have a long tail
        if not _trends(series, later):
            return Found("steady", start=groups[later][0])
    name, found = next(iter(trends.items()))
    return Found("warming", series=name, trend=found)


def _trends(series: dict[str, list[float]], cut: int) -> dict[str, Trend]:
    """The trends that matter after so many points."""
    found = {name: trend(points[cut:]) for name, points in series.items()}
    return {name: one for name, one in found.items() if one.matters}


def warm_up(points: Sequence[float]) -> int:
    """How many points to leave out at the beginning, at most half of them, for the mean of the rest to be most certain (MSER)."""
    number, best, least = len(points), 0, float("inf")
    for cut in range(number // 2 + 1):
        rest = points[cut:]
        mean = fmean(rest)
        score = sum((value - mean) ** 2 for value in rest) / len(rest) ** 2
        if score < least:
            best, least = cut, score
    return best


def trend(points: Sequence[float]) -> Trend:
    """The trend of a series: its median slope (Theil and Sen), and Mann and Kendall's test with Hamed and Rao's correction."""
    groups = edges_of(len(points), min(_TESTED, len(points)))
    values = [fmean(points[start:end]) for start, end in groups]
    n = len(values)
    pairs = [
        (later - earlier, j - i) for i, earlier in enumerate(values) for j, later in enumerate(values[i + 1 :], i + 1)
    ]
    slope = median(rise / run for rise, run in pairs)
    score = sum((rise > 0) - (rise < 0) for rise, _ in pairs)
    spread = n * (n - 1) * (2 * n + 5) / 18 * _alike([value - slope * place for place, value in enumerate(values)])
    p = 2 * NormalDist().cdf(-max(0, abs(score) - 1) / sqrt(spread))
    middle = median(value - slope * place for place, value in enumerate(values))
    return Trend(middle, middle + slope * (n - 1), p)


def _alike(values: Sequence[float]) -> float:
    """By how much the variance of the score is larger because neighbours are alike; at least 1."""
    n = len(values)
    order = sorted(range(n), key=values.__getitem__)
    ranks = [0.0] * n
    for rank, place in enumerate(order):
        ranks[place] = rank - (n - 1) / 2
    total = sum(rank * rank for rank in ranks)
    more = 0.0
    for lag in range(1, n - 3):
        related = sum(one * other for one, other in zip(ranks, ranks[lag:], strict=False)) / total
        if abs(related) > NormalDist().inv_cdf(0.975) / sqrt(n):
            more += (n - lag) * (n - lag - 1) * (n - lag - 2) * related
    return max(1.0, 1 + 2 / (n * (n - 1) * (n - 2)) * more)


def find_step(points: Sequence[float]) -> int | None:
    """The point with which a series went from one level to another and stayed there; None where none explains it."""
    number = len(points)
    side = max(3, round(STEP_SIDE * number))
    total = _variance(points)
    best = min(range(1, number), key=lambda at: _variance(points[:at]) + _variance(points[at:]))
    if not side <= best <= number - side or not total:
        return None
    before, after = points[:best], points[best:]
    left = (_variance(before) + _variance(after)) / total
    low, high = fmean(before), fmean(after)
    if (
        left > 1 - STEP_EXPLAINS
        or abs(high - low) <= TREND_SHARE * max(abs(low), abs(high))
        or left > _off_a_line(points) / total
    ):
        return None
    return None if any(_leads_over(part, high - low) for part in (before, after)) else best


def _leads_over(part: Sequence[float], step: float) -> bool:
    """Whether a level is none: it goes the way of the step itself, and so far that there is none."""
    found = trend(part)
    return found.p < _LEANS_P and (found.last - found.first) / step > _LEANS


def _variance(points: Sequence[float]) -> float:
    mean = fmean(points)
    return sum((value - mean) ** 2 for value in points)


def _off_a_line(points: Sequence[float]) -> float:
    """What is left of the variance after a straight line."""
    middle = (len(points) - 1) / 2
    mean = fmean(points)
    along = sum((place - middle) * (value - mean) for place, value in enumerate(points))
    return _variance(points) - along**2 / sum((place - middle) ** 2 for place in range(len(points)))
