"""What tests of the orchestrator stand on: a scheduler and a machine by hand, a clock that is moved, real engines."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from tokenstorm.cluster.scheduler import Job, JobId, JobState, Sent
from tokenstorm.cluster.shell import Output, Streams
from tokenstorm.cluster.site import Site
from tokenstorm.config.profile import Profile
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.orchestrator.clock import Clock
from tokenstorm.orchestrator.recipes import Recipes, load_recipes
from tokenstorm.orchestrator.service import Service
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.orchestrator.starter import LONGEST_PAUSE
from tokenstorm.simulator.server import SimulatedEngine

PENDING = JobState("pending", reason="Resources")
RUNNING = JobState("running", nodes=("n1",))
RECIPES = load_recipes()


class HandScheduler:
    """Jobs are in the state they are put into. `trouble` is raised by the next calls while it is set."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobId] = {}
        self.submitted: list[Job] = []
        self.state: dict[JobId, JobState] = {}
        self.cancelled: list[JobId] = []
        self.withdrawn: list[str] = []
        self.questions: list[set[JobId]] = []
        self.known_by: dict[JobId, Sent] = {}
        self.trouble: Exception | None = None
        self.trouble_after_submit: Exception | None = None

    def fan_out(self, job: Job) -> tuple[str, ...]:
        return ("srun", f"--nodes={job.nodes}") if job.nodes > 1 else ()

    async def submit(self, job: Job) -> JobId:
        self._raise()
        if job.name not in self.jobs:
            self.submitted.append(job)
            self.jobs[job.name] = str(100 + len(self.jobs))
            self.state[self.jobs[job.name]] = PENDING
        if self.trouble_after_submit:
            raise self.trouble_after_submit
        return self.jobs[job.name]

    async def withdraw(self, job: Job) -> JobId | None:
        self._raise()
        self.withdrawn.append(job.name)
        return self.jobs.get(job.name)

    async def states(self, ids: Collection[JobId], sent: Mapping[JobId, Sent] | None = None) -> dict[JobId, JobState]:
        self._raise()
        self.questions.append(set(ids))
        self.known_by |= sent or {}
        await asyncio.sleep(0)
        return {job: self.state.get(job, JobState("ended", "lost")) for job in ids}

    async def cancel(self, job: JobId, sent: object = None) -> None:
        self._raise()
        self.cancelled.append(job)
        self.state[job] = JobState("ended", "cancelled")

    def _raise(self) -> None:
        if self.trouble:
            raise self.trouble


class MemoryShell:
    """Files in memory, with their modes; connections are real."""

    def __init__(self) -> None:
        self.files: dict[PurePosixPath, bytes] = {}
        self.modes: dict[PurePosixPath, int] = {}
        self.trouble: Exception | None = None

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Output:
        raise AssertionError(argv)

    async def put(self, path: PurePosixPath, data: bytes, *, mode: int = 0o600) -> None:
        if self.trouble:
            raise self.trouble
        self.files[path], self.modes[path] = data, mode

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path][offset : None if limit is None else offset + limit]

    async def list(self, path: PurePosixPath) -> list[str]:
        if self.trouble:
            raise self.trouble
        return sorted(file.name for file in self.files if file.parent == path)

    async def remove(self, path: PurePosixPath) -> None:
        self.files = {file: data for file, data in self.files.items() if path not in (file, *file.parents)}

    async def open_connection(self, host: str, port: int) -> Streams:
        return await asyncio.open_connection(host, port)

    async def open_unix_connection(self, path: PurePosixPath) -> Streams:
        return await asyncio.open_unix_connection(str(path))

    async def close(self) -> None:
        pass


@dataclass
class HandClock:
    """Time that passes when it is told to."""

    seconds: float = 1000.0

    @property
    def clock(self) -> Clock:
        start = datetime(2026, 1, 1, tzinfo=UTC)
        return Clock(now=lambda: start + timedelta(seconds=self.seconds), monotonic=lambda: self.seconds)


@dataclass
class HandEngine:
    """A real simulated engine that can be made to fail: `refuse` is a status, "reset" or "silence"; `instead`, by path."""

    port: int
    refuse: int | str | None = None
    instead: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@dataclass
