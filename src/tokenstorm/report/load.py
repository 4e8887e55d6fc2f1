"""A run's summary from its directory: the one that was written, or a new one from the result lines and the timeline."""

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from tokenstorm.errors import OtherVersion, PlanError, RunError
from tokenstorm.loadgen.arrivals import count_end_ns, mean_rate, window_end_of
from tokenstorm.loadgen.live import RankSecond, Status, TimelineLine
from tokenstorm.loadgen.lost import tally_of_cut_off, tally_of_lost
from tokenstorm.metrics.counts import Work
from tokenstorm.metrics.energy import EnergyTally
from tokenstorm.metrics.engine import EngineTally
from tokenstorm.metrics.rebuild import tally_of
from tokenstorm.metrics.reports import Environment, Missing, RankReport
from tokenstorm.metrics.stretches import Stretch, Stretches
from tokenstorm.metrics.summarize import Run, summarize
from tokenstorm.metrics.summary import Summary
from tokenstorm.metrics.tally import READ_METRICS, STALL_SECONDS, Tally
from tokenstorm.plan import Plan, read_plan
from tokenstorm.report.whole import (
    Found,
    find_results,
    latest_moment,
    missing_of,
    read_status,
    read_summary,
    seconds_of,
)
from tokenstorm.runs import RunPaths

SILENT_LINES = 3
"""A rank that is missing in this many of the last seconds was gone."""
NOTED = 100
"""At most this many faults of a run's files are noted in its summary."""

T = TypeVar("T")


def load_summary(paths: RunPaths, *, rebuild: bool = False, goes_on: bool = False) -> Summary:
    """The summary of a run. Raises `RunError` when the folder holds no run, or one without results.

    `goes_on` tells that the run is not over: without a summary these are its numbers so far.
    """
    try:
        if not paths.plan.exists():
            message = f"{paths.root} is no run directory: it has no {paths.plan.name}"
            raise RunError(message)
        return (None if rebuild else read_summary(paths)) or _rebuild(paths, goes_on=goes_on)
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror}"
        raise RunError(message) from None


def _rebuild(paths: RunPaths, *, goes_on: bool) -> Summary:
    """Count the result lines again. What they do not contain comes from the timeline, or from the written summary."""
    plan = _plan(paths)
    found = find_results(paths, plan)
    written, status = _if_readable(read_summary, paths, found), _if_readable(read_status, paths, found)
    found.latest = latest_moment(plan, written, status)
    timeline = _timeline(paths, found)
    was_told_of = written is not None or any(line.sent or line.unsent for line in timeline)
    if not found.results and goes_on:
        phase = f" (it is {status.phase})" if status else ""
        message = f"{paths.root} has no result lines yet: the run goes on and has sent nothing so far{phase}"
        raise RunError(message)
    if not found.results and not was_told_of:
        reason = f" ({status.reason})" if status and status.reason else ""
        message = f"{paths.root} has no result lines: the run ended before its first request{reason}"
        raise RunError(message)
    end = plan.window_end_ns if written is None else round(written.windows.measured_end * 1e9)
    counted = tally_of(found.results, plan, end, found.skip, latest=found.latest)
    missing = missing_of(paths, plan, found, written=written, status=status, timeline=timeline, counted=counted)
    if goes_on:  # its files grow while they are read
        missing = Missing()
    if written is None:
        tally, run = _cut_off(plan, found, timeline, status, counted)
        run = replace(run, outcome="running") if goes_on else run
    else:
        tally, run = _again(plan, written, found, timeline, counted)
    engine, energy, stretches = EngineTally(), EnergyTally(), Stretches()
    for line in timeline:  # inter-chunk times, and what the engine said, stand there alone
        for name in READ_METRICS:
            if histogram := line.histograms.get(name):
                tally.histograms[name].merge(histogram)
        energy.add(line.gpus)
        if line.phase == "measured":
            engine.add(line.engine)
            work = Work(succeeded=line.succeeded, output_tokens=line.output_tokens)
            second = Stretch.second(
                line.t, in_flight=line.in_flight, waiting=line.waiting, work=work, histograms=line.histograms
            )
            stretches.add(second)
    notes = dict.fromkeys(run.environment.notes + list(dict.fromkeys(missing.words))[:NOTED])
    environment = replace(run.environment, notes=list(notes))
    peak = max((line.in_flight_peak for line in timeline), default=None)
    seen = {"engine": engine.report(), "energy": energy, "peak": peak, "stretches": stretches}
    return summarize(replace(run, missing=missing, environment=environment, **seen), tally)


