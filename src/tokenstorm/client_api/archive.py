"""The files of runs that are over: fetched home at the end, and read there from then on."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from weakref import WeakValueDictionary

import msgspec

from tokenstorm.client_api.homecoming import Expected, bring, missing, status_of, summary_of
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.shell import Shell
from tokenstorm.cluster.ssh.files import LOGS, PART
from tokenstorm.errors import NOT_JSON, OtherVersion, RunError, fault
from tokenstorm.jobs.logs import read_on
from tokenstorm.loadgen.live import Status
from tokenstorm.metrics.summary import Summary
from tokenstorm.report.rows import ParquetTable, csv_head, csv_rows
from tokenstorm.report.whole import last_results, read_series_summary
from tokenstorm.result import Result
from tokenstorm.runs import RunPaths, SeriesPaths, write_atomically

MakePage = Callable[[RunPaths, Summary], str]
"""Writes the report of a run into its folder; returns in words what was wrong, and never raises."""
Rebuild = Callable[[RunPaths], Summary]
"""Sums up a run from its result lines. Raises RunError where there are none, and OtherVersion."""
LOG_BYTES = 256 * 2**10
"""How much of each log one answer brings at most."""


@dataclass(frozen=True)
class Left:
    """What is left of a run that is over. `summary` is None where it ended before its first request, or for the reason `unread`."""

    summary: Summary | None
    status: Status | None
    unread: str = ""

    @property
    def said(self) -> str:
        """The launcher's last reason, or why it cannot be known."""
        return self.unread or (self.status.reason if self.status else None) or ""