class Cluster:
    """A site with everything by hand, and an orchestrator on it that looks when it is told to."""

    folder: Path
    profile: Profile
    recipes: Recipes = RECIPES
    has_gpu: bool = True
    scheduler: HandScheduler = field(default_factory=HandScheduler)
    shell: MemoryShell = field(default_factory=MemoryShell)
    time: HandClock = field(default_factory=HandClock)
    servers: list[asyncio.Server] = field(default_factory=list)

    @asynccontextmanager
    async def orchestrator(self) -> AsyncIterator[ServiceOrchestrator]:
        """Started, and closed at the end."""
        site = Site(self.profile, self.shell, self.scheduler, has_gpu=self.has_gpu)
        orchestrator = ServiceOrchestrator(site, self.recipes, self.folder / "services.db", clock=self.time.clock)
        await orchestrator.start(watch=False)
        try:
            yield orchestrator
        finally:
            await orchestrator.close()

    def close(self) -> None:
        """End the engines."""
        for server in self.servers:
            server.close()

    def content(self, service: Service) -> Any:
        """What the node is told."""
        return json.loads(self.shell.files[service.path / "service.json"])

    def put_job(self, service: Service, state: JobState) -> None:
        """Let its job be in a state."""
        assert service.job_id
        self.scheduler.state[service.job_id] = state

    async def engine(self, service: Service) -> HandEngine:
        """An engine with the service's key, that listens."""
        simulated = SimulatedEngine(service.model, api_key=service.api_key)
        found = HandEngine(0)

        def handle(request: Request, reply: Reply) -> None:
            found.asked.append(request.path)
            if request.path in found.instead:
                reply.send(*found.instead[request.path])
            elif isinstance(found.refuse, int):
                reply.send(found.refuse)
            elif found.refuse == "reset":
                reply.reset()
            elif found.refuse != "silence":
                simulated.handle(request, reply)

        server = await serve(handle, "127.0.0.1", 0)
        self.servers.append(server)
        found.port = server.sockets[0].getsockname()[1]
        return found

    def publish(
        self,
        service: Service,
        index: int,
        engine: HandEngine | None,
        status: str,
        reason: str = "",
        *,
        node: str = "n1",
        **more: Any,
    ) -> None:
        """What the wrapper on a node writes about a replica."""
        port = engine.port if engine else None
        content = {"schema": 1, "replica": f"{node}.{index}", "node": node, "host": "127.0.0.1", "port": port, "pid": 1}
        content |= {"status": status, "reason": reason, **more}
        self.shell.files[service.path / f"replica.{node}.{index}.json"] = json.dumps(content).encode()

    async def ready(self, orchestrator: ServiceOrchestrator, service: Service) -> list[HandEngine]:
        """Bring a service to `running`."""
        self.put_job(service, RUNNING)
        engines = [await self.engine(service) for _ in range(service.total_replicas)]
        for index, engine in enumerate(engines):
            self.publish(service, index, engine, "running")
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "running", orchestrator.get(service.id)
        return engines


def slurm(folder: Path, **settings: Any) -> Cluster:
    """A cluster with GPUs."""
    profile = Profile(
        name="cluster", scheduler="slurm", base_path=PurePosixPath("/scratch/ts"), python="python3.11", **settings
    )
    return Cluster(folder, profile)


def laptop(folder: Path) -> Cluster:
    """One machine without a GPU."""
    profile = Profile(
        name="local", scheduler="local", base_path=PurePosixPath("/home/u/ts"), python="/opt/py/bin/python"
    )
    return replace(Cluster(folder, profile), has_gpu=False)


async def submitted(orchestrator: ServiceOrchestrator, recipe: str, config: Mapping[str, object]) -> Service:
    """A new service, once its job is submitted, or what keeps it from being is known."""
    service = await orchestrator.create(recipe, config)
    await orchestrator.settled()
    return orchestrator.get(service.id)


async def look(cluster: Cluster, orchestrator: ServiceOrchestrator) -> None:
    """A look, when all that failed may be tried again, and what comes of that."""
    cluster.time.seconds += LONGEST_PAUSE
    await orchestrator.look()
    await orchestrator.settled()
    await orchestrator.look()


def with_orchestrator(cluster: Cluster, test: Callable[[ServiceOrchestrator], Coroutine[Any, Any, None]]) -> None:
    """Run one test against a started orchestrator."""

    async def run() -> None:
        try:
            async with cluster.orchestrator() as orchestrator:
                await test(orchestrator)
        finally:
            cluster.close()

    asyncio.run(run())