def _again(
    plan: Plan, written: Summary, found: Found, timeline: list[TimelineLine], counted: Tally
) -> tuple[Tally, Run]:
    """Count a run again that has a summary."""
    end = round(written.windows.measured_end * 1e9)
    lost = {report.rank: report.told_sent for report in written.ranks if report.lost}
    tally, unsent = counted, 0
    if lost:
        there = {rank: path for rank, path in found.results.items() if rank not in lost}
        tally = tally_of(there, plan, end, _already_noted, latest=found.latest)
    for rank, told in lost.items():
        path = found.results.get(rank)
        of_lost, missing = tally_of_lost(path, plan, rank, end, told, skip=_already_noted, latest=found.latest)
        tally.merge(of_lost)
        unsent += missing
    below_cap = sum(line.waited_below_cap for line in timeline)
    left_out = [name for name, replica in written.replicas.items() if replica.left_out]
    return tally, Run(
        plan=plan,
        outcome=written.outcome,
        window_end=end,
        arrivals_end=count_end_ns(plan),
        requested_rps=mean_rate(plan, end),
        started_at=written.started_at,
        ended_at=written.ended_at,
        ranks=written.ranks,
        waited_below_cap=max(below_cap, written.client.waited_below_cap),
        unsent_by_lost_ranks=unsent,
        left_out=left_out,
        environment=written.environment,
    )


def _cut_off(
    plan: Plan, found: Found, timeline: list[TimelineLine], status: Status | None, seen: Tally
) -> tuple[Tally, Run]:
    """Count a run that never wrote its summary. It ends with the last event that was seen."""
    last = max(seen.last_event, (timeline[-1].t + 1) * 10**9 if timeline else 0)
    latest = plan.window_end_ns
    if status and status.window_end_seconds is not None:  # it may have been told to stop before
        stopped = round(status.window_end_seconds * 1e9)
        latest = stopped if latest is None else min(stopped, latest)
    end = window_end_of(plan, latest, scheduled=seen.arrived, last_event=last)
    end = max(min(end, last + 1), plan.window_start_ns)
    tally, unsent, lost = Tally(), 0, set()
    for rank in range(plan.ranks):
        path = found.results.get(rank)
        of_rank, missing = tally_of_lost(path, plan, rank, end, 0, skip=_already_noted, latest=found.latest)
        if missing and _silent(rank, timeline):
            lost.add(rank)
            unsent += missing
        else:
            of_rank = tally_of_cut_off(path, plan, rank, end, skip=_already_noted, latest=found.latest)
        tally.merge(of_rank)
    return tally, Run(
        plan=plan,
        outcome="cut off",
        window_end=end,
        arrivals_end=count_end_ns(plan),
        requested_rps=mean_rate(plan, end),
        started_at=None,
        ended_at=None,
        ranks=[_rank(rank, timeline, lost=rank not in found.results or rank in lost) for rank in range(plan.ranks)],
        waited_below_cap=sum(line.waited_below_cap for line in timeline),
        unsent_by_lost_ranks=unsent,
        left_out=timeline[-1].left_out if timeline else [],
        environment=(status and status.environment) or Environment(tokenstorm=plan.tokenstorm, model=plan.model),
    )


def _silent(rank: int, timeline: list[TimelineLine]) -> bool:
    """Whether a rank had stopped reporting before the run was cut off."""
    return len(timeline) > SILENT_LINES and all(str(rank) not in line.ranks for line in timeline[-SILENT_LINES:])


def _rank(rank: int, timeline: list[TimelineLine], *, lost: bool) -> RankReport:
    seconds: list[RankSecond] = [line.ranks[str(rank)] for line in timeline if str(rank) in line.ranks]
    why = "it was gone before the run was cut off" if lost else None
    if not seconds:
        return RankReport(rank=rank, lost=why)
    return RankReport(
        rank=rank,
        lost=why,
        cpu=sum(second.cpu for second in seconds) / len(seconds),
        wall_seconds=float(len(seconds)),
        loop_lag_max_seconds=max(second.loop_lag for second in seconds),
        stalled_seconds=sum(second.loop_lag for second in seconds if second.loop_lag > STALL_SECONDS),
        gc_longest_seconds=max(second.gc_pause for second in seconds),
        disk=seconds[-1].disk,
    )


def _timeline(paths: RunPaths, found: Found) -> list[TimelineLine]:
    """The seconds of the timeline, each once and in order."""
    seconds: dict[int, TimelineLine] = {}
    for line in seconds_of(paths, found):
        seconds.setdefault(line.t, line)
    return [seconds[second] for second in sorted(seconds)]


def _plan(paths: RunPaths) -> Plan:
    try:
        return read_plan(paths.plan)
    except PlanError as error:
        raise RunError(str(error)) from None


def _if_readable(read: Callable[[RunPaths], T | None], paths: RunPaths, found: Found) -> T | None:
    """Read a file that is not needed. A fault in it is noted as a fault of the run's files."""
    try:
        return read(paths)
    except OtherVersion:
        raise
    except RunError as error:  # a node that crashed leaves files without their content; lines tell more
        found.faults.append(str(error).partition(";")[0])
    except OSError as error:
        found.faults.append(f"{error.filename} cannot be read: {error.strerror}")
    return None


def _already_noted(_words: str) -> None:
    """Ignore a fault: these lines were read before, and their faults are noted."""
