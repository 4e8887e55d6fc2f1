"""What the replicas say of themselves while the run goes on, asked for once a second.

The launcher asks, and no rank: nothing of the load waits for it. A replica that has nothing to say is asked once.
"""

import asyncio
from time import monotonic_ns

from tokenstorm.loadgen.asking import LARGEST_ANSWER, Asking
from tokenstorm.loadgen.document import Document, fetch
from tokenstorm.loadgen.endpoint import endpoints_of
from tokenstorm.loadgen.openai import service_head
from tokenstorm.loadgen.pool import Pool, pools_of
from tokenstorm.metrics.engine import EngineSecond
from tokenstorm.metrics.enginetext import EngineReading, read_engine, second_between
from tokenstorm.plan import Plan

LAST_SECONDS = 1.0
"""What the last look may take, when the run is over."""
LONGEST_PAUSE = 30
"""Seconds between two tries to reach a replica that does not answer, at most."""
_NEVER = frozenset((401, 403, 404, 405, 410, 501))
"""Statuses of a service that has no metrics, or none for us."""


class Sampler:
    """Keeps the newest figures of each replica. `close` it."""

    def __init__(self, plan: Plan, api_key: str | None) -> None:
        asked = plan.targets if plan.engine_metrics else ()
        self._replicas = [target.replica for target in asked]
        self._endpoints = endpoints_of((target.url for target in asked), plan.endpoint)
        self._plan = plan
        self._api_key = api_key
        self._watched: dict[str, _Engine] = {}
        self._asking = Asking()

    def start(self, start_at: int) -> None:
        """Begin to ask, at each full second from `start_at` on."""
        pools = pools_of(self._endpoints)
        for replica, endpoint, pool in zip(self._replicas, self._endpoints, pools, strict=True):
            request = service_head(self._plan, "GET", endpoint, f"{endpoint.path}/metrics", self._api_key) + b"\r\n"
            engine = self._watched[replica] = _Engine(pool, request, start_at)
            self._asking.begin(start_at, engine.ask)

    def take(self) -> dict[str, EngineSecond]:
        """What was said since this was called last, by replica."""
        said = {replica: engine.take() for replica, engine in self._watched.items()}
        return {replica: second for replica, second in said.items() if second is not None}

    async def finish(self) -> None:
        """Ask a last time, so that nothing of the end is missing."""
        await self._asking.stop()
        last = [engine.ask(LAST_SECONDS) for engine in self._watched.values() if engine.has_said]
        await asyncio.gather(*last)

    async def close(self) -> None:
        """Stop asking, and give up the connections."""
        for engine in self._watched.values():
            engine.pool.close()
        await self._asking.close()


class _Engine:
    """One replica's `/metrics`."""

    def __init__(self, pool: Pool, request: bytes, start_at: int) -> None:
        self.pool = pool
        self._request = request
        self._start_at = start_at
        self._before: EngineReading | None = None
        self._before_at = 0.0
        self._now: EngineReading | None = None
        self._now_at = 0.0
        self._failures = 0

    @property
    def has_said(self) -> bool:
        """Whether it has figures at all."""
        return self._before is not None

    async def ask(self, seconds: float) -> int | None:
        """Ask once; see `Ask`."""
        document = await fetch(self.pool, self._request, seconds=seconds, limit=LARGEST_ANSWER)
        reading = read_engine(body) if (body := document.body) is not None else None
        if reading is not None:
            self._failures = 0
            self._learn(reading, (monotonic_ns() - self._start_at) / 1e9)
            return 1
        if _says_nothing(document):
            return None
        self._failures += 1
        return min(1 << self._failures, LONGEST_PAUSE)

    def _learn(self, reading: EngineReading, at: float) -> None:
        """Take in figures. The first ones, and those up to the start, are only what later ones are counted from."""
        if self._before is None or at <= 0:
            self._before, self._before_at = reading, at
        else:
            self._now, self._now_at = reading, at

    def take(self) -> EngineSecond | None:
        """What is new since this was called last."""
        before, now, at, since = self._before, self._now, self._now_at, self._before_at
        if before is None or now is None:
            return None
        self._before, self._before_at, self._now = now, at, None
        return second_between(before, now, at, at - since)


def _says_nothing(document: Document) -> bool:
    """Whether this is an answer after which there is no need to ask again."""
    return document.status in _NEVER or document.is_too_long or document.body is not None
