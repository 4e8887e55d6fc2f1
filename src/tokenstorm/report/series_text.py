"""A series for the terminal: a line as each run ends, a table of all at the end, and the answer of a search."""

from collections.abc import Sequence

from tokenstorm.metrics.points import Capacity, Point, SeriesSummary
from tokenstorm.metrics.searching import value_of
from tokenstorm.report.asked import percent, slo_text
from tokenstorm.report.figures import SIMULATED, duration, figure
from tokenstorm.series_parts import Value

UNITS = {"requests_per_second": "/s", "num_clients": " clients"}
BOUNDS = {
    "ttft_seconds": "TTFT",
    "tpot_seconds": "TPOT",
    "latency_seconds": "latency",
    "inter_chunk_p99_seconds": "inter-chunk p99",
    "backlog": "a growing backlog",
    "failures": "failed requests",
}
_LITTLE = 0.1
"""By so much Little's law may be off in a run that was steady."""


def point_name(values: dict[str, Value], repeat: int = 1) -> str:
    """What is different in a run: `8/s`, `4 clients`, `arrival.burstiness 2`."""
    words = [
        f"{_shown(value)}{UNITS[path]}" if path in UNITS else f"{path} {_shown(value)}"
        for path, value in values.items()
    ]
    return ", ".join(words + [f"repeat {repeat}"] * (repeat > 1 or not values))


def point_line(point: Point) -> str:
    """One run, as it ends."""
    parts = [
        f"run {point.number}: {point_name(point.values, point.repeat)}",
        *([STATES[point.state] + bound_text(point.bound_by)] if point.state else []),
        *([f"{percent(point.attainment.share)} good"] if point.attainment else []),
        f"{figure(point.achieved_rps)} req/s",
        f"TTFT p95 {duration(point.ttft.p95)}",
        f"TPOT p95 {duration(point.tpot.p95)}",
    ]
    return " · ".join(parts)


STATES = {
    "held": "held",
    "failed": "failed",
    "short": "too few requests to be sure",
    "unfit": "load generator at its limit",
}


def bound_text(bound_by: Sequence[str]) -> str:
    """By what a run was bound, behind its state."""
    return f" ({', '.join(BOUNDS[one] for one in bound_by)})" if bound_by else ""


def series_text(summary: SeriesSummary) -> str:
    """All runs as a table, and the answer of a search."""
    lines = [headline(summary), ""]
    if summary.points:
        lines += [*_table(summary), ""]
    lines += [f"run {number} came to nothing: {why}" for number, why in summary.failed_points.items()]
    if summary.capacity:
        lines += [*capacity_lines(summary.capacity), ""]
    lines += [f"order: {summary.order}", f"prefix cache: {summary.cache}"]
    if any(point.simulated for point in summary.points):
        lines.append(SIMULATED)
    if odd := [point for point in summary.points if off_by_little(point)]:
        lines.append(
            f"Little's law is off in run {', '.join(str(point.number) for point in odd)}: not steady in its window"
        )
    return "\n".join(lines)


def headline(summary: SeriesSummary) -> str:
    """How far the series is, in a line."""
    of = "" if summary.of is None else f" of {summary.of}"
    ended = {
        "completed": "",
        "running": ", goes on",
        "cancelled": ", stopped: resume it",
        "cut off": ", cut off: resume it",
    }
    name = summary.series.plan.name
    return f"series{f' {name}' if name else ''}: {len(summary.points)}{of} runs{ended[summary.outcome]}"


def capacity_lines(capacity: Capacity) -> list[str]:
    """The answer of a search, in words."""
    unit = UNITS[capacity.field]
    held = "nothing" if capacity.held is None else f"{figure(capacity.held)}{unit}"
    failed = "nothing failed" if capacity.failed is None else f"{figure(capacity.failed)}{unit} failed"
    at = f" at {percent(capacity.share)} of requests within the objectives"
    lines = [f"capacity: {held} held, {failed}{at}" + ("" if capacity.sure else " (not sure yet)")]
    if capacity.bound_by:
        shape = {"cliff": ", a cliff: a little more load loses much", "slope": ", a slope", None: ""}[capacity.shape]
        lines.append(f"  bound by {', '.join(BOUNDS[one] for one in capacity.bound_by)}{shape}")
    for word, found in (("held", capacity.held_attainment), ("failed", capacity.failed_attainment)):
        if found:
            lines.append(
                f"  {word}: {found.good} of {found.scheduled} good, {percent(found.share)} "
                f"(at least {percent(found.low)} at {percent(found.confidence)} confidence)"
            )
    if capacity.requests_per_second is not None:
        per_gpu = capacity.output_tokens_per_second_per_gpu
        per_joule = capacity.output_tokens_per_joule
        lines.append(
            f"  there: {figure(capacity.requests_per_second)} req/s, {figure(capacity.output_tokens_per_second)} tok/s"
            + (f", {figure(per_gpu)} tok/s per GPU" if per_gpu is not None else "")
            + (f", {figure(per_joule)} tokens per joule" if per_joule is not None else "")
        )
    return [*lines, f"  {capacity.reason}"]


def off_by_little(point: Point) -> bool:
    """Whether the number in flight is not what rate and time in service say."""
    return point.little is not None and abs(point.little - 1) > _LITTLE


def sorted_points(summary: SeriesSummary) -> list[Point]:
    """The runs by what was searched for or asked; of a sweep over several fields, as they were run."""
    search = summary.search
    if search:
        return sorted(summary.points, key=lambda point: (value_of(search, point), point.number))
    fields = list(summary.series.series.sweep)
    if len(fields) == 1 and all(isinstance(point.values[fields[0]], int | float) for point in summary.points):
        return sorted(summary.points, key=lambda point: (float(point.values[fields[0]] or 0), point.repeat))
    return summary.points


def _table(summary: SeriesSummary) -> list[str]:
    objectives = summary.series.plan.slo is not None
    heads = [
        "RUN",
        "LOAD",
        *(["GOOD", "STATE"] if objectives else []),
        "REQ/S",
        "TOK/S",
        "TTFT P50",
        "P95",
        "TPOT P95",
        "VERDICT",
    ]
    rows = [_row(point, objectives=objectives) for point in sorted_points(summary)]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    title = [f"objectives: {slo_text(summary.series.plan.slo)}"] if summary.series.plan.slo else []
    return title + [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]


def _row(point: Point, *, objectives: bool) -> list[str]:
    good = [percent(point.attainment.share) if point.attainment else "-", point.state or "-"] if objectives else []
    return [
        str(point.number),
        point_name(point.values, point.repeat),
        *good,
        figure(point.achieved_rps),
        figure(point.output_tokens_per_second),
        duration(point.ttft.p50),
        duration(point.ttft.p95),
        duration(point.tpot.p95),
        point.verdict.state,
    ]


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
