"""The way to one group's launcher: its port, and its files where the port cannot be reached."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import httpx
import msgspec

from tokenstorm.cluster.shell import Shell
from tokenstorm.errors import NOT_JSON, Unreachable, UsageError, fault
from tokenstorm.loadgen.live import Status
from tokenstorm.sdk.lines import Lines

ASK_EVERY = 0.5
"""Seconds between questions to a launcher whose run has not started: its events begin with the first second."""
_BEFORE_THE_START = frozenset(("starting", "holding"))
SILENCE_SECONDS = 10.0
"""The launcher reports every second; after so long without a report it is asked again."""


TIMELINE_BYTES = 4 * 2**20
"""Of its timeline, what is read at a time where its port cannot be reached."""


class Said(msgspec.Struct, frozen=True):
    """One second of GET /events; or of the files, `written` some time ago."""

    status: Status
    line: dict[str, object] | None
    written: bool = False


@dataclass(frozen=True)
class Metrics:
    """A Prometheus text, said or `written`."""

    text: bytes
    written: bool


class _Address(msgspec.Struct):
    url: str


class LauncherLink:
    """One launcher, found by the address in its run folder. Raises `Unreachable` when it does not answer."""

    def __init__(self, shell: Shell, client: httpx.AsyncClient, folder: PurePosixPath, secret: str) -> None:
        self._shell = shell
        self._client = client
        self._folder = folder
        self._headers = {"authorization": f"Bearer {secret}"}
        self.address: str | None = None
        self._read = self._attempt = 0

    async def events(self) -> AsyncIterator[Said]:
        """What it says each second, over one connection, until the run is over. Before the start it is asked."""
        url = await self._find()
        timeout = httpx.Timeout(5.0, read=SILENCE_SECONDS)
        try:
            while (status := await self._status(url)).phase in _BEFORE_THE_START:
                yield Said(status, None)
                await asyncio.sleep(ASK_EVERY)
            async with self._client.stream("GET", f"{url}/events", headers=self._headers, timeout=timeout) as answer:
                if not answer.is_success:
                    raise _gone_error(self._folder, f"it answered {answer.status_code}")
                lines = Lines()
                async for piece in answer.aiter_bytes():
                    for line in lines.feed(piece):
                        yield msgspec.json.decode(line, type=Said)
        except (httpx.TransportError, *NOT_JSON) as error:
            raise _gone_error(self._folder, str(error) or type(error).__name__) from None

    async def control(self, words: str) -> None:
        """Say `run`, `run <unix time>`, `stop` or `abort`. Raises `UsageError` when the launcher does not take it."""
        url = await self._find()
        try:
            answer = await self._client.post(
                f"{url}/control", content=words.encode(), headers=self._headers, timeout=5.0
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, Unreachable):  # nothing was sent: the file is another way in
            await self._shell.put(self._folder / "control", words.encode())
            return
        except httpx.TransportError as error:
            raise _gone_error(self._folder, str(error) or type(error).__name__) from None
        if answer.is_client_error:
            message = f"the launcher refused {words!r}: {answer.text[:200]}"
            raise UsageError(message)

    async def metrics(self) -> Metrics | None:
        """Its Prometheus text, from the file if need be; None before there is any."""
        try:
            url = await self._find()
            answer = await self._client.get(f"{url}/metrics", headers=self._headers, timeout=5.0)
            if answer.is_success:
                return Metrics(answer.content, written=False)
        except (httpx.TransportError, Unreachable):
            pass
        try:
            return Metrics(await self._shell.get(self._folder / "metrics.prom"), written=True)
        except FileNotFoundError:
            return None

    async def files(self) -> list[Said]:
        """What it wrote down since the last call: its status, with each second that is new; nothing before it did."""
        try:
            status = msgspec.json.decode(await self._shell.get(self._folder / "status.json"), type=Status)
        except FileNotFoundError:
            return []
        except NOT_JSON as error:
            raise _gone_error(self._folder, f"its status.json cannot be read: {fault(error)}") from None
        if status.attempt != self._attempt:  # the job started anew, and so did the timeline
            self._attempt, self._read = status.attempt, 0
        found = await self._new_seconds()
        if any(line.get("attempt", 0) != status.attempt for line in found):  # the one of the start before, still
            found, self._read = [], 0
        seconds = [Said(status, line, written=True) for line in found]
        return seconds or [Said(status, None, written=True)]

    async def _new_seconds(self) -> list[dict[str, object]]:
        try:
            data = await self._shell.get(self._folder / "timeline.jsonl", offset=self._read, limit=TIMELINE_BYTES)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        seconds = []
        for line in whole.split(b"\n")[:-1]:
            with contextlib.suppress(*NOT_JSON):  # the run's summary tells of it
                seconds.append(msgspec.json.decode(line, type=dict[str, object]))
        return seconds

    async def _status(self, url: str) -> Status:
        answer = await self._client.get(f"{url}/status", headers=self._headers, timeout=5.0)
        if not answer.is_success:
            raise _gone_error(self._folder, f"it answered {answer.status_code}")
        return msgspec.json.decode(answer.content, type=Status)

    async def _find(self) -> str:
        try:
            described = await self._shell.get(self._folder / "address.json")
            self.address = msgspec.json.decode(described, type=_Address).url
        except FileNotFoundError:
            raise _gone_error(self._folder, "it has not opened its port yet") from None
        except NOT_JSON as error:
            raise _gone_error(self._folder, f"its address.json cannot be read: {fault(error)}") from None
        return self.address


def _gone_error(folder: PurePosixPath, why: str) -> Unreachable:
    return Unreachable(f"the launcher of {folder} is not reachable: {why}")
