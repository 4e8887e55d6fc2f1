"""The tables at the end of a run: its times, and its stages. They fit 80 columns, or have all there is."""

from collections.abc import Sequence

from tokenstorm.metrics.engine import ServerTimes
from tokenstorm.metrics.intervals import samples_needed
from tokenstorm.metrics.summary import QUANTILES, Metric, Summary
from tokenstorm.report.asked import percent
from tokenstorm.report.figures import duration, figure, percentile

_ROWS = {
    "latency_seconds": "latency from schedule",
    "service_time_seconds": "service time from send",
    "ttft_seconds": "TTFT",
    "ttft_content_seconds": "TTFT, content",
    "ttft_from_schedule_seconds": "TTFT from schedule",
    "tpot_seconds": "TPOT",
    "inter_chunk_seconds": "inter-chunk",
    "client_wait_seconds": "client wait",
    "send_lag_seconds": "send lag",
    "read_lag_seconds": "read lag",
}
_FOR_OPEN_LOOPS = frozenset(("ttft_from_schedule_seconds", "client_wait_seconds"))
_HEADS = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9"}
_NARROW = ("p50", "p90", "p99")
_OF_THE_ENGINE = {"ttft_seconds": "engine's own TTFT", "queue_seconds": "engine's queue time"}
_LABEL, _CELL, _COUNT = 22, 10, 8


def times_table(summary: Summary, *, wide: bool) -> list[str]:
    """A row for each time that was measured, and what the marks in it mean in this run."""
    quantiles = tuple(_HEADS) if wide else _NARROW
    lines = [_row("", ["mean", *(_HEADS[name] for name in quantiles), "max"], "samples")]
    shown = []
    for name, label in _ROWS.items():
        metric = summary.metrics.get(name)
        if metric is None or not metric.count or (summary.plan.closed_loop and name in _FOR_OPEN_LOOPS):
            continue
        if name == "ttft_content_seconds" and metric == summary.metrics["ttft_seconds"]:
            continue
        cells = [duration(metric.mean), *(percentile(metric, name) for name in quantiles), duration(metric.max)]
        shown.append(metric)
        lines.append(_row(label, cells, metric.count))
    return [*lines, *_engine_rows(summary, quantiles), *_marks(summary, shown, quantiles)]


def _row(label: str, cells: Sequence[str], count: object) -> str:
    return f"{label:<{_LABEL}}" + "".join(f"{cell:>{_CELL}}" for cell in cells) + f"{count:>{_COUNT}}"


def _engine_rows(summary: Summary, quantiles: Sequence[str]) -> list[str]:
    """What the engine itself counts; its percentiles are estimates from its buckets."""
    rows = []
    for name, label in _OF_THE_ENGINE.items():
        times: ServerTimes | None = getattr(summary.engine, name, None)
        if times and times.count:
            estimates = [_estimate(getattr(times, quantile, None)) for quantile in quantiles]
            rows.append(_row(label, [duration(times.mean), *estimates, "-"], times.count))
    return rows


def _estimate(seconds: float | None) -> str:
    return "-" if seconds is None else f"≈{duration(seconds)}"


def _marks(summary: Summary, shown: Sequence[Metric], quantiles: Sequence[str]) -> list[str]:
    """What `~` and `>` mean, by what happened in this run; nothing where neither stands."""
    lines, counts = [], summary.counts
    weak = [name for name in quantiles if any(not metric.enough[name] for metric in shown)]
    if weak:
        wants = ", ".join(f"{_HEADS[name]} {samples_needed(QUANTILES[name])}" for name in weak)
        lines.append(f"~ fewer samples than an upper bound of the percentile needs ({wants})")
    if any(metric.lower_bound[name] for metric in shown for name in quantiles):
        parts = (
            ("failed", counts.failed),
            ("censored", counts.censored),
            ("given up", counts.cancelled),
            ("unsent", counts.unsent),
        )
        without = ", ".join(f"{count} {name}" for name, count in parts if count)
        lines.append(f"> at least: {without} of {counts.scheduled} have no time, and would raise it")
    return lines


def stages_table(summary: Summary, *, wide: bool) -> list[str]:
    """A row for each stage of a staged load; nothing without stages."""
    if not summary.stages:
        return []
    label, cell = (24, _CELL) if wide else (17, 9)
    heads = ["asked/s", "done/s", "failed", "unsent"]
    heads += ["TTFT p50", "TTFT p99", "lat. p50", "lat. p99"] if wide else ["TTFT p99", "lat. p99"]
    lines = [f"{'stage':<{label}}" + "".join(f"{head:>{cell}}" for head in (*heads, "good"))]
    for stage in summary.stages:
        ttft, latency, counts = stage.metrics["ttft_seconds"], stage.metrics["latency_seconds"], stage.counts
        cells = [
            figure(stage.requested_rps),
            figure(stage.achieved_rps),
            str(counts.failed),
            str(counts.unsent),
            *(
                percentile(metric, quantile)
                for metric in (ttft, latency)
                for quantile in (("p50", "p99") if wide else ("p99",))
            ),
            "-" if stage.goodput is None else percent(stage.goodput),
        ]
        name = f"{stage.start:g} to {stage.end:g} s"
        lines.append(f"{name:<{label}}" + "".join(f"{text:>{cell}}" for text in cells))
    return [*lines, ""]
