"""Whether all files of a run are complete: compares what the run reported about them with what is there."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tokenstorm.errors import OtherVersion, RunError
from tokenstorm.loadgen.live import Status, TimelineLine
from tokenstorm.metrics.points import SeriesSummary
from tokenstorm.metrics.reports import Missing, RankReport
from tokenstorm.metrics.summary import Summary
from tokenstorm.metrics.tally import Tally
from tokenstorm.plan import Plan
from tokenstorm.result import YEAR_NS
from tokenstorm.runs import RunPaths, SeriesPaths
from tokenstorm.written import decode, read_lines

CLOCK_SLACK_SECONDS = 0.1
"""A rank begins to count its seconds at most this long before the common start."""
_DIGITS = 10
"""No rank number has more digits."""
_TOLD = ("scheduled", "sent", "succeeded", "failed", "unsent")


@dataclass
class Found:
    """The result files of a run's last start that sent anything, and the faults in them, in words."""

    attempt: int
    results: dict[int, Path]
    faults: list[str] = field(default_factory=list)
    latest: int = YEAR_NS
    """No line can be of a moment after this one, in nanoseconds from the common start."""
    requests: int = 0
    """How many faults are lines or requests that are missing."""

    def skip(self, words: str) -> None:
        """A line of results, or a whole file, cannot be read."""
        self.faults.append(words)
        self.requests += 1


def read_summary(paths: RunPaths) -> Summary | None:
    """The summary that was written; None where there is none. Raises `RunError`, `OtherVersion` and OSError."""
    try:
        return decode(paths.summary.read_bytes(), Summary, str(paths.summary))
    except FileNotFoundError:
        return None
    except OtherVersion:
        raise
    except RunError as error:
        message = f"{error}; `tokenstorm report --rebuild` makes it again from the result lines"
        raise RunError(message) from None


def read_status(paths: RunPaths) -> Status | None:
    """What the launcher said last; None where it said nothing. Raises `RunError`, `OtherVersion` and OSError."""
    try:
        return decode(paths.status.read_bytes(), Status, str(paths.status))
    except FileNotFoundError:
        return None


def read_series_summary(paths: SeriesPaths) -> SeriesSummary | None:
    """`series_summary.json`, None where there is none. Raises `RunError` for one that cannot be read."""
    try:
        return decode(paths.summary.read_bytes(), SeriesSummary, str(paths.summary))
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"cannot read {paths.summary}: {error.strerror}"
        raise RunError(message) from None


def last_results(paths: RunPaths) -> tuple[int, dict[int, Path]]:
    """Which start of the job was the last that sent anything, and its result files by rank."""
    files = paths.all_results()
    last = max((attempt for (_, attempt), path in files.items() if _size(path)), default=0)
    return last, {rank: path for (rank, attempt), path in files.items() if attempt == last}


def find_results(paths: RunPaths, plan: Plan) -> Found:
    """The result files by rank; where the job was started anew, the last start that sent anything is the run."""
    found = Found(*last_results(paths))
    for rank in sorted(found.results):
        if rank >= plan.ranks:
            name = found.results.pop(rank).name
            found.faults.append(f"{name} is not counted, since the plan has ranks 0 to {plan.ranks - 1} only")
    return found


def latest_moment(plan: Plan, written: Summary | None, status: Status | None) -> int:
    """After this moment, in nanoseconds from the common start, the run cannot have gone on.

    It is the last one that the plan, the summary or the status knows of, and the time that an answer and the drain may take.
    """
    ends = [plan.window_end_ns / 1e9] if plan.window_end_ns is not None else []
    if written is not None:
        ends += [written.windows.measured_end, *(report.wall_seconds for report in written.ranks)]
    if not ends:  # only a count tells when it ends, and the status may be old
        return YEAR_NS
    ends += [status.elapsed_seconds] if status else []
    return min(YEAR_NS, round((max(ends) + plan.request_timeout_seconds + plan.drain_seconds) * 1e9))


def seconds_of(paths: RunPaths, found: Found) -> Iterator[TimelineLine]:
    """The lines of the timeline as they stand there, without those that cannot be of this run."""
    try:
        for line in read_lines(paths.timeline, TimelineLine, found.faults.append):
            if line.t * 10**9 > found.latest:
                found.faults.append(f"{paths.timeline.name}, second {line.t}: it is later than the run's end")
            elif not all(histogram.adds_up for histogram in line.histograms.values()):
                found.faults.append(f"{paths.timeline.name}, second {line.t}: a histogram of it does not add up")
            else:
                yield line
    except FileNotFoundError:
        pass
    except OSError as error:
        found.faults.append(f"{paths.timeline.name} cannot be read: {error.strerror}")


