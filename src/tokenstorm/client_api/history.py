"""A group's run second by second: its timeline from the beginning, for viewers that come late."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import PurePosixPath
from typing import NamedTuple

import msgspec

from tokenstorm.client_api.archive import Archive
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.shell import Shell
from tokenstorm.errors import NOT_JSON

PART = 4 * 2**20
"""Bytes of a timeline that are read at a time."""


class History:
    """The timelines of groups. That of a run that goes on is read where it runs, and kept: the next reader gets only what is new.

    `attempt` is which start of its job a group is at, or None where it is over: of those nothing is kept.
    """

    def __init__(self, shell: Shell, archive: Archive, attempt: Callable[[int], int | None]) -> None:
        self._there, self._here = shell, LocalShell()
        self._archive = archive
        self._attempt = attempt
        self._running: dict[int, _Known] = {}

    async def lines(self, group: ClientGroup, first: int) -> AsyncIterator[bytes]:
        """The lines from second `first` on, without their histograms, in parts. Raises `ClusterError`."""
        self._running = {
            number: known for number, known in self._running.items() if known.attempt == self._attempt(number)
        }
        if group.stage == "stopped":
            await self._archive.at_home(group.run_id)
            folder = PurePosixPath(self._archive.paths(group.run_id).root)
            known = _Known(None)
            while await known.read(self._here, folder / "timeline.jsonl"):
                yield known.take(first)
        elif group.stage == "running":
            known = self._running.setdefault(group.group_id, _Known(self._attempt(group.group_id)))
            async with known.lock:
                while await known.read(self._there, self._archive.folder(group.run_id) / "timeline.jsonl"):
                    pass
            yield known.since(first)


class _Known:
    """What was read of one timeline: its lines, and the second of each. Those of another start than `attempt` are left out."""

    def __init__(self, attempt: int | None) -> None:
        self.attempt = attempt
        self.lock = asyncio.Lock()
        self._offset = 0
        self._lines: list[Line] = []

    async def read(self, shell: Shell, path: PurePosixPath) -> bool:
        """Read on; whether there was anything."""
        try:
            data = await shell.get(path, offset=self._offset, limit=PART)
        except FileNotFoundError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        lines = await asyncio.to_thread(without_histograms, whole)
        if self.attempt is not None and any(line.attempt != self.attempt for line in lines):
            self._offset, self._lines = 0, []  # the file of the start before, which the new one will replace
            return False
        self._offset += len(whole)
        self._lines += lines
        return bool(whole)

    def since(self, first: int) -> bytes:
        """The lines from that second on."""
        return b"".join(line.text for line in self._lines if line.second >= first)

    def take(self, first: int) -> bytes:
        """The same, and forget them."""
        found = self.since(first)
        self._lines = []
        return found


class Line(NamedTuple):
    """A line of a timeline: its second, the start of the job that it is of, and its text."""

    second: int
    attempt: int
    text: bytes


def without_histograms(lines: bytes) -> list[Line]:
    """Each line without its histograms; one that cannot be read is left out, as the run's summary tells."""
    found = []
    for line in lines.split(b"\n")[:-1]:
        try:
            fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            second = int(msgspec.json.decode(fields["t"], type=float))
            attempt = msgspec.json.decode(fields["attempt"], type=int) if "attempt" in fields else 0
        except (KeyError, *NOT_JSON):
            continue
        fields.pop("histograms", None)
        found.append(Line(second, attempt, msgspec.json.encode(fields) + b"\n"))
    return found
