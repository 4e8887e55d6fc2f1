"""A series as one page that needs nothing else: the answer, the curves, every run, the load that they share."""

from tokenstorm.metrics.points import Point, SeriesSummary
from tokenstorm.report.again import not_default
from tokenstorm.report.asked import asked_for, percent, slo_text
from tokenstorm.report.assets import Assets, read_series_assets
from tokenstorm.report.document import document
from tokenstorm.report.figures import duration, figure
from tokenstorm.report.markup import facts, grid, note, section, text
from tokenstorm.report.markup import figure as place
from tokenstorm.report.series_charts import Chart, charts_of
from tokenstorm.report.series_text import (
    BOUNDS,
    STATES,
    capacity_lines,
    headline,
    off_by_little,
    point_name,
    sorted_points,
)
from tokenstorm.runs import SeriesPaths, write_atomically


def made_series_page(summary: SeriesSummary) -> bytes:
    """The page of a series."""
    return series_page(summary, read_series_assets()).encode()


def try_series_page(paths: SeriesPaths, summary: SeriesSummary) -> str:
    """Write the page into the folder of the series; its results stand whatever becomes of it. Returns in words what was wrong."""
    try:
        write_atomically(paths.report, made_series_page(summary))
    except Exception as error:  # noqa: BLE001 - a bug of the page is no reason to lose a series
        why = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
        return f"could not make {paths.report} ({why}); `tokenstorm report {paths.root} --format html` tries it again"
    return ""


def series_page(summary: SeriesSummary, assets: Assets) -> str:
    """The whole page. Without the files that draw it has all but the charts, and says so."""
    plan = summary.series.plan
    title = plan.name or f"Series {plan.run_id}"
    charts = charts_of(summary) if assets.script else []
    return document(
        title,
        [f"<h1>{text(title)}</h1>", note(headline(summary)), *_sections(summary, assets, charts)],
        assets,
        simulated=any(point.simulated for point in summary.points),
        drawn=("charts", charts) if charts else None,
    )


def _sections(summary: SeriesSummary, assets: Assets, charts: list[Chart]) -> list[str]:
    return [
        section("Capacity", *_capacity(summary)) if summary.capacity else "",
        section("Against the load", *_charts(assets, charts)),
        section("Every run", *_runs(summary)),
        section("What they share", facts(_shared(summary))),
    ]


def _capacity(summary: SeriesSummary) -> list[str]:
    assert summary.capacity is not None
    first, *rest = capacity_lines(summary.capacity)
    return [f"<p><strong>{text(first)}</strong></p>", *(f"<p>{text(line.strip())}</p>" for line in rest)]


def _charts(assets: Assets, charts: list[Chart]) -> list[str]:
    if not assets.script:
        return [note("Charts are left out: this tokenstorm was installed without the files that draw them.")]
    if not charts:
        return [note("There are too few runs for a curve.")]
    words = "A point is a run, or the mean of the runs at one load; dashed is what was asked for, dotted the highest load that held."
    return [f'<div class="charts">{"".join(place(chart.id) for chart in charts)}</div>', note(words)]


def _runs(summary: SeriesSummary) -> list[str]:
    if not summary.points:
        return [note("No run has ended yet.")]
    heads = (
        "run", "load", "state", "good", "at least", "req/s", "tok/s", "in flight", "Little",
        "TTFT p50", "p95", "p99", "TPOT p50", "p95", "latency p50", "p99", "failed", "unsent", "verdict",
    )  # fmt: skip
    rows = [_row(point) for point in sorted_points(summary)]
    came_to_nothing = [note(f"Run {number} came to nothing: {why}") for number, why in summary.failed_points.items()]
    words = "Little: the mean in flight over rate times mean time in service; a run that is off by more than a tenth was not steady."
    return [
        grid(heads, rows, words=(1, 2, 18)),
        note(f"{words} The files of each run are in runs/, by its number."),
        *came_to_nothing,
    ]


def _row(point: Point) -> tuple[object, ...]:
    found, counts = point.attainment, point.counts
    state = "-" if point.state is None else STATES[point.state]
    bound = f": {', '.join(BOUNDS[one] for one in point.bound_by)}" if point.bound_by else ""
    little = "-" if point.little is None else f"{point.little:.2f}" + "!" * off_by_little(point)
    return (
        point.number,
        point_name(point.values, point.repeat),
        state + bound,
        percent(found.share) if found else "-",
        percent(found.low) if found else "-",
        figure(point.achieved_rps),
        figure(point.output_tokens_per_second),
        figure(point.in_flight),
        little,
        *(duration(value) for value in (point.ttft.p50, point.ttft.p95, point.ttft.p99)),
        *(duration(value) for value in (point.tpot.p50, point.tpot.p95, point.latency.p50, point.latency.p99)),
        counts.failed + counts.censored,
        counts.unsent,
        ": ".join((point.verdict.state, "; ".join(reason.code for reason in point.verdict.reasons))).rstrip(": "),
    )


def _shared(summary: SeriesSummary) -> list[tuple[str, object]]:
    plan = summary.series.plan
    return [
        ("Order of the runs", summary.order),
        ("Prefix cache", summary.cache),
        *([("Objectives", f"{slo_text(plan.slo)}, {percent(plan.slo.share)} of all requests")] if plan.slo else []),
        ("Started", summary.started_at or "-"),
        ("Ended", summary.ended_at or "-"),
        ("tokenstorm", summary.series.tokenstorm),
        *asked_for(plan, not_default(plan)),
    ]
