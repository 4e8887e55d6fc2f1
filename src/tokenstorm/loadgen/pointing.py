"""From the files of one run of a series to its point."""

from collections.abc import Callable, Iterator
from typing import Any

from tokenstorm.loadgen.live import TimelineLine
from tokenstorm.loadgen.variants import Next
from tokenstorm.metrics.attaining import attainment, backlog, judged, used
from tokenstorm.metrics.points import Backlog, Point, Quantiles
from tokenstorm.metrics.summary import Metric, Summary
from tokenstorm.result import Result
from tokenstorm.runs import RunPaths
from tokenstorm.written import read_lines

MOST_LINES = 200_000


def point_of(run: Next, summary: Summary, paths: RunPaths, pause_seconds: float | None) -> Point:
    """What a run showed."""
    plan, rates, counts, metrics = summary.plan, summary.rates, summary.counts, summary.metrics
    found = None
    if plan.slo is not None and summary.goodput is not None:
        found = attainment(*(_steady_counts(summary, paths) or (summary.goodput.good, counts.judged)))
    growing = None if plan.closed_loop else _backlog(paths, rates.requested_rps)
    state, bound_by = judged(summary, plan.slo, found, growing) if plan.slo else (None, [])
    in_flight = summary.concurrency.mean if summary.concurrency else None
    served = metrics["service_time_seconds"].mean
    energy = summary.energy if summary.energy and summary.energy.valid else None
    return Point(
        number=run.number,
        repeat=run.repeat,
        values=run.values,
        run_id=summary.run_id,
        started_at=summary.started_at,
        ended_at=summary.ended_at,
        pause_seconds=pause_seconds,
        seconds=summary.windows.measured_end - summary.windows.measured_start,
        outcome=summary.outcome,
        verdict=summary.verdict,
        counts=counts,
        requested_rps=rates.requested_rps,
        achieved_rps=rates.achieved_rps,
        output_tokens_per_second=rates.output_tokens_per_second,
        output_tokens_per_second_per_user=rates.output_tokens_per_second_per_user,
        in_flight=in_flight,
        ttft=_quantiles(metrics["ttft_seconds"]),
        tpot=_quantiles(metrics["tpot_seconds"]),
        latency=_quantiles(metrics["latency_seconds"]),
        little=in_flight / (rates.achieved_rps * served) if in_flight and served and rates.achieved_rps else None,
        backlog=growing,
        attainment=found,
        used=used(summary, plan.slo) if plan.slo else {},
        state=state,
        bound_by=bound_by,
        simulated=summary.environment.simulated,
        gpus=len(energy.gpus) if energy and energy.gpus else None,
        joules_per_output_token=energy.joules_per_output_token if energy else None,
    )


def _steady_counts(summary: Summary, paths: RunPaths) -> tuple[int, int] | None:
    """The good requests that were scheduled in the steady part of the window, and all of them but those that were given up on
    purpose; None where that part is all of it, or unknown.

    Of very many requests the lines are not read again: what their warm-up does to the share is little.
    """
    steady, start = summary.steady, summary.windows.measured_start
    if steady is None or steady.from_seconds is None or steady.from_seconds <= start:
        return None
    if summary.counts.scheduled > MOST_LINES:
        return None
    good = scheduled = 0
    first = round(steady.from_seconds * 1e9)
    for path in paths.all_results().values():
        for line in read_lines(path, Result, lambda _: None):
            if line.phase == "measured" and line.scheduled >= first and line.outcome != "cancelled":
                scheduled += line.count
                good += line.good is True
    return (good, scheduled) if scheduled else None


def _quantiles(metric: Metric) -> Quantiles:
    return Quantiles(metric.p50, metric.p95, metric.p99)


def _backlog(paths: RunPaths, rate: float | None) -> Backlog | None:
    try:
        return backlog(list(_in_flight(paths)), rate)
    except OSError:
        return None


def _in_flight(paths: RunPaths) -> Iterator[float]:
    """What was in flight or waited in each second of the measured window."""
    skip: Callable[[Any], None] = lambda _: None  # noqa: E731 - a line that is cut off tells no trend
    for line in read_lines(paths.timeline, TimelineLine, skip):
        if line.phase == "measured":
            yield line.in_flight + line.waiting
