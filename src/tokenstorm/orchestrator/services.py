"""The orchestrator: services are created as jobs, watched until they end, and found again after a restart."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import httpx
import msgspec

from tokenstorm.cluster.deploy import Deployment
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.scheduler import Job, JobId, Kind
from tokenstorm.cluster.site import Site
from tokenstorm.errors import ClusterError, RefusedJob, RunError, TokenstormError, Unconfirmed, Unknown, Unreachable
from tokenstorm.interfaces import ANY_NETWORK

from .caches import at_site
from .container import ENTRY, ENTRY_TEXT, contained
from .exposition import merge
from .jobs import Errands, Jobs, silence
from .launch import Launch, at_home, on_one_machine, prepare, service_file, simulated
from .logs import read_logs
from .recipes import Recipes, Resources
from .replicas import Replica
from .service import LEAVE_SECONDS, Service, advance, as_stored
from .store import Store, open_store
from .watch import Watch, last_words_of

FIRST_LOOK_SECONDS = 5.0
"""How long a start waits to see how the services of before are."""
LOOK_SECONDS = 2.0
"""Between two looks at the services that run: how long an engine that broke can go unnoticed."""
EAGER_SECONDS = 0.25
"""The same while one of them is on its way to being ready, and something changed within the last…"""
EAGER_FOR_SECONDS = 5.0
METRICS_SECONDS = 10.0


def utc_now() -> datetime:
    """The time of day, for people."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Where time comes from: what people read, and what durations are measured with."""

    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic


Trouble = list[str]
"""What went wrong during a look."""


