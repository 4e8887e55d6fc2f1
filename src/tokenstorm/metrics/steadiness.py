"""The steady part of a run as its summary has it: from the stretches of its measured window, in figures and in words."""

from collections.abc import Sequence

from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.intervals import Interval
from tokenstorm.metrics.steady import LEAST_POINTS, Found, find_steady
from tokenstorm.metrics.stretches import HISTOGRAMS, Stretch, mean_over_time, rate_over_time
from tokenstorm.metrics.summary import Metric, SteadyReport
from tokenstorm.plan import Plan

LEAST_LATENCIES = 3.0
"""A window shorter than this many mean service times has seen too few answers follow one another."""
_RATES = {"achieved_rps": "succeeded", "output_tokens_per_second": "output_tokens"}


def steady_report(plan: Plan, stretches: Sequence[Stretch]) -> SteadyReport | None:
    """Whether the run was steady; None where the plan itself asks for a rate that changes, or no timeline tells."""
    if not stretches or plan.arrival.ramp or plan.arrival.stages or plan.arrival.kind == "trace":
        return None
    seconds = sum(one.seconds for one in stretches)
    if short := _too_short(stretches, seconds):
        return SteadyReport(state="short", text=short)
    backlog = [one.backlog / one.seconds for one in stretches]
    found = find_steady(backlog, _series(stretches))
    if found.state != "steady":
        return SteadyReport(state=found.state, text=_words(found, stretches))
    return _figures(stretches[found.start :])


def _too_short(stretches: Sequence[Stretch], seconds: int) -> str:
    answer = _all(stretches, "service_time").mean() or 0.0
    if seconds < LEAST_POINTS or len(stretches) < LEAST_POINTS:
        return f"too short to tell whether it was steady: {seconds} whole seconds, and {LEAST_POINTS} are needed"
    if seconds < LEAST_LATENCIES * answer / 1e9:
        return f"too short to tell whether it was steady: {seconds} s, and an answer takes {answer / 1e9:.1f} s"
    return ""


def _series(stretches: Sequence[Stretch]) -> dict[str, list[float]]:
    """Beside the backlog: the median TTFT, or service time where no answer has one, and the rate of answers."""
    found = {"rate of answers": [one.succeeded / one.seconds for one in stretches]}
    for name, label in (("ttft", "TTFT"), ("service_time", "service time")):
        times: list[float] = []
        for one in stretches:  # a stretch without an answer says nothing new
            middle = one.histograms[name].quantile(0.5)
            times.append(middle / 1e9 if middle is not None else times[-1] if times else 0.0)
        if any(times):
            first = next(place for place, value in enumerate(times) if value)
            return {label: [times[first]] * first + times[first:], **found}
    return found


def _words(found: Found, stretches: Sequence[Stretch]) -> str:
    if found.step is not None:
        at = stretches[found.step].start
        return f"two levels, not one: the {_NAMES.get(found.series, found.series)} changed at {at} s and stayed so"
    trend = found.trend
    if trend is None:
        return ""
    if found.state == "growing":
        return (
            f"the queue grew to the end, from about {trend.first:.0f} to {trend.last:.0f} requests: "
            "this load is more than is carried, and its times depend on how long one measures"
        )
    change = f"went from about {_value(found.series, trend.first)} to {_value(found.series, trend.last)}"
    return f"not steady yet: the {_NAMES.get(found.series, found.series)} {change} to the end; measure for longer, or warm up first"


_NAMES = {"backlog": "number of requests in flight"}


def _value(series: str, value: float) -> str:
    if series in {"TTFT", "service time"}:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g}" + "/s" * (series == "rate of answers")


def _figures(stretches: Sequence[Stretch]) -> SteadyReport:
    start, seconds = stretches[0].start, sum(one.seconds for one in stretches)
    end = start + seconds
    return SteadyReport(
        state="steady",
        text=f"steady from {start} s to {end} s",
        from_seconds=start,
        until_seconds=end,
        in_flight=sum(one.in_flight for one in stretches) / seconds,
        rates={field: sum(getattr(one, name) for one in stretches) / seconds for field, name in _RATES.items()},
        ci=rate_intervals(stretches),
        metrics={
            f"{name}_seconds": Metric.of(_all(stretches, name), ci=mean_interval(stretches, name))
            for name in HISTOGRAMS
        },
    )


def rate_intervals(stretches: Sequence[Stretch]) -> dict[str, Interval]:
    """Of each rate, where there are stretches enough."""
    found = {field: rate_over_time(stretches, name) for field, name in _RATES.items()}
    return {field: estimate.interval() for field, estimate in found.items() if estimate}


def mean_interval(stretches: Sequence[Stretch], name: str, centre: float | None = None) -> Interval | None:
    """Of the mean of one of the times, in seconds; around `centre` seconds, where the whole window's mean is another."""
    found = mean_over_time(stretches, name) if name in HISTOGRAMS else None
    if found is None:
        return None
    interval = found.interval()
    middle, half = centre if centre is not None else found.value / 1e9, (interval.high - interval.low) / 2e9
    return Interval(middle - half, middle + half, interval.level, interval.method)


def _all(stretches: Sequence[Stretch], name: str) -> Histogram:
    total = Histogram()
    for one in stretches:
        total.merge(one.histograms[name])
    return total
