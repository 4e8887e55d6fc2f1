"""How a run that is over comes home: every file but its secrets, again and again until nothing is missing.

A shared file system may show for a while an old state of a folder that another node wrote to. So what is seen is held
against what others know of the run: its job, its launcher's last words, and the sizes that the files themselves tell.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from tokenstorm.cluster.shell import Shell
from tokenstorm.cluster.ssh.files import LOGS, fetch_new
from tokenstorm.errors import NOT_JSON, OtherVersion, RunError
from tokenstorm.loadgen.live import Status, TimelineLine
from tokenstorm.metrics.summary import Summary
from tokenstorm.report.whole import read_series_summary, read_status, read_summary, told_bytes
from tokenstorm.runs import RunPaths, SeriesPaths, make_private, write_atomically

T = TypeVar("T")

AT_ONCE = 4
"""Files that are fetched at a time: a way that is long is waited for less, and there is room for others on it."""
RESULTS = re.compile(r"results\.(\d+)\.(\d+)\.jsonl")
SERIES = "series.json"
"""Where it is, the folder is that of a series, with a folder of each run in `runs`."""
_WRITTEN_ONCE = frozenset(
    (
        "plan.json",
        "script.sh",
        "status.json",
        "metrics.prom",
        "summary.json",
        SERIES,
        "series_summary.json",
    )
)
_LAST = "plan.json"
"""Comes when all else has: where it is, all is."""
_GROWING = frozenset(("timeline.jsonl", *LOGS))
_TAIL_BYTES = 2**20
"""Of a timeline: its last lines are in there."""


@dataclass(frozen=True)
class Expected:
    """What is known of a run from elsewhere: whether its job `ran`, whether its launcher `ended_well`, and so wrote a
    summary, and how many bytes of result lines each rank was seen to have `written`.
    """

    ran: bool = False
    ended_well: bool = False
    written: Mapping[int, int] = field(default_factory=dict)


async def bring(shell: Shell, folder: PurePosixPath, home: Path) -> None:
    """Copy what is there; of files that grow, what is not at home yet. Raises OSError for a disk of ours that is full."""
    await asyncio.to_thread(make_private, home)
    turns = asyncio.Semaphore(AT_ONCE)

    async def fetch(name: str) -> None:
        async with turns:
            await _fetch(shell, folder / name, home / name)

    names = await shell.list(folder)
    fetched = await asyncio.gather(*(fetch(name) for name in names if name != _LAST), return_exceptions=True)
    if SERIES in names:
        for number in filter(str.isdecimal, await shell.list(folder / "runs")):
            await bring(shell, folder / "runs" / number, home / "runs" / number)
    for error in fetched:  # raised when none is under way any more: the next visit goes on from what is here
        if error is not None:
            raise error
    if _LAST in names:
        await fetch(_LAST)


async def _fetch(shell: Shell, source: PurePosixPath, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # purged meanwhile, or listed too early
        if source.name in _GROWING or RESULTS.fullmatch(source.name):
            await fetch_new(shell, source, target)
        elif source.name in _WRITTEN_ONCE:
            await asyncio.to_thread(write_atomically, target, await shell.get(source))


def missing(paths: RunPaths, expected: Expected) -> str | None:
    """What is not there yet of a run, in words; None when nothing is known to be missing."""
    try:
        if SeriesPaths(paths.root).series.exists():
            return _missing_of_series(SeriesPaths(paths.root), expected)
        summary, status = summary_of(paths), status_of(paths)
    except OtherVersion:  # it came, and cannot be read
        return None
    if summary is None and (expected.ended_well or (status is not None and status.phase == "finished")):
        return paths.summary.name
    if expected.ran and not any((paths.root / name).exists() for name in (*LOGS, paths.status.name)):
        return "its logs"
    there = {rank: path.stat().st_size for (rank, _), path in paths.all_results().items()}
    for rank, size in _least_bytes(paths, summary, expected).items():
        if there.get(rank, 0) < size:
            return f"the results of rank {rank}: {size - there.get(rank, 0)} bytes"
    return None


def _missing_of_series(paths: SeriesPaths, expected: Expected) -> str | None:
    """The same of a series: each run that its summary has is whole by its own files."""
    try:
        summary = read_series_summary(paths)
    except OtherVersion:
        raise
    except RunError:
        summary = None
    if summary is None:
        return paths.summary.name if expected.ended_well else None
    for point in summary.points:
        if lacking := missing(paths.run(point.number), Expected(ended_well=True)):
            return f"of run {point.number} {lacking}"
    return None


def _least_bytes(paths: RunPaths, summary: Summary | None, expected: Expected) -> dict[int, int]:
    """The least that each rank's lines have, by all that is known."""
    told = told_bytes(summary, _last_lines(paths.timeline))
    return {rank: max(expected.written.get(rank, 0), told.get(rank, 0)) for rank in {*expected.written, *told}}


def _last_lines(timeline: Path) -> list[TimelineLine]:
    try:
        with timeline.open("rb") as file:
            file.seek(max(0, timeline.stat().st_size - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        if line.endswith(b"\n"):
            with contextlib.suppress(*NOT_JSON):  # the first one was cut into
                found.append(msgspec.json.decode(line, type=TimelineLine))
    return found


def status_of(paths: RunPaths) -> Status | None:
    """What the launcher said last, if that is there and whole. Raises `OtherVersion`."""
    return _if_whole(read_status, paths)


def summary_of(paths: RunPaths) -> Summary | None:
    """The summary that was written, if it is there and whole. Raises `OtherVersion`."""
    return _if_whole(read_summary, paths)


def _if_whole(read: Callable[[RunPaths], T | None], paths: RunPaths) -> T | None:
    try:
        return read(paths)
    except OtherVersion:
        raise
    except RunError:
        return None
