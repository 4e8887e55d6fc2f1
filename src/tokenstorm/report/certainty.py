"""How sure the numbers of a run are, in words: its steady part, intervals of means, bounds of percentiles."""

from tokenstorm.metrics.intervals import Interval
from tokenstorm.metrics.summary import Metric, SteadyReport, Summary
from tokenstorm.report.figures import duration, figure

_SHOWN = {"ttft_seconds": "TTFT", "tpot_seconds": "TPOT", "latency_seconds": "latency"}


def steady_words(found: SteadyReport) -> str:
    """From when to when a run was steady, with the key numbers of that part; or why it was not."""
    if found.state != "steady":
        return found.text
    parts = [
        f"{found.from_seconds or 0:g} to {found.until_seconds or 0:g} s: {figure(found.rates['achieved_rps'])} req/s"
    ]
    for name, label in _SHOWN.items():
        metric = found.metrics[name]
        if metric.count:
            parts.append(f"{label} {duration(metric.mean)}")
    return ", ".join(parts) + " on average"


def certain_lines(summary: Summary) -> list[str]:
    """For each key number with an interval or a bound, what the truth is likely to be."""
    lines = []
    if rate := summary.rates.ci.get("achieved_rps"):
        lines.append(f"{figure(rate.low)} to {figure(rate.high)} req/s")
    for name, label in _SHOWN.items():
        parts = certain_parts(summary.metrics[name])
        lines += [f"{label} {', '.join(parts)}"] if parts else []
    return lines


def certain_parts(metric: Metric) -> list[str]:
    """The interval of a metric's mean, and the bound of its highest percentile that has one, no more than p99."""
    parts = [f"mean {interval_words(metric.ci)}"] if metric.ci else []
    for quantile in ("p99", "p95", "p90"):
        bound = metric.upper_bound_99.get(quantile)
        if bound is not None and not metric.lower_bound[quantile]:
            return [*parts, f"{quantile} at most {duration(bound)}"]
    return parts


def interval_words(interval: Interval) -> str:
    """An interval of seconds."""
    return f"{duration(max(0.0, interval.low))} to {duration(interval.high)}"
