"""A run's summary from its directory: the one that was written, or a new one from the result lines and the timeline."""

from pathlib import Path

import msgspec

from tokenstorm.errors import RunError
from tokenstorm.loadgen.live import RankSecond, Status, TimelineLine
from tokenstorm.loadgen.lost import tally_of_lost
from tokenstorm.metrics.rebuild import tally_of
from tokenstorm.metrics.summary import Environment, RankReport, Run, Summary, summarize
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.plan import Plan, read_plan
from tokenstorm.runs import RunPaths


def load_summary(paths: RunPaths, *, rebuild: bool = False) -> Summary:
    """The summary of a run. Raises `RunError` when the folder holds no run, or one without results."""
    try:
        if not paths.plan.exists():
            message = f"{paths.root} is no run directory: it has no {paths.plan.name}"
            raise RunError(message)
        written = _written(paths.summary)
        if written is not None and not rebuild:
            return written
        return rebuild_summary(paths, written)
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror}"
        raise RunError(message) from None


def rebuild_summary(paths: RunPaths, written: Summary | None) -> Summary:
    """Count the result lines again; what they cannot tell comes from the timeline, or from the summary that was written."""
    plan = read_plan(paths.plan)
    files, status = _last_attempt(paths), _status(paths.status)
    if not files:
        reason = f" ({status.reason})" if status and status.reason else ""
        message = f"{paths.root} has no result lines: the run ended before its first request{reason}"
        raise RunError(message)
    timeline = _timeline(paths.timeline)
    planned = Window(plan.window_start_ns, plan.window_end_ns)
    if written is None:
        seen = tally_of(list(files.values()), plan, planned).last_event
        end = max(min(seen + 1, plan.window_end_ns or seen + 1), plan.window_start_ns)
        lost = set()
    else:
        end = round(written.windows.measured_end * 1e9)
        lost = {report.rank for report in written.ranks if report.lost}
    there = [path for rank, path in files.items() if rank not in lost]
    tally = tally_of(there, plan, Window(plan.window_start_ns, end))
    unsent = 0
    for rank in lost:
        of_lost, missing = tally_of_lost(files.get(rank), plan, rank, end)
        tally.merge(of_lost)
        unsent += missing
    _add_timeline(tally, timeline)
    environment = status.environment if status else None
    known = environment or Environment(tokenstorm=plan.tokenstorm, model=plan.model)
    return summarize(_run(plan, written, known, sorted(files), timeline, end=end, unsent=unsent), tally)


def _last_attempt(paths: RunPaths) -> dict[int, Path]:
    """The result files by rank; where the job was started anew, the last start is the run."""
    files = paths.all_results()
    last = max((attempt for _, attempt in files), default=0)
    return {rank: path for (rank, attempt), path in files.items() if attempt == last}


def _run(
    plan: Plan,
    written: Summary | None,
    environment: Environment,
    ranks: list[int],
    timeline: list[TimelineLine],
    *,
    end: int,
    unsent: int,
) -> Run:
    last = timeline[-1] if timeline else None
    below = sum(line.waited_below_cap for line in timeline)
    left_out = last.left_out if last else []
    if written is not None:
        return Run(
            plan=plan,
            outcome=written.outcome,
            window_end=end,
            started_at=written.started_at,
            ended_at=written.ended_at,
            ranks=written.ranks,
            waited_below_cap=below,
            unsent_by_lost_ranks=unsent,
            left_out=left_out,
            environment=written.environment,
        )
    return Run(
        plan=plan,
        outcome="cut off",
        window_end=end,
        started_at=None,
        ended_at=None,
        ranks=[_rank(rank, timeline) for rank in ranks],
        waited_below_cap=below,
        unsent_by_lost_ranks=0,
        left_out=left_out,
        environment=environment,
    )


def _rank(rank: int, timeline: list[TimelineLine]) -> RankReport:
    seconds: list[RankSecond] = [line.ranks[str(rank)] for line in timeline if str(rank) in line.ranks]
    if not seconds:
        return RankReport(rank=rank)
    return RankReport(
        rank=rank,
        cpu=sum(second.cpu for second in seconds) / len(seconds),
        loop_lag_max_seconds=max(second.loop_lag for second in seconds),
        gc_longest_seconds=max(second.gc_pause for second in seconds),
        disk=seconds[-1].disk,
    )


def _add_timeline(tally: Tally, timeline: list[TimelineLine]) -> None:
    """Inter-chunk times stand in the timeline alone."""
    for line in timeline:
        if histogram := line.histograms.get("inter_chunk"):
            tally.histograms["inter_chunk"].merge(histogram)


def _timeline(path: Path) -> list[TimelineLine]:
    if not path.exists():
        return []
    decode = msgspec.json.Decoder(TimelineLine).decode
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        return [decode(line) for line in whole]
    except msgspec.MsgspecError as error:
        message = f"{path}: not a timeline: {error}"
        raise RunError(message) from None


def _written(path: Path) -> Summary | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Summary)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        message = f"{path} is no summary ({error}): try --rebuild after moving it away"
        raise RunError(message) from None


def _status(path: Path) -> Status | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        message = f"{path} is no status: {error}"
        raise RunError(message) from None
