"""Bounds as they are typed: `error_rate>1%` of one run, `ttft_p99>+5%` of one run against another."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenstorm.errors import UsageError
from tokenstorm.metrics.measures import MEASURES, Measure
from tokenstorm.metrics.summary import Summary
from tokenstorm.report.figures import measured

_TYPED = re.compile(r"\s*(\w+)\s*([<>])\s*([+-]?)\s*(\d+(?:\.\d+)?)\s*(%|ms|s|)\s*")
_SHOWN = "requests_per_second, output_tokens_per_second, goodput, error_rate, joules_per_output_token, and mean, p50, p90, p95, p99 or p999 of ttft, tpot, inter_chunk, latency, service_time, as in ttft_p99"


@dataclass(frozen=True)
class Condition:
    """A bound that a number must not cross: `above` it, or below. Times are in seconds, shares from 0 to 1."""

    text: str
    measure: Measure
    above: bool
    bound: float

    def crossed(self, value: float | None) -> bool:
        """Whether it is; a number that nobody knows crosses none."""
        return value is not None and (value > self.bound if self.above else value < self.bound)


def bound_of(text: str) -> Condition:
    """A bound of one run, as `--fail-on` has it. Raises `UsageError`."""
    measure, above, sign, number, unit = _read(text, "--fail-on", "'error_rate>1%' or 'ttft_p99>500ms'")
    wanted = {"s": ("s", "ms"), "%": ("%", "")}.get(measure.unit, ("",))
    if unit not in wanted or sign:
        units = " or ".join(repr(one) for one in wanted if one) or "a number alone"
        message = f"--fail-on {text!r}: the bound of {measure.name} wants {units}, and no sign"
        raise UsageError(message)
    return Condition(text, measure, above, float(number) / {"ms": 1000, "%": 100}.get(unit, 1))


def change_of(text: str) -> Condition:
    """A bound of a change, as `--fail-if` has it, as a share. Raises `UsageError`."""
    measure, above, sign, number, unit = _read(text, "--fail-if", "'ttft_p99>+5%' or 'requests_per_second<-5%'")
    if unit != "%" or (sign == "-") == above:
        example = f"{measure.name}{'>+5%' if above else '<-5%'}"
        message = f"--fail-if {text!r}: say by which share it may change, as in {example!r}"
        raise UsageError(message)
    return Condition(text, measure, above, float(number) / 100 * (-1 if sign == "-" else 1))


def _read(text: str, option: str, example: str) -> tuple[Measure, bool, str, str, str]:
    match = _TYPED.fullmatch(text)
    if match is None:
        message = f"{option} {text!r} is no bound: write it as in {example}"
        raise UsageError(message)
    name, way, sign, number, unit = match.groups()
    if name not in MEASURES:
        message = f"{option} {text!r}: there is no number {name!r}; there are {_SHOWN}"
        raise UsageError(message)
    return MEASURES[name], way == ">", sign, number, unit


def check_bound(text: str) -> None:
    """Raises `UsageError` for what no run can be made to fail on."""
    if text not in {"slo", "suspect"}:
        bound_of(text)


def refuse_for_series(fail_on: Sequence[str]) -> None:
    """Raises `UsageError` for bounds that a series is to keep: they are of a single run."""
    if fail_on:
        message = f"--fail-on {fail_on[0]!r} is a bound of a single run, not of a series: `tokenstorm report FOLDER/runs/1 --fail-on …` judges one of its runs"
        raise UsageError(message)


def crossed_bounds(summary: Summary, fail_on: Sequence[str]) -> list[str]:
    """Of what a run is to fail on, what came true, in words. Raises `UsageError` for what this run cannot fail on."""
    found = []
    for text in fail_on:
        if text == "slo":
            if summary.goodput is None:
                message = "--fail-on slo: this run has no objectives that a request could miss: give them with --slo"
                raise UsageError(message)
            if not summary.goodput.met:
                found.append("slo: fewer requests than asked met the objectives")
        elif text == "suspect":
            if summary.verdict.state != "valid":
                found.append(f"suspect: the verdict is {summary.verdict.state}")
        else:
            condition = bound_of(text)
            value = condition.measure.value(summary)
            if condition.crossed(value):
                found.append(f"{text}: it is {measured(value, condition.measure.unit)}")
    return found