class Archive:
    """Runs by their ids: `runs` where they run, `home` here; the two may be one folder. Raises `ClusterError`."""

    def __init__(self, shell: Shell, runs: PurePosixPath, home: Path, make_page: MakePage, rebuild: Rebuild) -> None:
        self._shell = shell
        self._make_page, self._rebuild = make_page, rebuild
        self._runs = runs
        self.home = home / "runs"
        self._here = LocalShell()
        self._coming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def folder(self, run_id: str) -> PurePosixPath:
        """Where the run writes."""
        return self._runs / run_id

    def paths(self, run_id: str) -> RunPaths:
        """What is kept of it here."""
        return RunPaths(self.home / run_id)

    async def bring(self, run_id: str, expected: Expected) -> str | None:
        """Bring home what a run that is over left; what is still missing, in words. Raises `RunError` for a bad disk."""
        paths = self.paths(run_id)
        try:
            if not self._is_same(run_id):
                await bring(self._shell, self.folder(run_id), paths.root)
            return await asyncio.to_thread(missing, paths, expected)
        except OSError as error:
            raise _full(paths, error) from None

    async def sum_up(self, run_id: str) -> Left:
        """The summary of what came home; made now where the run wrote none. Raises `RunError` for a bad disk."""
        paths = self.paths(run_id)
        try:
            summary = await asyncio.to_thread(self._sum_up, run_id)
            return Left(summary, await asyncio.to_thread(status_of, paths))
        except OSError as error:
            raise _full(paths, error) from None
        except OtherVersion as error:
            return Left(None, None, str(error))

    async def at_home(self, run_id: str) -> None:
        """Make sure that the files of a run that is over are here: fetch them again if the user removed them."""
        async with self._coming.setdefault(
            run_id, asyncio.Lock()
        ):  # other callers wait meanwhile: a fetch appends to files
            if not self._is_same(run_id) and not self.paths(run_id).plan.exists():
                await self.bring(run_id, Expected())
                if self.paths(run_id).plan.exists():
                    await self.sum_up(run_id)

    def summary(self, run_id: str) -> bytes | None:
        """The summary as it is kept, if it is."""
        with contextlib.suppress(FileNotFoundError):
            return self.paths(run_id).summary.read_bytes()
        return None

    async def series(self, run_id: str, *, is_over: bool) -> bytes | None:
        """The points of a series so far, as its driver wrote them; None before the first. Raises `ClusterError`."""
        if is_over:
            await self.at_home(run_id)
        shell, folder = self._shell, self.folder(run_id)
        if is_over:
            shell, folder = self._here, PurePosixPath(self.paths(run_id).root)
        with contextlib.suppress(FileNotFoundError):
            return await shell.get(folder / "series_summary.json")
        return None

    async def page(self, run_id: str) -> bytes | None:
        """The report of a run that is over, as it is kept, or made now; None without a summary of this version."""
        await self.at_home(run_id)
        paths = self.paths(run_id)
        if not paths.report.exists():
            await self.sum_up(run_id)
        with contextlib.suppress(FileNotFoundError):
            return paths.report.read_bytes()
        return None

    def metrics(self, run_id: str) -> bytes | None:
        """The last Prometheus text of a run that is over."""
        with contextlib.suppress(FileNotFoundError):
            return self.paths(run_id).metrics.read_bytes()
        return None

    async def result_files(self, run_id: str) -> list[PurePosixPath]:
        """The result files of the last attempt that sent anything, of a run that is over, by rank: the report's."""
        await self.at_home(run_id)
        _, files = await asyncio.to_thread(last_results, self.paths(run_id))
        return [PurePosixPath(path) for path in files.values()]

    async def lines(self, files: list[PurePosixPath]) -> AsyncIterator[bytes]:
        """The whole lines of those files, many at a time; a last one that is cut off is left out."""
        for file in files:
            offset, rest = 0, b""
            while part := await self._part(file, offset):
                offset += len(part)
                whole, newline, rest = (rest + part).rpartition(b"\n")
                if newline:
                    yield whole + newline

    async def csv(self, files: list[PurePosixPath]) -> AsyncIterator[bytes]:
        """The same rows as CSV with a head; docs/runs.md tells its columns."""
        yield csv_head()
        async for lines in self.lines(files):
            yield await asyncio.to_thread(_csv, lines)

    async def parquet(self, files: list[PurePosixPath]) -> AsyncIterator[bytes]:
        """The same rows as Parquet, a row group at a time. Raises `RunError` where its writer is not installed."""
        table = ParquetTable()
        async for lines in self.lines(files):
            yield await asyncio.to_thread(_add, table, lines)
        yield await asyncio.to_thread(table.end)

    async def logs(self, run_id: str, after: str, *, is_over: bool) -> tuple[str, str]:
        """What the job's logs hold beyond `after`, and where to go on; `""` is the start."""
        shell, folder = self._shell, self.folder(run_id)
        if is_over:
            await self.at_home(run_id)
            shell, folder = self._here, PurePosixPath(self.paths(run_id).root)
        places = dict(zip(LOGS, map(int, after.split("-")), strict=True)) if after else {}
        parts = await read_on(shell, folder, LOGS, places, limit=LOG_BYTES, whole_lines=True)
        return "".join(text for _, text in parts), "-".join(str(places.get(name, 0)) for name in LOGS)

    async def forget_secrets(self, run_id: str) -> None:
        """Remove the run's secrets: a launcher that was killed has not done it."""
        await self._shell.remove(self.folder(run_id) / "secrets.json")

    async def purge(self, run_id: str) -> None:
        """Remove all of it, there and here."""
        await self._shell.remove(self.folder(run_id))
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, self.paths(run_id).root)

    def _is_same(self, run_id: str) -> bool:
        """Whether the run's folder is the one at home: then the plan that lies there is the run's own."""
        there, here = Path(self.folder(run_id)), self.paths(run_id).root
        if str(there) != str(here) and not (isinstance(self._shell, LocalShell) and _is_one(there, here)):
            return False
        return self.paths(run_id).plan.exists()

    def _sum_up(self, run_id: str) -> Summary | None:
        paths = self.paths(run_id)
        summary = summary_of(paths) or self._rebuilt(paths)
        if summary and (trouble := self._make_page(paths, summary)):
            sys.stderr.write(f"tokenstorm: {trouble}\n")
        series = read_series_summary(SeriesPaths(paths.root))
        if summary and series and series.outcome != "completed":  # the run that stands for it may be whole
            summary = msgspec.structs.replace(summary, outcome="cancelled")
        return summary

    def _rebuilt(self, paths: RunPaths) -> Summary | None:
        try:
            summary = self._rebuild(paths)
        except OtherVersion:
            raise
        except RunError:  # it says that there are no results, which the group's reason will tell
            return None
        write_atomically(paths.summary, msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
        return summary

    async def _part(self, file: PurePosixPath, offset: int) -> bytes:
        try:
            return await self._here.get(file, offset=offset, limit=PART)
        except FileNotFoundError:  # purged meanwhile
            return b""


def _is_one(one: Path, other: Path) -> bool:
    """Whether two names of this machine are those of one folder."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _full(paths: RunPaths, error: OSError) -> RunError:
    return RunError(f"cannot keep the results in {paths.root}: {error.strerror}; make room there")


def readable(lines: bytes) -> Iterator[Result]:
    """The results on those lines. A line that cannot be read is left out, with a line in the log."""
    for line in lines.split(b"\n")[:-1]:
        try:
            yield msgspec.json.decode(line, type=Result)
        except NOT_JSON as error:
            sys.stderr.write(f"tokenstorm: a result line was left out: {fault(error)}\n")


def _csv(lines: bytes) -> bytes:
    return csv_rows(readable(lines))


def _add(table: ParquetTable, lines: bytes) -> bytes:
    return table.add(readable(lines))
