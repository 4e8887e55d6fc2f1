"""The files that a launcher writes for those who cannot reach its port, and the command they may leave in one."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from tokenstorm.loadgen.live import TimelineLine
from tokenstorm.loadgen.messages import COMMANDS
from tokenstorm.loadgen.progress import Progress
from tokenstorm.metrics.summary import Summary
from tokenstorm.runs import RunPaths, append, write_atomically
from tokenstorm.threads import run_in_thread

WRITE_SECONDS = 10.0
"""The time limit for the last files of a run."""
UNWRITTEN_BYTES = 64_000_000
"""The most bytes of the timeline that wait for a disk that hangs; further lines are left out."""
COMMAND_SHOWN = 80


class Journal:
    """Keeps the timeline, `status.json` and `metrics.prom` of a run. `trouble` says what went wrong with the files.

    Files are written in threads: a disk that hangs delays the files and nothing else.
    """

    def __init__(self, paths: RunPaths, progress: Progress, obey: Callable[[str], bool]) -> None:
        self.trouble = ""
        self._paths = paths
        self._progress = progress
        self._obey = obey
        self._unwritten = b""
        self._turn: asyncio.Task[None] | None = None

    def add(self, line: TimelineLine) -> None:
        """Add a line to the timeline. The next turn writes it."""
        if len(self._unwritten) < UNWRITTEN_BYTES:
            self._unwritten += msgspec.json.encode(line) + b"\n"
        else:
            self.trouble = "the run directory hung for so long that seconds of the timeline are missing"

    def begin_turn(self, *, with_files: bool) -> None:
        """Write what is new, `with_files` status and metrics too, and read the control file. Does nothing while a turn goes on."""
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._take_turn(with_files=with_files))

    async def end_turns(self) -> None:
        """Wait for the current turn; give it up if it hangs."""
        if self._turn is not None:
            _, hanging = await asyncio.wait([self._turn], timeout=WRITE_SECONDS)
            for task in hanging:
                task.cancel()

    async def write_summary(self, summary: Summary) -> None:
        """Write `summary.json`. Raises OSError."""
        data = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
        await run_in_thread(lambda: write_atomically(self._paths.summary, data), WRITE_SECONDS)

    async def write_last(self, reason: str | None) -> None:
        """Write the rest of the timeline, and status and metrics for the last time. Raises OSError."""
        await self._write(self._files(reason), WRITE_SECONDS)

    async def _take_turn(self, *, with_files: bool) -> None:
        try:
            await self._write(self._files(None) if with_files else {}, None)
            command = await run_in_thread(lambda: take_command(self._paths.control), None)
            if command and not self._obey(command):
                self.trouble = f"the control file said {command[:COMMAND_SHOWN]!r}, which is none of {COMMANDS}"
        except OSError as error:
            self.trouble = f"the run directory could not be written to for some time: {error.strerror}"

    def _files(self, reason: str | None) -> dict[Path, bytes]:
        return {
            self._paths.status: msgspec.json.encode(self._progress.status(reason)) + b"\n",
            self._paths.metrics: self._progress.metrics(),
        }

    async def _write(self, files: dict[Path, bytes], seconds: float | None) -> None:
        lines = self._unwritten
        await run_in_thread(lambda: append(self._paths.timeline, lines), seconds)
        self._unwritten = self._unwritten[len(lines) :]  # at once: what comes next may fail
        for path, data in files.items():
            await run_in_thread(partial(write_atomically, path, data), seconds)


def take_command(path: Path) -> str:
    """Read and remove the control file. An empty one stays: its writer has not finished."""
    try:
        command = path.read_bytes().decode(errors="replace").strip()
        if command:
            path.unlink()
    except FileNotFoundError:
        return ""
    return command
