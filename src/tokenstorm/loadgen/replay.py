"""What a plan says of the trace that it replays: which file, how long it takes, and its rate."""

import hashlib
import math
from array import array
from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from tokenstorm.errors import PlanError
from tokenstorm.load import Load
from tokenstorm.load_parts import Arrival, Stage, Trace
from tokenstorm.loadgen.traces import FORMATS, MILLISECOND, SECOND, read_trace
from tokenstorm.plan import Plan, TraceFile

STAGES: Final = 200
"""A plan tells the rate of a trace in so many stages at most, of a second at least."""


def settle_trace(load: Load, trace: Trace, data: bytes, path: str) -> dict[str, Any]:
    """The fields of the plan that replays a trace. Raises `PlanError` for one that cannot be replayed.

    Where the trace gives the times, its window ends just after its last row, or after `duration_seconds`.
    """
    read = read_trace(data, path, trace)
    try:
        times = array("q", (row.at for row in read.rows))
    except OverflowError:
        message = (
            f"{path} has a row that would leave in centuries: its times are in another unit, or the speed is too low"
        )
        raise PlanError(message, "trace") from None
    if not times:
        message = (
            f"{path} has no row between `from_seconds` and `until_seconds`" if data.strip() else f"{path} is empty"
        )
        raise PlanError(message, "trace")
    name = next(name for name, kind in FORMATS.items() if kind is read.format)
    file = TraceFile(path=path, sha256=hashlib.sha256(data).hexdigest(), format=name, rows=len(times))
    if trace.lengths_only:
        return {"prompts": file}
    whole = (times[-1] // MILLISECOND + 1) / 1000
    end = min(whole, load.warmup_seconds + (load.duration_seconds or math.inf))
    measured = round(end - load.warmup_seconds, 9)
    if measured <= 0:
        message = (
            f"{load.warmup_seconds:g} s are all of the trace, which replays in {whole:g} s: nothing would be measured"
        )
        raise PlanError(message, "warmup_seconds", ["trace"])
    arrival = Arrival(kind="trace", stages=_stages(times, end))
    return {"prompts": file, "arrival": arrival, "duration_seconds": measured}


def keep_rows(plan: Plan, rows: int, times: Sequence[int] | None) -> Plan:
    """The plan where only so many rows of its trace are sent, due at `times`: its rate is theirs. Raises `PlanError`."""
    assert isinstance(plan.prompts, TraceFile)
    kept = replace(plan, prompts=replace(plan.prompts, rows=rows))
    if times is None or plan.window_end_ns is None:
        return kept
    stages = _stages(times, plan.window_end_ns / SECOND)
    if not any(stage.rps for stage in stages):
        message = f"no row of {plan.prompts.path} that the model takes is due before the run's end"
        raise PlanError(message, "trace")
    return replace(kept, arrival=Arrival(kind="trace", stages=stages))


def _stages(times: Sequence[int], end: float) -> tuple[Stage, ...]:
    """The rate of a trace in stretches of the same length: what is asked for, as far as one looks at it."""
    count = max(1, min(STAGES, int(end)))
    size = end / count
    counts = [0] * count
    for at in times:
        place = int(at / SECOND / size)
        if place < count:
            counts[place] += 1
    return tuple(Stage(rps=number / size, seconds=size) for number in counts)
