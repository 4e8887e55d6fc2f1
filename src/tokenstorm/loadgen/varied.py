"""Which run of a series comes next: it follows from the series and the points there are, alone."""

from collections.abc import Sequence

from tokenstorm.loadgen.variants import Next, in_order, valued
from tokenstorm.metrics.points import Point
from tokenstorm.metrics.searching import next_try, window_seconds
from tokenstorm.plan import SeriesPlan


def next_run(plan: SeriesPlan, points: Sequence[Point]) -> Next | None:
    """The run that comes after these, or None when there is none."""
    series, search = plan.series, plan.series.search
    if search is None:
        done = {point.number for point in points}
        return next((one for one in in_order(series, plan.plan.seed) if one.number not in done), None)
    trial = next_try(search, points)
    if trial is None:
        return None
    value = valued(search, trial.value)
    repeat = 1 + sum(point.values[search.field] == value for point in points)
    base, slo = plan.plan.measured_seconds, plan.plan.slo
    assert slo is not None, "checked with the series"
    assert base is not None, "checked with the series"
    seconds = window_seconds(search, points, trial, base, slo.share)
    return Next(len(points) + 1, repeat, {search.field: value}, seconds)
