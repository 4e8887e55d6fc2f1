"""Two sides against each other: each number with its difference, how sure that is, and whether it got better or worse."""

from collections.abc import Sequence
from math import copysign, hypot, inf
from typing import Literal

import msgspec

from tokenstorm.errors import RunError, UsageError
from tokenstorm.metrics.attaining import GENERATOR
from tokenstorm.metrics.intervals import LEVEL, Difference, Estimate, Interval, difference, holm, of_runs
from tokenstorm.metrics.measures import COMPARED, MEASURES, Measure
from tokenstorm.metrics.summary import Summary
from tokenstorm.metrics.verdict import FAILED_INVALID
from tokenstorm.report.conditions import Condition
from tokenstorm.report.differing import Differs, differences
from tokenstorm.report.figures import many, measured
from tokenstorm.report.one_run import estimate_over_time
from tokenstorm.report.sides import Side
from tokenstorm.runs import RunPaths

SCHEMA: Literal[1] = 1
RESOLUTION = 0.0045
"""The standard error of a percentile that comes from its histogram's bins, as a share of it."""
EDGES = 0.41
"""The standard error of a count of answers in a window, in answers: at both of its edges one may just be in it, or just not."""
Change = Literal["better", "worse", "same", "unknown"]
_Runs = Sequence[tuple[RunPaths, Summary]]


class Value(msgspec.Struct, frozen=True):
    """A number of one side: the mean over its runs, and its interval where one is known."""

    value: float
    ci: Interval | None
    runs: int


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One number of both sides. `p` is corrected for how many numbers are compared (Holm).

    `change` is `same` where no difference is shown, which proves none; `unknown` where there is too little to tell. `weak`: at
    least one side is a single run, whose seconds alone tell how sure it is, and not how runs differ from each other.
    """

    measure: str
    label: str
    unit: str
    first: Value
    second: Value
    difference: Difference | None
    p: float | None
    change: Change
    weak: bool


class PointCompared(msgspec.Struct, frozen=True):
    """The runs of both sides with the same values of what a series varies; `values` is JSON."""

    values: str
    measures: list[Compared]


class Versus(msgspec.Struct, frozen=True, kw_only=True):
    """One side against the first. `regressions` are the conditions that came true, in words."""

    name: str
    runs: int
    differs: list[Differs]
    points: list[PointCompared]
    regressions: list[str]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What `compare` says, as JSON."""

    schema: Literal[1] = SCHEMA
    first: str
    runs: int
    simulated: bool
    level: float = LEVEL
    versus: list[Versus]
    notes: list[str]

    @property
    def regressed(self) -> bool:
        """Whether any condition came true."""
        return any(one.regressions for one in self.versus)


def compare(first: Side, others: Sequence[Side], fail_if: Sequence[Condition], *, force: bool) -> Comparison:
    """Hold each of the others against the first. Raises `RunError` where the loads differ, unless that is forced."""
    names = list(dict.fromkeys([*COMPARED, *(condition.measure.name for condition in fail_if)]))
    suspects = [
        f"{side.name}: the verdict of run {summary.run_id[:8]} is {summary.verdict.state}: {summary.verdict.reasons[0].text}"
        for side in (first, *others)
        for runs in side.runs.values()
        for _, summary in runs
        if summary.verdict.reasons
    ]
    trusted = [_trusted(side, suspects) for side in (first, *others)]
    first, others = trusted[0], trusted[1:]
    versus = [_versus(first, other, names, fail_if, force=force) for other in others]
    if any(side.count == len(side.runs) for side in (first, *others)):
        suspects.insert(
            0,
            "with a single run, only its own seconds tell how sure a number is: repeat it (--repeats 5) to learn how runs differ",
        )
    suspects[:0] = [
        f"--fail-if {condition.text} was not judged: {first.name} or {one.name} has no {condition.measure.name}"
        for one in versus
        for condition in fail_if
        if not any(row.measure == condition.measure.name for point in one.points for row in point.measures)
    ]
    simulated = any(side.first.environment.simulated for side in (first, *others))
    return Comparison(first=first.name, runs=first.count, simulated=simulated, versus=versus, notes=suspects)


def _trusted(side: Side, notes: list[str]) -> Side:
    """Without the runs that the load generator spoiled by its own fault, where others are left; it is noted."""
    kept = Side(side.name)
    for key, runs in side.runs.items():
        kept.runs[key] = [one for one in runs if not _spoiled(one[1])] or runs
    if spoiled := side.count - kept.count:
        notes.insert(
            0, f"{side.name}: {many(spoiled, 'run')} of {side.count} left out, which the load generator itself spoiled"
        )
    return kept


