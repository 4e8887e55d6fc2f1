"""One replica: from the first port that may be free to an engine that is proved to be ours."""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenstorm.errors import UsageError
from tokenstorm.node import engine, ports
from tokenstorm.node.keeper import Slot
from tokenstorm.node.parts import STOPPED, Failed
from tokenstorm.node.publishing import Publisher
from tokenstorm.node.readiness import Answer, Verdict, judge
from tokenstorm.node.service import LAST_PORT, Published, Service

POLL_SECONDS = 0.1
PORTS_TRIED = 1000
CLASHES = 20
"""An engine that failed after so many starts has another problem than its port."""
PROBE_SECONDS = 5.0
"""How long its health call and its list of models may take; a request for a token has until the deadline."""
AGAIN_SECONDS = 1.0
"""Between two requests for a token."""
BARE_SECONDS = 5.0
"""How long an engine listens that has no call to ask, before that counts as ready: what loads may look like that."""

Found = Literal["running", "clash"]


@dataclass(frozen=True)
class Place:
    """Where a replica belongs."""

    folder: Path
    node: str
    index: int

    @property
    def name(self) -> str:
        """Unique in the service."""
        return f"{self.node}.{self.index}"

    @property
    def log(self) -> Path:
        """What the engine says."""
        return self.folder / f"replica.{self.name}.log"


