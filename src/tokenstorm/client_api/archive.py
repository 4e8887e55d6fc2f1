"""What runs left behind: read where they ran, kept at home."""

import asyncio
import contextlib
import csv
import io
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from tokenstorm.cluster.shell import Shell
from tokenstorm.errors import RunError
from tokenstorm.loadgen.live import Status
from tokenstorm.metrics.summary import Summary
from tokenstorm.report.load import load_summary
from tokenstorm.result import Result
from tokenstorm.runs import RunPaths, write_atomically

PART = 2**20
"""Bytes that are read at a time."""
LOG_BYTES = 256 * 2**10
"""How much of each log one answer brings at most."""
_KEPT = ("plan.json", "status.json", "timeline.jsonl", "metrics.prom", "summary.json")
_LOGS = ("stdout.log", "stderr.log")
_RESULTS = re.compile(r"results\.(\d+)\.(\d+)\.jsonl")


@dataclass(frozen=True)
class Left:
    """What a run that is over left: no summary where it ended before its first request."""

    summary: Summary | None
    status: Status | None


class Archive:
    """Runs by their ids: `runs` where they run, `home` here; the two may be one folder. Raises `ClusterError`."""

    def __init__(self, shell: Shell, runs: PurePosixPath, home: Path) -> None:
        self._shell = shell
        self._runs = runs
        self._home = home / "runs"

    def folder(self, run_id: str) -> PurePosixPath:
        """Where the run writes."""
        return self._runs / run_id

    def paths(self, run_id: str) -> RunPaths:
        """What is kept of it here."""
        return RunPaths(self._home / run_id)

    async def keep(self, run_id: str) -> Left:
        """Bring home what a run that is over left, and sum it up where nobody did. Raises `RunError` for a bad disk."""
        paths, names = self.paths(run_id), await self._shell.list(self.folder(run_id))
        wanted = [name for name in names if name in _KEPT]
        if paths.summary.name not in names:
            wanted += [name for name in names if _RESULTS.fullmatch(name)]
        try:
            if not self._is_same(run_id):
                await asyncio.to_thread(lambda: paths.root.mkdir(mode=0o700, parents=True, exist_ok=True))
                for name in wanted:
                    await self._fetch(run_id, name)
            summary = await asyncio.to_thread(self._sum_up, run_id)
        except OSError as error:
            message = f"cannot keep the results in {paths.root}: {error.strerror}; make room there"
            raise RunError(message) from None
        return Left(summary, await asyncio.to_thread(_status, paths))

    def summary(self, run_id: str) -> bytes | None:
        """The summary as it is kept, if it is."""
        with contextlib.suppress(FileNotFoundError):
            return self.paths(run_id).summary.read_bytes()
        return None

    def metrics(self, run_id: str) -> bytes | None:
        """The last Prometheus text of a run that is over."""
        with contextlib.suppress(FileNotFoundError):
            return self.paths(run_id).metrics.read_bytes()
        return None

    async def result_files(self, run_id: str) -> list[PurePosixPath]:
        """The result files of the last attempt, by rank."""
        folder = self.folder(run_id)
        found = [match for name in await self._shell.list(folder) if (match := _RESULTS.fullmatch(name))]
        last = max((int(match[2]) for match in found), default=0)
        ranks = sorted((int(match[1]), match[0]) for match in found if int(match[2]) == last)
        return [folder / name for _, name in ranks]

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
        """The same rows as CSV with a head; an error is two columns."""
        names = [name for name in Result.__struct_fields__ if name not in {"schema", "error"}]
        yield _row([*names, "error_kind", "error_detail"])
        async for lines in self.lines(files):
            results = [msgspec.json.decode(line, type=Result) for line in lines.splitlines()]
            yield b"".join(
                _row(
                    [
                        *(_cell(getattr(result, name)) for name in names),
                        result.error.kind if result.error else "",
                        result.error.detail if result.error else "",
                    ]
                )
                for result in results
            )

    async def logs(self, run_id: str, after: str) -> tuple[str, str]:
        """What the job's logs hold beyond `after`, and where to go on; `""` is the start."""
        offsets = [int(number) for number in after.split("-")] if after else [0, 0]
        texts = []
        for index, name in enumerate(_LOGS):
            with contextlib.suppress(FileNotFoundError):
                data = await self._shell.get(self.folder(run_id) / name, offset=offsets[index], limit=LOG_BYTES)
                cut = data.rfind(b"\n") + 1 or len(data)
                texts.append(data[:cut].decode(errors="replace"))
                offsets[index] += cut
        return "".join(texts), "-".join(map(str, offsets))

    async def forget_secrets(self, run_id: str) -> None:
        """The launcher does it; one that was killed did not."""
        await self._shell.remove(self.folder(run_id) / "secrets.json")

    async def purge(self, run_id: str) -> None:
        """Remove all of it, there and here."""
        await self._shell.remove(self.folder(run_id))
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, self.paths(run_id).root)

    def _is_same(self, run_id: str) -> bool:
        """Whether the run's folder is the one at home: then the plan that lies there is the run's own."""
        return str(self.folder(run_id)) == str(self.paths(run_id).root) and self.paths(run_id).plan.exists()

    def _sum_up(self, run_id: str) -> Summary | None:
        paths = self.paths(run_id)
        try:
            summary = load_summary(paths)
        except RunError:  # it says that there are no results, which the group's reason will tell
            return None
        if not paths.summary.exists():
            write_atomically(paths.summary, msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
        return summary

    async def _fetch(self, run_id: str, name: str) -> None:
        offset, target = 0, self.paths(run_id).root / name
        with target.open("wb") as file:
            while part := await self._part(self.folder(run_id) / name, offset):
                await asyncio.to_thread(file.write, part)
                offset += len(part)

    async def _part(self, file: PurePosixPath, offset: int) -> bytes:
        try:
            return await self._shell.get(file, offset=offset, limit=PART)
        except FileNotFoundError:  # purged meanwhile
            return b""


def _status(paths: RunPaths) -> Status | None:
    try:
        return msgspec.json.decode(paths.status.read_bytes(), type=Status)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _cell(value: object) -> object:
    """None is an empty cell; a list is JSON."""
    if value is None:
        return ""
    return msgspec.json.encode(value).decode() if isinstance(value, list | bool) else value


def _row(values: list[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode()
