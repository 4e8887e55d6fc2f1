"""What the page of a series draws: curves over its points, as plain values for `browser/charts/curve.js`."""

from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from tokenstorm.metrics.points import Point, SeriesSummary
from tokenstorm.metrics.searching import value_of
from tokenstorm.series_parts import Search

At = Callable[[Point], float | None]
_HAIR = 1e-9
"""Of two values at one place the cursor reaches only one: so they stand a hair apart."""


class Axis(msgspec.Struct, frozen=True, omit_defaults=True):
    """One axis: a unit of `units.js`, and what it shows."""

    unit: str
    label: str = ""


class Curve(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line; `points` by ascending x."""

    name: str
    role: str
    points: list[tuple[float, float]]
    dash: tuple[int, ...] | None = None


class Chart(msgspec.Struct, frozen=True):
    """One chart, for the place that names its id."""

    id: str
    title: str
    x: Axis
    y: Axis
    series: list[Curve]


def charts_of(summary: SeriesSummary) -> list[Chart]:
    """Times, good requests and throughput against the load, and throughput against what each user gets; those with two points at least."""
    points, x, at = summary.points, *_load(summary)
    slo = summary.series.plan.slo
    charts = [
        Chart("ttft", "TTFT against load", x, Axis("s"), [
            _line("p50", "p50", points, at, lambda one: one.ttft.p50),
            _line("p95", "p90", points, at, lambda one: one.ttft.p95),
            _line("p99", "p99", points, at, lambda one: one.ttft.p99),
            *_bound(points, at, slo.ttft_seconds if slo else None),
        ]),
        Chart("tpot", "Time per output token against load", x, Axis("s"), [
            _line("p50", "p50", points, at, lambda one: one.tpot.p50),
            _line("p95", "p90", points, at, lambda one: one.tpot.p95),
            _line("p99", "p99", points, at, lambda one: one.tpot.p99),
            *_bound(points, at, slo.tpot_seconds if slo else None),
        ]),
        Chart("latency", "Latency against load", x, Axis("s"), [
            _line("p50", "p50", points, at, lambda one: one.latency.p50),
            _line("p95", "p90", points, at, lambda one: one.latency.p95),
            _line("p99", "p99", points, at, lambda one: one.latency.p99),
            *_bound(points, at, slo.latency_seconds if slo else None),
        ]),
        Chart("rate", "Requests answered a second against load", x, Axis("1/s"), [
            _line("answered", "answered", points, at, lambda one: one.achieved_rps),
            *([_line("asked", "asked", points, at, lambda one: one.requested_rps)]),
        ]),
        _throughput(points),
    ]  # fmt: skip
    if slo:
        good = _line("good", "c1", points, at, lambda one: one.attainment.share if one.attainment else None)
        charts.insert(
            0, Chart("good", "Share of good requests against load", x, Axis(""), [good, *_bound(points, at, slo.share)])
        )
    return [kept for chart in charts if (kept := _with_knee(_drawn(chart), summary)) is not None]


def _throughput(points: Sequence[Point]) -> Chart:
    """The chart that everybody draws: what the deployment makes against what each user gets."""
    gpus = max((one.gpus or 0 for one in points), default=0)
    name = "output tokens a second per GPU" if gpus else "output tokens a second"

    def made(one: Point) -> float | None:
        return None if one.output_tokens_per_second is None else one.output_tokens_per_second / (gpus or 1)

    line = _line(name, "c1", points, lambda one: one.output_tokens_per_second_per_user, made)
    label = "tokens a second of each user (median)"
    return Chart(
        "throughput",
        f"{name.capitalize().replace('gpu', 'GPU')} against those of each user",
        Axis("1/s", label),
        Axis("1/s"),
        [line],
    )


def _load(summary: SeriesSummary) -> tuple[Axis, At]:
    """The axis of the load: the field that was searched for, or the only one that was varied; else the rate answered."""
    search = summary.search
    fields = [search.field] if search else list(summary.series.series.sweep)
    values = [point.values.get(fields[0]) for point in summary.points] if len(fields) == 1 else [None]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return Axis("1/s", "requests a second answered"), lambda one: one.achieved_rps
    if fields[0] == "requests_per_second":
        return Axis("1/s", "requests a second asked for"), lambda one: _number(one, fields[0])
    return Axis("", fields[0].replace("_", " ")), lambda one: _number(one, fields[0])


def _number(point: Point, field: str) -> float:
    value = point.values[field]
    assert isinstance(value, int | float)
    return float(value)


def _line(name: str, role: str, points: Sequence[Point], x: At, y: At) -> Curve:
    """The mean over the runs at each place."""
    places: dict[float, list[float]] = {}
    for point in points:
        place, value = x(point), y(point)
        if place is not None and value is not None:
            places.setdefault(place, []).append(value)
    return Curve(name, role, [(place, fmean(values)) for place, values in sorted(places.items())])


def _bound(points: Sequence[Point], x: At, bound: float | None) -> list[Curve]:
    """A level that is to be kept, from the first point to the last."""
    places = [place for point in points if (place := x(point)) is not None]
    if bound is None or not places:
        return []
    ends = (min(places) * (1 + _HAIR) + _HAIR, max(places) * (1 - _HAIR))
    return [Curve("objective", "asked", [(end, bound) for end in ends], dash=(6, 4))]


def _drawn(chart: Chart) -> Chart | None:
    there = [curve for curve in chart.series if len(curve.points) > 1]
    return Chart(chart.id, chart.title, chart.x, chart.y, there) if any(curve.dash is None for curve in there) else None


def _with_knee(chart: Chart | None, summary: SeriesSummary) -> Chart | None:
    """The same with the highest load that held, as an upright line."""
    held, search = summary.capacity and summary.capacity.held, summary.search
    if chart is None or not held or chart.id == "throughput":
        return chart
    top = max(value for curve in chart.series for _, value in curve.points)
    knee = Curve("held", "c3", [(held * (1 + 2 * _HAIR), 0.0), (held * (1 + 3 * _HAIR), top)], dash=(2, 3))
    return (
        Chart(chart.id, chart.title, chart.x, chart.y, [*chart.series, knee]) if _searched(summary, search) else chart
    )


def _searched(summary: SeriesSummary, search: Search | None) -> bool:
    return search is not None and any(value_of(search, point) for point in summary.points)