class Replica:
    """Starts an engine, moves on to another port at a clash, and follows it to its end."""

    def __init__(
        self,
        service: Service,
        place: Place,
        api_key_file: Path,
        slot: Slot,
        *,
        values: Mapping[str, str] | None = None,
        nodes: tuple[str, ...] = (),
        lacking: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """For an engine that spans nodes `values` are further placeholders, and `lacking` tells what it waits for."""
        self._values = values or {}
        self._lacking = lacking
        self._nodes = nodes or (place.node,)
        self._service = service
        self._place = place
        self._api_key_file = api_key_file
        self._slot = slot
        self._mark = service.mark(place.index)
        self._publisher = Publisher(place.folder)
        self._process: engine.Engine | None = None
        self._reserved: socket.socket | None = None
        self._port = service.base_port
        self._reason = ""
        self.was_ready = False

    async def run(self) -> None:
        """Until the engine ended, which is always a failure: it is meant to stay. Cancelling ends the engine."""
        reason = STOPPED
        try:
            reason = await self.follow()
        finally:
            await self.end(reason)

    async def follow(self) -> str:
        """Start the engine and follow it. Returns why it ended or will not run."""
        try:
            await self._reach_running()
            self.was_ready = True
            self._publish("running", self._reason)
            return await self._end()
        except (Failed, UsageError) as error:
            return str(error)
        except OSError as error:
            return engine.not_started(error)

    async def end(self, reason: str) -> None:
        """End the engine, and tell why."""
        await self._leave()
        self._publish("stopped" if reason == STOPPED else "failed", reason)
        await self._publisher.finish()

    async def _reach_running(self) -> None:
        deadline = time.monotonic() + self._service.ready_seconds
        clashes = 0
        for port in range(self._service.base_port, min(self._service.base_port + PORTS_TRIED, LAST_PORT + 1)):
            if not self._take(port):
                continue
            self._start()
            self._report(f"it does not listen on port {port} yet")
            if await self._settle(deadline) == "running":
                return
            how = self._last_words()
            await self._leave()
            clashes += 1
            if clashes == CLASHES:
                message = f"on {CLASHES} ports from {self._service.base_port} up somebody else was quicker{how}"
                raise Failed(message)
        message = f"no free port from {self._service.base_port} up: choose another `ports` (of replicas: `base_port`) in the recipe"
        raise Failed(message)

    def _take(self, port: int) -> bool:
        """Reserve a port among ourselves, if nobody listens there."""
        taken = ports.take(self._service.host, (port,))
        if taken is None:
            return False
        self._port, self._reserved = taken
        return True

    def _start(self) -> None:
        index = self._place.index
        values = {**self._values, **self._service.values(index, self._port, self._api_key_file)}
        environment = self._service.engine_environment(index, values)
        self._process = engine.start(self._service.words(values), environment, self._place.log, self._slot)

    async def _settle(self, deadline: float) -> Found:
        """Wait until the engine is ready, or somebody else has its port. Raises `Failed`."""
        verdict = Verdict("waiting")
        bare_since = None
        while True:
            if self._running.poll() is not None:
                await engine.ended(self._running)
                await engine.stop(self._running, self._slot, self._mark)  # what it had started may hold the port still
                if not ports.is_free(self._service.host, self._port):
                    return "clash"  # somebody was quicker, and the engine said so and ended
                raise Failed(self._how_it_ended())
            owner = ports.listener(self._port, self._running.pid, self._mark)
            if owner == "foreign":
                return "clash"
            patience = AGAIN_SECONDS if verdict.state == "failing" else 0.0
            verdict = await self._verdict(owner, deadline, patience)
            self._report(verdict.reason)
            if verdict.state == "denied" or (verdict.state == "ready" and owner == "unknown"):
                return await self._whose(verdict, sure=owner == "ours")
            bare_since = (bare_since or time.monotonic()) if verdict.state == "bare" else None
            if verdict.state == "ready" or (bare_since and time.monotonic() - bare_since > BARE_SECONDS):
                return "running"
            if time.monotonic() > deadline:
                message = f"it was not ready in {self._service.ready_seconds:g} s: {self._reason}{self._last_words()}"
                raise Failed(message)
            await asyncio.sleep(AGAIN_SECONDS if verdict.state == "failing" else POLL_SECONDS)

    async def _verdict(self, owner: ports.Owner, deadline: float, patience: float) -> Verdict:
        """How the engine stands; left when the process ended or time is up. What it waits for is told after `patience`, seconds."""
        if owner == "nobody":
            return Verdict("waiting", f"it does not listen on port {self._port} yet")
        began, awaited = time.monotonic(), [""]
        judging = asyncio.create_task(judge(self._service.wanted, self._ask, awaited.append))
        try:
            while not judging.done() and self._running.poll() is None and time.monotonic() <= deadline:
                await asyncio.wait((judging,), timeout=POLL_SECONDS)
                if awaited[-1] and time.monotonic() - began >= patience:
                    self._report(awaited[-1])
            return judging.result() if judging.done() else Verdict("waiting", self._reason)
        finally:
            judging.cancel()
            await asyncio.wait((judging,))

    async def _whose(self, verdict: Verdict, *, sure: bool) -> Found:
        """Whether a listener that is well, or does not accept our key, is our engine: somebody else's accepts any key, or another."""
        if verdict.state == "denied":
            if sure:
                message = (
                    f"the engine on port {self._port} does not accept its API key ({verdict.reason}): "
                    "look at `api_key` in the recipe"
                )
                raise Failed(message)
            return "clash"
        if self._key is None:
            return "running"
        if verdict.proof is None:
            return "clash"
        body = b"{}" if verdict.proof != self._service.models_path else None
        answer = await self._ask(verdict.proof, body, secrets.token_hex())
        return "running" if answer.denied else "clash"

    async def _ask(self, path: str, body: bytes | None, key: str | None = None) -> Answer:
        seconds = PROBE_SECONDS if body is None else None
        return await engine.ask(self._service.host, self._port, path, key or self._key, body, seconds=seconds)

    @property
    def _key(self) -> str | None:
        """The key that the engine was given."""
        service = self._service
        return service.api_key if service.api_key_env or service.wants_key_file() else None

    async def _end(self) -> str:
        await engine.ended(self._running)
        return self._how_it_ended()

    async def _leave(self) -> None:
        """Leave no process and no reservation behind."""
        if self._process is not None:
            await engine.stop(self._process, self._slot, self._mark)
            self._process = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def _report(self, reason: str) -> None:
        """Publish why the engine is not ready yet, when that changes."""
        reason = "; ".join(filter(None, (reason.replace(self._service.api_key, "…"), *self._lacking())))
        if reason != self._reason:
            self._reason = reason
            self._publish("starting", reason)

    def _publish(self, status: Literal["starting", "running", "failed", "stopped"], reason: str = "") -> None:
        published = Published(
            replica=self._place.name,
            node=self._place.node,
            host=self._service.host,
            port=self._port,
            pid=self._process.pid if self._process else None,
            status=status,
            reason=reason,
            nodes=self._nodes,
        )
        self._publisher.publish(published)

    @property
    def _running(self) -> engine.Engine:
        assert self._process is not None, "the engine was started"
        return self._process

    def _how_it_ended(self) -> str:
        return f"{engine.how_it_ended(self._running)}{self._last_words()}"

    def _last_words(self) -> str:
        return engine.said(self._place.log, self._service.api_key)
