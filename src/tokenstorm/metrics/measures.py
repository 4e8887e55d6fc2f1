"""The numbers of a run by the names that are typed: what can be compared, and be held against a bound."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tokenstorm.metrics.summary import QUANTILES, Summary

Unit = Literal["s", "req/s", "tok/s", "%", "J"]
_TIMES = {
    "ttft": "TTFT",
    "ttft_content": "TTFT, content",
    "ttft_from_schedule": "TTFT from schedule",
    "tpot": "TPOT",
    "inter_chunk": "inter-chunk",
    "latency": "latency",
    "service_time": "service time",
}
_STATISTICS = ("mean", *QUANTILES)


_Row = tuple[str, Unit, Callable[[Summary], float | None]]


@dataclass(frozen=True)
class Measure:
    """One number of a run. `time` and `statistic` are of one of the times, in seconds; else both are empty.

    A share, of unit %, lies from 0 to 1.
    """

    name: str
    label: str
    unit: Unit
    value: Callable[[Summary], float | None]
    more_is_better: bool
    time: str = ""
    statistic: str = ""


def _time(time: str, statistic: str) -> Measure:
    label = f"{_TIMES[time]} {'p99.9' if statistic == 'p999' else statistic}"
    return Measure(
        f"{time}_{statistic}",
        label,
        "s",
        lambda summary: getattr(summary.metrics[f"{time}_seconds"], statistic),
        more_is_better=False,
        time=time,
        statistic=statistic,
    )


def _error_rate(summary: Summary) -> float | None:
    return summary.counts.failed / summary.counts.sent if summary.counts.sent else None


def _goodput(summary: Summary) -> float | None:
    return summary.goodput.ratio if summary.goodput else None


def _joules(summary: Summary) -> float | None:
    return summary.energy.joules_per_output_token if summary.energy else None


def _all() -> dict[str, Measure]:
    more: dict[str, _Row] = {
        "requests_per_second": ("requests", "req/s", lambda one: one.rates.achieved_rps),
        "output_tokens_per_second": ("output tokens", "tok/s", lambda one: one.rates.output_tokens_per_second),
        "goodput": ("good requests", "%", _goodput),
    }
    less: dict[str, _Row] = {
        "error_rate": ("failed requests", "%", _error_rate),
        "joules_per_output_token": ("energy per output token", "J", _joules),
    }
    others = [Measure(name, *row, more_is_better=rows is more) for rows in (more, less) for name, row in rows.items()]
    times = (_time(time, statistic) for time in _TIMES for statistic in _STATISTICS)
    return {one.name: one for one in (*others, *times)}


MEASURES = _all()
COMPARED = (
    "requests_per_second",
    "output_tokens_per_second",
    "goodput",
    "error_rate",
    "ttft_p50",
    "ttft_p99",
    "tpot_p50",
    "tpot_p99",
    "latency_p50",
    "latency_p99",
    "joules_per_output_token",
)
"""What is compared when nobody asks for more."""
