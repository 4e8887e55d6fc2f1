"""What the deployment's GPUs say while the run goes on: each sampler is asked once a second, and answers of that moment."""

import asyncio
from collections.abc import Sequence
from time import monotonic_ns
from urllib.parse import urlsplit

from msgspec.structs import replace

from tokenstorm.loadgen.asking import ANSWER_SECONDS, LARGEST_ANSWER, Asking
from tokenstorm.loadgen.document import fetch
from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.loadgen.openai import request_head
from tokenstorm.loadgen.pool import Pool, pools_of
from tokenstorm.metrics.energy import GpuReading
from tokenstorm.metrics.gputext import MOST_GPUS, read_gpus
from tokenstorm.targets import GpuSampler

LAST_SECONDS = 3.0
"""How long readings from after the end are waited for: without them nobody knows the energy."""
LAST_PAUSE = 0.2


class PowerSampler:
    """Keeps what GPUs said. `close` it."""

    def __init__(self, samplers: Sequence[GpuSampler], api_key: str | None) -> None:
        self._samplers = samplers
        self._api_key = api_key
        self._nodes: list[_Node] = []
        self._asking = Asking()

    def start(self, start_at: int) -> None:
        """Begin to ask, at each full second from `start_at` on, and as soon as now."""
        endpoints = [_endpoint(sampler.url) for sampler in self._samplers]
        for sampler, pool in zip(self._samplers, pools_of(endpoints), strict=True):
            path = urlsplit(sampler.url).path or "/metrics"
            key = self._api_key if sampler.keyed else None
            node = _Node(sampler.node, pool, request_head("GET", pool.endpoint, path, key) + b"\r\n", start_at)
            self._nodes.append(node)
            self._asking.begin(start_at, node.ask)

    def take(self) -> list[GpuReading]:
        """The readings since this was called last."""
        return [reading for node in self._nodes for reading in node.take()]

    async def finish(self) -> None:
        """Get a last reading of each GPU, from now or later."""
        await self._asking.stop()
        now = monotonic_ns()
        await asyncio.gather(*(node.finish(now) for node in self._nodes))

    async def close(self) -> None:
        """Stop asking, and give up the connections."""
        for node in self._nodes:
            node.pool.close()
        await self._asking.close()


class _Node:
    """One sampler, or an exporter."""

    def __init__(self, name: str, pool: Pool, request: bytes, start_at: int) -> None:
        self.pool = pool
        self._name = name
        self._request = request
        self._start_at = start_at
        self._last: dict[str, GpuReading] = {}
        self._new: list[GpuReading] = []

    async def ask(self, seconds: float = ANSWER_SECONDS) -> int:
        """Ask once, and again the next second: without readings there is no energy."""
        document = await fetch(self.pool, self._request, seconds=seconds, limit=LARGEST_ANSWER)
        body, done = document.body, document.done
        if body is not None and done is not None:
            asked, answered = ((moment - self._start_at) / 1e9 for moment in (document.sent, done))
            for told in read_gpus(body, self._name, asked, answered):
                self._learn(told.reading, aged=told.aged)
        return 1

    async def finish(self, moment: int) -> None:
        """Ask until each GPU that was seen has been read after that moment."""
        after = (moment - self._start_at) / 1e9
        deadline = monotonic_ns() + round(LAST_SECONDS * 1e9)
        while any(reading.at <= after for reading in self._last.values()) and monotonic_ns() < deadline:
            await self.ask((deadline - monotonic_ns()) / 1e9)
            await asyncio.sleep(0 if all(reading.at > after for reading in self._last.values()) else LAST_PAUSE)

    def take(self) -> list[GpuReading]:
        """What is new since this was called last."""
        new, self._new = self._new, []
        return new

    def _learn(self, reading: GpuReading, *, aged: bool) -> None:
        """Keep a reading that is new. One without an age that says what the last one said is that one: exporters read when they like."""
        last = self._last.get(reading.gpu)
        if last is None and len(self._last) >= MOST_GPUS:  # no node has so many
            return
        if last is not None and (reading.at <= last.at or (not aged and replace(reading, at=last.at) == last)):
            return
        self._last[reading.gpu] = reading
        self._new.append(reading)


def _endpoint(url: str) -> Endpoint:
    """Where an exporter listens. The plan has checked its address."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return Endpoint(
        host=parts.hostname or "", port=parts.port or (443 if tls else 80), path="", authority=parts.netloc, tls=tls
    )