@dataclass
class _Live:
    """What is known of a service beside its row: it is seen anew after a restart."""

    watch: Watch = field(default_factory=Watch)
    running_since: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever talks to the scheduler about its job."""


class ServiceOrchestrator:
    """All services of one site. `start` opens the store; whoever starts it closes it."""

    def __init__(
        self,
        site: Site,
        recipes: Recipes,
        store_path: Path,
        *,
        clock: Clock | None = None,
        deployment: Deployment | None = None,
    ) -> None:
        self.site = site
        self.recipes = recipes
        self._deployment = deployment
        self._trouble: str | None = "the orchestrator has not been started"
        self._store_path = store_path
        self._clock = clock or Clock()
        self._errands = Errands()
        self._jobs = Jobs(site.scheduler, self._clock.monotonic)
        self._services: dict[str, Service] = {}
        self._live: dict[str, _Live] = {}
        self._store: Store | None = None
        self._client: httpx.AsyncClient | None = None
        self._watching: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._changed = asyncio.Event()
        self._changed_at = self._clock.monotonic()

    async def start(self, *, watch: bool = True) -> None:
        """Find the services of before again, and see how they are. Raises RunError when the store cannot be used.

        Without `watch` nothing is looked at until `look` is called.
        """
        self._store = open_store(self._store_path)
        self._client = httpx.AsyncClient(transport=transport(self.site.shell), trust_env=False, timeout=METRICS_SECONDS)
        for service in self._store.services():
            self._services[service.id] = service
            self._live[service.id] = _Live(running_since=self._running_since(service))
        self._trouble = None
        if watch:
            self._watching = asyncio.create_task(self._watch())
            if not all(service.ended for service in self.list()):  # one that runs has replicas for whoever asks first
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FIRST_LOOK_SECONDS):
                        await self._looked.wait()

    async def close(self) -> None:
        """Leave all services as they are, and let go of the store. A bug that ended the watch is raised here."""
        watching, self._watching = self._watching, None
        if watching:
            watching.cancel()
            await asyncio.wait((watching,))
        await self._errands.close()
        await self._jobs.close()
        if self._client:
            await self._client.aclose()
        if self._store:
            self._store.close()
        self._client = self._store = None
        self._trouble = "the orchestrator has been closed"
        if watching and not watching.cancelled():
            watching.result()

    @property
    def trouble(self) -> str | None:
        """What keeps it from looking after its services, or None."""
        if self._watching and self._watching.done():
            return "the services are not looked after any more: restart the orchestrator; its log says what happened"
        return self._trouble

    def list(self) -> list[Service]:
        """All services, the oldest first."""
        return list(self._services.values())

    def get(self, service_id: str) -> Service:
        """Raises Unknown."""
        if service_id not in self._services:
            there = ", ".join(list(self._services)[-10:])
            hint = f"there are {there}" if there else "there are none yet: POST /api/v1/services creates one"
            message = f"there is no service {service_id!r}: {hint}"
            raise Unknown(message)
        return self._services[service_id]

    def replicas(self, service_id: str) -> tuple[Replica, ...]:
        """The replicas that are known, in order; none once the service ended. Raises Unknown."""
        if self.get(service_id).ended:
            return ()
        found = self._live[service_id].watch.replicas
        return tuple(sorted(found.values(), key=lambda replica: (replica.node, len(replica.id), replica.id)))

    async def create(self, recipe_name: str, config: Mapping[str, object]) -> Service:
        """Submit a service.

        Raises Unknown for the recipe, ConfigError for the config, RefusedJob, and Unreachable: then nothing is left
        behind. Raises Unconfirmed when the job may have been submitted: the service is there and finds out by itself.
        """
        launch = await self._launch(recipe_name, config)
        service = self._new(launch)
        live = self._live[service.id] = _Live()
        async with live.lock:
            self._put(service)
            try:
                await self._write_folder(service, launch)
                job_id = await self._submitted(service)
            except Unconfirmed as error:
                self._put(replace(service, reason=f"submission unconfirmed: {error}"))
                message = f"{error}; service {service.id} stays pending until it is known, and can be cancelled"
                raise Unconfirmed(message) from error
            except TokenstormError:
                await self._drop(service)
                raise
            try:
                return self._put(replace(service, job_id=job_id))
            except RunError as error:  # it is known without its job, which is learnt again by submitting it once more
                message = f"{error} Service {service.id} was submitted all the same, and can be cancelled"
                raise RunError(message) from error

    async def cancel(self, service_id: str) -> Service:
        """End a service; one that has ended is left as it is. Raises Unknown, and what the scheduler raises."""
        self.get(service_id)
        async with self._live[service_id].lock:
            service = self._services[service_id]
            if service.ended:
                return service
            if service.job_id is None:  # its job is learnt by submitting it once more: that is what makes it safe
                service = await self._submit(service)
            assert service.job_id is not None
            await self.site.scheduler.cancel(service.job_id, service.sent)
            current = self._services[service_id]
            if current.ended:
                return current
            now = self._clock.now()
            return self._put(replace(current, status="cancelled", reason="", ended_at=now, stopping=False))

    async def logs(
        self, service_id: str, *, source: str | None = None, after: str | None = None, limit: int = 65536
    ) -> tuple[str, str]:
        """The logs from a place on, and the place where they end; see `read_logs`."""
        service = self.get(service_id)
        known = {replica.id for replica in self.replicas(service_id)}
        to_come = {f"{node}.{index}" for node in service.nodes for index in range(service.resources.replicas)}
        return await read_logs(
            self.site.shell,
            service.path,
            service.api_key,
            replicas=known | to_come,
            source=source,
            after=after,
            limit=limit,
        )

    async def engine_metrics(self, service_id: str) -> str:
        """What the engines tell of themselves, as Prometheus text. Raises Unreachable when none answers."""
        service = self.get(service_id)
        replicas = [replica for replica in self.replicas(service_id) if replica.status == "running"]
        texts = await asyncio.gather(*(self._metrics_of(replica, service.api_key) for replica in replicas))
        found = {replica.id: text for replica, text in zip(replicas, texts, strict=True) if text is not None}
        if not found:
            message = f"no engine of service {service_id} tells its metrics: it is {service.status}"
            raise Unreachable(message)
        return merge(found) if service.is_group else next(iter(found.values()))

    async def look(self) -> None:
        """One look at every service that has not ended: one question to the scheduler, then each by its replicas."""
        unsettled = [one.id for one in self.list() if one.stopping or (one.job_id is None and not one.ended)]
        trouble = await self._errands.run(unsettled, self._settled)
        watched = {service.job_id: service for service in self.list() if service.job_id and not service.ended}
        await self._jobs.ask({job: service.sent for job, service in watched.items()})
        trouble += filter(None, [self._jobs.trouble])
        async with _noting(trouble):
            await asyncio.gather(*(self._look_at(service, trouble) for service in watched.values()))
        self._trouble = trouble[0] if trouble else None

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except RunError as error:  # a full disk: what was seen is seen again at the next look
                self._trouble = str(error)
            self._looked.set()
            self._changed.clear()
            unready = any(not service.ended and service.status != "running" for service in self._services.values())
            eager = unready and self._clock.monotonic() - self._changed_at < EAGER_FOR_SECONDS
            with contextlib.suppress(TimeoutError):  # not wait_for, which can swallow being cancelled
                async with asyncio.timeout(EAGER_SECONDS if eager else LOOK_SECONDS):
                    await self._changed.wait()

    async def _look_at(self, service: Service, trouble: Trouble) -> None:
        service_id, live, silent = service.id, self._live[service.id], silence(self._jobs.silent_seconds)
        job = self._jobs.of(service.job_id or "") or as_stored(service)
        if job is None:  # nobody has told of it yet
            if silent and silent != service.reason:
                self._put(replace(service, reason=silent))
            return
        async with _noting(trouble):
            if job.phase == "pending":
                await live.watch.wait_for_a_run(service, self.site.shell)
            else:
                await live.watch.look(service, job.nodes, self.site.shell, self._http)
            if job.outcome == "failed" and not any(replica.reason for replica in live.watch.replicas.values()):
                words = [job.reason, await last_words_of(service, self.site.shell)]
                job = replace(job, reason="; ".join(filter(None, words)))
        if job.phase != "running":
            live.running_since = None
        elif live.running_since is None:
            live.running_since = self._clock.monotonic()
        ran = 0.0 if live.running_since is None else self._clock.monotonic() - live.running_since
        service = self._services[service_id]  # as it is now: it may have been cancelled meanwhile
        replicas = tuple(live.watch.replicas.values())
        moved = advance(service, job, replicas, now=self._clock.now(), ran_seconds=ran, silence=silent)
        if moved != service:
            self._put(moved)

    async def _settled(self, service_id: str) -> Trouble:
        trouble: Trouble = []
        live = self._live.get(service_id)
        if live is not None and not live.lock.locked():
            async with live.lock, _noting(trouble):
                await self._settle(service_id)
        return trouble

    async def _settle(self, service_id: str) -> None:
        """Make up for what was left open: a submission that is unconfirmed, or a job that has still to be cancelled."""
        service = self._services.get(service_id)
        if service is None:  # it was refused meanwhile
            return
        if service.stopping and service.job_id:
            await self.site.scheduler.cancel(service.job_id, service.sent)
            self._put(replace(service, stopping=False))
        elif service.job_id is None and not service.ended:
            try:
                await self._submit(service)
            except RefusedJob as error:
                self._put(replace(service, status="failed", reason=str(error), ended_at=self._clock.now()))

    async def _launch(self, recipe_name: str, config: Mapping[str, object]) -> Launch:
        profile = self.site.profile
        recipe = at_home(self.recipes.get(recipe_name), profile)
        launch = prepare(recipe, config, profile)
        needs_gpu = launch.resources.gpu > 0
        if profile.simulate and needs_gpu:
            return simulated(launch, await self._python("cpu"), f"the profile {profile.name!r} has no GPU")
        if profile.scheduler != "local":
            python = await self._python(_kind(launch.resources))
            return prepare(recipe, config, profile.model_copy(update={"python": python}))
        launch = on_one_machine(launch)
        if needs_gpu and not self.site.has_gpu:
            return simulated(launch, profile.python, "this machine has no GPU")
        return launch

    def _new(self, launch: Launch) -> Service:
        service_id = f"s{secrets.token_hex(6)}"
        return Service(
            id=service_id,
            recipe_name=launch.recipe_name,
            engine=launch.engine,
            model=launch.model,
            folder=str(self.site.profile.base_path / "services" / service_id),
            resources=launch.resources,
            probe=launch.probe,
            created_at=self._clock.now(),
            api_key=f"ts-{secrets.token_urlsafe(32)}",
            note=launch.note,
        )

    async def _write_folder(self, service: Service, launch: Launch) -> None:
        profile, folder = self.site.profile, service.path
        host = "127.0.0.1" if profile.scheduler == "local" else profile.interface or ANY_NETWORK
        launch = contained(at_site(launch, profile), profile, folder)
        content = service_file(launch, service.id, service.api_key, host, folder)
        if profile.container.runtime == "enroot":
            await self.site.shell.put(folder / ENTRY, ENTRY_TEXT.encode(), mode=0o700)
        if launch.key.file:
            key = launch.key.content.replace("{api_key}", service.api_key)
            await self.site.shell.put(folder / launch.key.file, key.encode(), mode=0o600)
        await self.site.shell.put(folder / "service.json", msgspec.json.encode(content), mode=0o600)

    async def _submit(self, service: Service) -> Service:
        job_id = await self._submitted(service)
        return self._put(replace(self._services[service.id], job_id=job_id, reason=""))

    async def _submitted(self, service: Service) -> JobId:
        python = await self._python(_kind(service.resources))
        return await self.site.scheduler.submit(self._job(service, python))

    async def _python(self, kind: Kind) -> str:
        """What runs our code on the nodes for that kind of job; it is deployed where it is missing."""
        return str(await self._deployment.python(kind)) if self._deployment else self.site.profile.of(kind).python

    def _job(self, service: Service, python: str) -> Job:
        resources = service.resources
        job = Job(
            name=service.job_name,
            command=(python, "-m", "tokenstorm.node", service.folder),
            folder=PurePosixPath(service.folder),
            kind=_kind(resources),
            nodes=resources.nodes,
            cpus_per_task=resources.cpu,
            memory_mb=resources.memory_mb,
            gpus_per_node=resources.gpu,
            time_limit_minutes=resources.time_limit,
            signal_lead_seconds=LEAVE_SECONDS,
            signal_to="tasks",
        )
        return replace(job, command=(*self.site.scheduler.fan_out(job), *job.command))

    async def _drop(self, service: Service) -> None:
        """Take back a service whose job was not taken."""
        del self._services[service.id], self._live[service.id]
        self._stored.forget(service.id)
        with contextlib.suppress(ClusterError):
            await self.site.shell.remove(service.path)

    async def _metrics_of(self, replica: Replica, api_key: str) -> str | None:
        try:
            answer = await self._http.get(f"{replica.url}/metrics", headers={"authorization": f"Bearer {api_key}"})
        except httpx.HTTPError:
            return None
        return answer.text if answer.is_success else None

    def _running_since(self, service: Service) -> float | None:
        """When its job began to run, on this process's clock: it ran on while nobody looked."""
        if service.started_at is None:
            return None
        ran = (self._clock.now() - service.started_at).total_seconds()
        return self._clock.monotonic() - max(ran, 0.0)

    def _put(self, service: Service) -> Service:
        self._stored.save(service)
        self._services[service.id] = service
        self._changed_at = self._clock.monotonic()
        self._changed.set()
        return service

    @property
    def _stored(self) -> Store:
        assert self._store, "the orchestrator was not started"
        return self._store

    @property
    def _http(self) -> httpx.AsyncClient:
        assert self._client, "the orchestrator was not started"
        return self._client


def _kind(resources: Resources) -> Kind:
    return "gpu" if resources.gpu else "cpu"


@contextlib.asynccontextmanager
async def _noting(trouble: list[str]) -> AsyncIterator[None]:
    """The site may be out of reach for a while: that is told, and tried again at the next look."""
    try:
        yield
    except (ClusterError, RunError) as error:
        trouble.append(str(error))
