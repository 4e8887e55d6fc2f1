"""A run's summary from its directory: the one that was written, or a new one from the result lines and the timeline."""

from pathlib import Path

import msgspec
from msgspec.structs import replace

from tokenstorm.errors import NOT_JSON, RunError
from tokenstorm.loadgen.arrivals import mean_rate, window_end_of
from tokenstorm.loadgen.live import RankSecond, Status, TimelineLine
from tokenstorm.loadgen.lost import tally_of_cut_off, tally_of_lost
from tokenstorm.metrics.rebuild import tally_of
from tokenstorm.metrics.summary import Environment, RankReport, Run, Summary, summarize
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.metrics.verdict import STALL_SECONDS
from tokenstorm.plan import Plan, read_plan
from tokenstorm.runs import RunPaths

SILENT_LINES = 3
"""A rank that is missing in so many of the last seconds was gone."""


def load_summary(paths: RunPaths, *, rebuild: bool = False, goes_on: bool = False) -> Summary:
    """The summary of a run. Raises `RunError` when the folder holds no run, or one without results.

    `goes_on` tells that the run is not over: without a summary these are its numbers so far.
    """
    try:
        if not paths.plan.exists():
            message = f"{paths.root} is no run directory: it has no {paths.plan.name}"
            raise RunError(message)
        try:
            written = _written(paths.summary)
        except RunError:
            if not rebuild:
                raise
            written = None
        if written is not None and not rebuild:
            return written
        return rebuild_summary(paths, written, goes_on=goes_on)
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror}"
        raise RunError(message) from None


def rebuild_summary(paths: RunPaths, written: Summary | None, *, goes_on: bool = False) -> Summary:
    """Count the result lines again; what they cannot tell comes from the timeline, or from the summary that was written."""
    plan = read_plan(paths.plan)
    files, status = _last_attempt(paths), _status(paths.status)
    if not files and goes_on:
        phase = f" (it is {status.phase})" if status else ""
        message = f"{paths.root} has no result lines yet: the run goes on and has sent nothing so far{phase}"
        raise RunError(message)
    if not files:
        reason = f" ({status.reason})" if status and status.reason else ""
        message = f"{paths.root} has no result lines: the run ended before its first request{reason}"
        raise RunError(message)
    timeline = _timeline(paths.timeline)
    if written is None:
        tally, run = _cut_off(plan, files, timeline, status)
        run = replace(run, outcome="running") if goes_on else run
    else:
        tally, run = _again(plan, written, files, timeline)
    for line in timeline:  # inter-chunk times stand there alone
        if histogram := line.histograms.get("inter_chunk"):
            tally.histograms["inter_chunk"].merge(histogram)
    return summarize(run, tally)


def _again(plan: Plan, written: Summary, files: dict[int, Path], timeline: list[TimelineLine]) -> tuple[Tally, Run]:
    """A run that has a summary, counted again."""
    end = round(written.windows.measured_end * 1e9)
    lost = {report.rank: report.told_sent for report in written.ranks if report.lost}
    there = [path for rank, path in files.items() if rank not in lost]
    tally = tally_of(there, Window(plan.window_start_ns, end))
    unsent = 0
    for rank, told in lost.items():
        of_lost, missing = tally_of_lost(files.get(rank), plan, rank, end, told)
        tally.merge(of_lost)
        unsent += missing
    return tally, Run(
        plan=plan,
        outcome=written.outcome,
        window_end=end,
        requested_rps=mean_rate(plan, end),
        started_at=written.started_at,
        ended_at=written.ended_at,
        ranks=written.ranks,
        waited_below_cap=sum(line.waited_below_cap for line in timeline),
        unsent_by_lost_ranks=unsent,
        left_out=timeline[-1].left_out if timeline else [],
        environment=written.environment,
    )


def _cut_off(
    plan: Plan, files: dict[int, Path], timeline: list[TimelineLine], status: Status | None
) -> tuple[Tally, Run]:
    """A run that never wrote its summary: it ended with the last that was seen of it."""
    seen = tally_of(list(files.values()), Window(plan.window_start_ns, plan.window_end_ns))
    last = max(seen.last_event, (timeline[-1].t + 1) * 10**9 if timeline else 0)
    latest = plan.window_end_ns
    if status and status.window_end_seconds is not None:  # it may have been told to stop before
        stopped = round(status.window_end_seconds * 1e9)
        latest = stopped if latest is None else min(stopped, latest)
    end = window_end_of(plan, latest, scheduled=seen.counts.scheduled, last_event=last)
    end = max(min(end, last + 1), plan.window_start_ns)
    tally, unsent, lost = Tally(), 0, set()
    for rank in range(plan.ranks):
        of_rank, missing = tally_of_lost(files.get(rank), plan, rank, end, 0)
        if missing and _silent(rank, timeline):
            lost.add(rank)
            unsent += missing
        else:
            of_rank = tally_of_cut_off(files.get(rank), plan, rank, end)
        tally.merge(of_rank)
    return tally, Run(
        plan=plan,
        outcome="cut off",
        window_end=end,
        requested_rps=mean_rate(plan, end),
        started_at=None,
        ended_at=None,
        ranks=[_rank(rank, timeline, lost=rank not in files or rank in lost) for rank in range(plan.ranks)],
        waited_below_cap=sum(line.waited_below_cap for line in timeline),
        unsent_by_lost_ranks=unsent,
        left_out=timeline[-1].left_out if timeline else [],
        environment=(status and status.environment) or Environment(tokenstorm=plan.tokenstorm, model=plan.model),
    )


def _last_attempt(paths: RunPaths) -> dict[int, Path]:
    """The result files by rank; where the job was started anew, the last start that sent anything is the run."""
    files = paths.all_results()
    last = max((attempt for (_, attempt), path in files.items() if path.stat().st_size), default=0)
    return {rank: path for (rank, attempt), path in files.items() if attempt == last}


def _silent(rank: int, timeline: list[TimelineLine]) -> bool:
    """Whether a rank had stopped telling of itself before the run was cut off."""
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


def _timeline(path: Path) -> list[TimelineLine]:
    if not path.exists():
        return []
    decode = msgspec.json.Decoder(TimelineLine).decode
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        return list({line.t: line for line in map(decode, reversed(whole))}.values())[::-1]
    except NOT_JSON as error:
        message = f"{path}: not a timeline: {error}"
        raise RunError(message) from None


def _written(path: Path) -> Summary | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Summary)
    except FileNotFoundError:
        return None
    except NOT_JSON as error:
        message = f"{path} is no summary ({error}): try --rebuild"
        raise RunError(message) from None


def _status(path: Path) -> Status | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except (FileNotFoundError, *NOT_JSON):  # a node that crashed leaves files without their content; lines tell more
        return None
