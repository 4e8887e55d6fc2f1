"""The runs of a series: their order, and the plan of each."""

import random
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import msgspec

from tokenstorm.errors import PlanError
from tokenstorm.load import Load
from tokenstorm.loadgen.mixing import mix
from tokenstorm.loadgen.sizing import cores, fewest_ranks, open_files
from tokenstorm.plan import Plan, SeriesPlan, make_plan, new_run_id
from tokenstorm.series_parts import Search, Series, Value

SEARCH_WARMUP = 0.2
"""Of a search without a warm-up each run's is this share of its window: it begins with an idle service."""
_FIXED = frozenset(("seed", "slo", "trace", "start", "hold_seconds", "name", "labels"))
"""What a sweep does not vary: all runs have it, or it is none of the load."""


class Next(NamedTuple):
    """A run to come: what differs in it, and the seconds of its window where they do."""

    number: int
    repeat: int
    values: dict[str, Value]
    seconds: float | None = None


def valued(search: Search, value: float) -> Value:
    """What a search tries, as the field has it."""
    return int(value) if search.field == "num_clients" else value


def in_order(series: Series, seed: int) -> list[Next]:
    """All runs of a sweep, in the order in which they are run: in blocks, each of which has every point once."""
    points = [dict(zip(series.sweep, values, strict=True)) for values in product(*series.sweep.values())]
    shuffle = random.Random(mix(seed))
    runs: list[Next] = []
    for repeat in range(1, series.repeats + 1):
        block = points.copy()
        if series.order == "random":
            block.sort(key=lambda _: shuffle.random())
        runs += [Next(len(runs) + place, repeat, values) for place, values in enumerate(block, 1)]
    return runs


def plan_of(series: SeriesPlan, run: Next, run_id: str | None = None) -> Plan:
    """The plan of one run, with a seed of its own. Raises `PlanError`, which names the field that is wrong."""
    base = series.plan
    fields: dict[str, Any] = msgspec.to_builtins(base)
    for path, value in run.values.items():
        _set(fields, path, value)
    if run.seconds is not None:
        fields["duration_seconds"] = run.seconds
        fields["warmup_seconds"] = base.warmup_seconds or SEARCH_WARMUP * run.seconds
    fields |= {"run_id": run_id or new_run_id(), "seed": mix(base.seed ^ mix(run.number)) >> 16}
    if series.ranks is None and not base.launch:
        fields["ranks"] = 1
        plan = make_plan(fields)
        fields["ranks"] = fewest_ranks(plan, cores(), open_files(), plan.arrival)
    return make_plan(fields)


def check_runs(series: SeriesPlan) -> None:
    """Raise `PlanError` where a run of the series would make no sense; of a search, its first."""
    runs = in_order(series.series, series.plan.seed)
    if (search := series.series.search) is not None:
        runs = [Next(1, 1, {search.field: valued(search, search.start)})]
    for run in runs:
        for path in run.values:
            _check_path(path)
        try:
            plan_of(series, run)
        except PlanError as error:
            shown = ", ".join(f"{path}={value}" for path, value in run.values.items())
            message = f"the run with {shown}: {error}"
            raise PlanError(message, "series") from None


def _check_path(path: str) -> None:
    field = path.partition(".")[0]
    known = [name for name in Load.__struct_fields__ if name not in _FIXED]
    if field not in known:
        message = f"`{path}` is no field that a series can vary; there is {', '.join(known)}"
        raise PlanError(message, "sweep")


def _set(fields: dict[str, Any], path: str, value: Value) -> None:
    *parents, name = path.split(".")
    place: Any = fields
    for step, parent in enumerate(parents, 1):
        place = place.get(parent) if isinstance(place, Mapping) else None
        if not isinstance(place, dict):
            message = f"there is no `{'.'.join(parents[:step])}` in the load, so no part of it can be varied"
            raise PlanError(message, path)
    place[name] = value