def told_bytes(written: Summary | None, timeline: list[TimelineLine]) -> dict[int, int]:
    """The least bytes of each rank's result lines, by all that was reported about them."""
    told: dict[int, int] = {}
    for report in written.ranks if written else ():
        told[report.rank] = report.disk.written_bytes
    for line in timeline:
        for name, second in line.ranks.items():
            rank = int(name) if name.isdecimal() and len(name) <= _DIGITS else -1
            told[rank] = max(told.get(rank, 0), second.disk.written_bytes)
    return told


def missing_of(
    paths: RunPaths,
    plan: Plan,
    found: Found,
    *,
    written: Summary | None,
    status: Status | None,
    timeline: list[TimelineLine],
    counted: Tally,
) -> Missing:
    """What is missing. `counted` is the sum of the lines of all ranks, without what was added for lost ones."""
    told = told_bytes(written, timeline)
    reports = {report.rank: report for report in written.ranks} if written else {}
    words, gone = list(found.faults), 0
    for rank in range(plan.ranks):
        lacking, said = _results(paths, rank, found, told.get(rank, 0), reports.get(rank))
        gone += lacking
        words += said
    requests, of = _requests(counted, written, status, timeline)
    if requests:
        words.append(f"{requests} of {of} requests that were told of have no line")
    words += _seconds(paths.timeline, written, status, timeline)
    if more := _more_requests(counted, written):
        words.append(f"the lines tell of more requests than the summary ({more} more)")
    lines = counted.counts.scheduled + counted.warmup.scheduled
    shares = (gone / max(1, sum(told.values())), requests / max(1, of), found.requests / max(1, found.requests + lines))
    return Missing(words, max(shares))


def _results(paths: RunPaths, rank: int, found: Found, told: int, report: RankReport | None) -> tuple[int, list[str]]:
    """The bytes that one rank's lines lack, and a sentence about its file."""
    lost = report is not None and report.lost is not None
    path, name = found.results.get(rank), paths.results(rank, found.attempt).name
    if path is None:
        if lost and not told:  # it never came, or wrote nothing
            return 0, []
        return told, [f"{name} is not there" + (f" ({told} bytes were written)" if told else "")]
    size = _size(path)
    if size < told:
        return told - size, [f"{name} ends after {size} of {told} bytes"]
    if report is not None and not lost and size > told:
        return 0, [f"{name} has {size} bytes, and this run wrote {told}: it is of another start, or was added to"]
    return 0, []


def _requests(
    counted: Tally, written: Summary | None, status: Status | None, timeline: list[TimelineLine]
) -> tuple[int, int]:
    """How many reported requests have no line, and how many were reported."""
    if written is not None:
        ours, theirs = (counted.counts, counted.warmup), (written.counts, written.windows.warmup)
        scheduled = [sum(part.scheduled for part in parts) for parts in (ours, theirs)]
        ended = [sum(part.succeeded + part.failed for part in parts) for parts in (ours, theirs)]
        return max(0, scheduled[1] - scheduled[0], ended[1] - ended[0]), scheduled[1]
    if timeline:  # what ended in the last second may have waited for the disk when the run was cut off
        before = max(line.t for line in timeline)
        told = sum(line.succeeded + line.failed + line.unsent for line in timeline if line.t < before)
    else:
        told = status.succeeded + status.failed + status.unsent if status else 0
    has = sum(part.succeeded + part.failed + part.unsent for part in (counted.counts, counted.warmup))
    return max(0, told - has), told


def _more_requests(counted: Tally, written: Summary | None) -> int:
    """How many requests have a line and were not reported; nobody knows that of a lost rank."""
    if written is None or any(report.lost is not None for report in written.ranks):
        return 0
    theirs = written.counts.scheduled + written.windows.warmup.scheduled
    return max(0, counted.counts.scheduled + counted.warmup.scheduled - theirs)


def _seconds(path: Path, written: Summary | None, status: Status | None, timeline: list[TimelineLine]) -> list[str]:
    """A sentence about a timeline that is incomplete. Requests are counted without it, inter-chunk times are not."""
    hint = "inter-chunk times and the ranks' stalls of then are not known"
    if not path.exists():
        return [f"{path.name} is not there: inter-chunk times and the ranks' stalls are not known"]
    there = {line.t for line in timeline}
    wall = max((report.wall_seconds for report in written.ranks), default=0.0) if written else 0.0
    last = max([*there, math.floor(wall - CLOCK_SLACK_SECONDS)], default=-1)
    if lacking := last + 1 - len(there):
        first = next(second for second in count() if second not in there)
        which = f"second {first}" + (f" and {lacking - 1} more" if lacking > 1 else "")
        return [f"{path.name} lacks {which} of {last + 1}: {hint}"]
    for name in _TOLD if status else ():
        tells, told = sum(getattr(line, name) for line in timeline), getattr(status, name)
        if tells < told:
            return [f"{path.name} lacks its last seconds ({tells} of {told} requests {name}): {hint}"]
    return []


def _size(path: Path) -> int:
    """The size in bytes; 0 if it is no file, which reading it will show."""
    return path.stat().st_size if path.is_file() else 0