def _spoiled(summary: Summary) -> bool:
    """Whether the generator alone makes a run invalid: failures of the service are what a comparison is to find."""
    return (
        summary.verdict.state == "invalid"
        and any(reason.code in GENERATOR for reason in summary.verdict.reasons)
        and summary.counts.succeeded > 0
        and summary.counts.failed <= FAILED_INVALID * summary.counts.sent
    )


def _versus(first: Side, other: Side, names: Sequence[str], fail_if: Sequence[Condition], *, force: bool) -> Versus:
    keys = [key for key in first.runs if key in other.runs]
    varied = frozenset(
        field.partition(".")[0] for side in (first, other) for key in side.runs for field in msgspec.json.decode(key)
    )
    if not keys:
        message = f"{first.name} and {other.name} have no point in common: one was run with {', '.join(first.runs)}, the other with {', '.join(other.runs)}"
        raise RunError(message)
    differs = differences(first.first, other.first, varied)
    loads = [one for one in differs if one.what == "load"]
    if loads and not force:
        shown = "; ".join(f"{one.name}: {one.first} and {one.second}" for one in loads)
        message = f"{first.name} and {other.name} are not comparable, their loads differ ({shown}); --force compares them all the same"
        raise UsageError(message)
    pairs = [(key, MEASURES[name]) for key in keys for name in names]
    found = [(key, _compared(measure, first.runs[key], other.runs[key])) for key, measure in pairs]
    corrected = iter(holm([one.difference.p for _, one in found if one and one.difference]))
    points: dict[str, list[Compared]] = {key: [] for key in keys}
    for key, one in found:
        if one:
            points[key].append(_judged(one, next(corrected)) if one.difference else one)
    return Versus(
        name=other.name,
        runs=other.count,
        differs=differs,
        points=[PointCompared(key, measures) for key, measures in points.items()],
        regressions=[
            f"{condition.text}{'' if key == '{}' else f' at {key}'}: it {_change(one, one.difference)}, significantly"
            for condition in fail_if
            for key, measures in points.items()
            for one in measures
            if one.measure == condition.measure.name
            and one.difference
            and one.change in {"better", "worse"}
            and condition.crossed(_share(one.difference))
        ],
    )


def _share(apart: Difference) -> float:
    """The change as a share: from 0 each is more than any share."""
    return copysign(inf, apart.value) if apart.ratio is None else apart.ratio


def _change(one: Compared, apart: Difference) -> str:
    if apart.ratio is None:
        return f"went from {measured(one.first.value, one.unit)} to {measured(one.second.value, one.unit)}"
    return f"changed by {apart.ratio:+.1%}"


def _compared(measure: Measure, first: _Runs, second: _Runs) -> Compared | None:
    """Both sides' number; None where a side has none."""
    values = [[value for _, one in runs if (value := measure.value(one)) is not None] for runs in (first, second)]
    if not all(values):
        return None
    estimates = [_estimate(measure, runs, known) for runs, known in zip((first, second), values, strict=True)]
    one, other = estimates
    told = [
        Value(sum(known) / len(known), estimate.interval() if estimate else None, len(known))
        for known, estimate in zip(values, estimates, strict=True)
    ]
    return Compared(
        measure=measure.name,
        label=measure.label,
        unit=measure.unit,
        first=told[0],
        second=told[1],
        difference=difference(one, other) if one and other else None,
        p=None,
        change="unknown",
        weak=min(map(len, values)) == 1,
    )


def _estimate(measure: Measure, runs: _Runs, values: Sequence[float]) -> Estimate | None:
    found = of_runs(values) if len(values) > 1 else estimate_over_time(measure, runs[0][0], values[0])
    if found and measure.name == "requests_per_second":
        answers = min(one.counts.succeeded for _, one in runs)
        return msgspec.structs.replace(found, error=hypot(found.error, EDGES * found.value / max(1, answers)))
    if found and measure.statistic not in {
        "",
        "mean",
    }:  # runs whose percentiles lie in one bin are alike to within that bin
        return msgspec.structs.replace(found, error=hypot(found.error, RESOLUTION * found.value))
    return found


def _judged(one: Compared, p: float) -> Compared:
    assert one.difference is not None
    change: Change = "same"
    if p < 1 - LEVEL:
        better = (one.difference.value > 0) == MEASURES[one.measure].more_is_better
        change = "better" if better else "worse"
    return msgspec.structs.replace(one, p=p, change=change)
