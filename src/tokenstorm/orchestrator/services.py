"""The orchestrator: services are created as jobs, watched until they end, and found again after a restart."""

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from tokenstorm.api.dry_run import DryRun
from tokenstorm.api.services import GpuSamplerInfo
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.site import Site
from tokenstorm.errors import ClusterError, KeyUsed, RunError, Unknown, Unreachable
from tokenstorm.jobs.poller import Poller

from .caches import at_site
from .clock import Clock
from .container import contained
from .exposition import merge
from .jobs import SILENT, Errands, Jobs, silence
from .launch import Launch
from .logs import read_logs
from .recipes import Recipes
from .replicas import Replica
from .service import Service, advance, as_stored
from .starter import SUBMITTING, Starter
from .store import Store
from .watch import Watch, find_gpu_samplers, last_words_of

FIRST_LOOK_SECONDS = 5.0
"""How long a start waits for the states of the services that it finds."""
LOOK_SECONDS = 2.0
"""Between two looks at the running services: so long can a broken engine go unnoticed."""
EAGER_SECONDS = 0.25
"""The same while one of them is on its way to being ready, and something changed within the last…"""
EAGER_FOR_SECONDS = 5.0
METRICS_SECONDS = 10.0
Trouble = list[str]
"""What went wrong during a look."""


@dataclass
class _Live:
    """What is known of a service beside its row. It is found again after a restart."""

    watch: Watch = field(default_factory=Watch)
    running_since: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while somebody talks to the scheduler about its job."""


class ServiceOrchestrator:
    """All services of one site. `start` opens the store; the caller of `start` calls `close`.

    `poller` is shared by all that ask about jobs of this site.
    """

    def __init__(
        self,
        site: Site,
        recipes: Recipes,
        store_path: Path,
        *,
        clock: Clock | None = None,
        deployment: Deployment | None = None,
        poller: Poller | None = None,
    ) -> None:
        self.site = site
        self.recipes = recipes
        self._trouble: str | None = "the orchestrator has not been started"
        self._store_path = store_path
        self._clock = clock or Clock()
        self._errands = Errands()
        self._jobs = Jobs((poller or Poller(site.scheduler)).watch(), self._clock.monotonic)
        self._starter = Starter(site, recipes, deployment, self, self._clock)
        self._services: dict[str, Service] = {}
        self._live: dict[str, _Live] = {}
        self._store: Store | None = None
        self._client: httpx.AsyncClient | None = None
        self._watching: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()
        self._changed = asyncio.Event()
        self._changed_at = self._clock.monotonic()

    async def start(self, *, watch: bool = True) -> None:
        """Find the services again that are in the store, and look at them. Raises RunError when the store cannot be used.

        Without `watch` nothing is looked at until `look` is called.
        """
        self._store = Store.open(self._store_path)
        self._client = httpx.AsyncClient(transport=transport(self.site.shell), trust_env=False, timeout=METRICS_SECONDS)
        for service in self._store.services():
            self._services[service.id] = service
            self._live[service.id] = _Live(running_since=self._running_since(service))
        self._trouble = None
        if watch:
            self._watching = asyncio.create_task(self._watch())
            if not all(
                service.ended for service in self.list()
            ):  # so that the first caller sees the replicas of running ones
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FIRST_LOOK_SECONDS):
                        await self._looked.wait()

    async def close(self) -> None:
        """Leave all services as they are, and close the store. Raises the bug that ended the watch, if there was one."""
        watching, self._watching = self._watching, None
        if watching:
            watching.cancel()
            await asyncio.wait((watching,))
        await self._errands.close()
        await self._jobs.close()
        await self._starter.close()
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
        """Why it cannot look after its services now, or None."""
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

    async def create(self, recipe_name: str, config: Mapping[str, object], key: str | None = None) -> Service:
        """A new service, `pending` until its job is submitted; or the one that was created with the same `key`.

        Raises Unknown for the recipe, ConfigError or UsageError for the config, KeyUsed, and RunError for a full disk. What
        delays its job later is in its `reason`.
        """
        fingerprint = _fingerprint(recipe_name, config)
        if known := next((one for one in self.list() if key is not None and one.idempotency_key == key), None):
            if known.fingerprint != fingerprint:
                message = f"the Idempotency-Key {key!r} was used for another request: use a new one"
                raise KeyUsed(message)
            return known
        launch = self._starter.launch(recipe_name, config)
        service = replace(
            self._new(launch),
            reason=SUBMITTING,
            config=dict(config),
            idempotency_key=key,
            fingerprint=fingerprint,
        )
        contained(
            at_site(launch, self.site.profile), self.site.profile, service.path
        )  # an image that is not configured is refused here
        self.put(service)
        self._starter.settler.tend(service.id)
        return service

    def dry_run(self, recipe_name: str, config: Mapping[str, object]) -> DryRun:
        """What `create` would submit. Nothing is kept, and the site is not asked. Raises as `create` does."""
        launch = self._starter.launch(recipe_name, config)
        return self._starter.preview(self._new(launch), launch)

    async def cancel(self, service_id: str) -> Service:
        """End a service; one that has ended is left as it is. Raises Unknown, and what the scheduler raises.

        A service whose job is not known yet is cancelled at once: it is not submitted any more, and a job that exists all the
        same is ended once it is known.
        """
        self.get(service_id)
        async with self._live[service_id].lock:
            service = self._services[service_id]
            if service.ended:
                return service
            now = self._clock.now()
            if service.job_id is None:
                reason = "it is not submitted; a job of it that is there all the same is cancelled once it is known"
                ended = replace(service, status="cancelled", reason=reason, ended_at=now, stopping=True)
                self.put(ended)
                self._starter.settler.restart(service_id)
                return ended
            await self.site.scheduler.cancel(service.job_id, service.sent)
            current = self._services[service_id]
            if current.ended:
                return current
            return self.put(replace(current, status="cancelled", reason="", ended_at=now, stopping=False))

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
        """The engines' own metrics, as Prometheus text. Raises Unreachable when none answers."""
        service = self.get(service_id)
        replicas = [replica for replica in self.replicas(service_id) if replica.status == "running"]
        texts = await asyncio.gather(*(self._metrics_of(replica, service.api_key) for replica in replicas))
        found = {replica.id: text for replica, text in zip(replicas, texts, strict=True) if text is not None}
        if not found:
            message = f"no engine of service {service_id} tells its metrics: it is {service.status}"
            raise Unreachable(message)
        return merge(found) if service.is_group else next(iter(found.values()))

    async def gpu_samplers(self, service_id: str) -> tuple[GpuSamplerInfo, ...]:
        """Where the GPUs of its nodes can be read. Raises what the shell raises."""
        service = self.get(service_id)
        return await find_gpu_samplers(service, self.site.shell) if service.resources.gpu else ()

    async def look(self) -> None:
        """One look at every service that has not ended: one question to the scheduler, then each by its replicas."""
        self._starter.settler.check()
        for service in self.list():
            if service.unsettled:
                self._starter.settler.tend(service.id)
        over = [one.id for one in self.list() if one.stopping and one.job_id]
        trouble = await self._errands.run(over, self._cancel_job)
        watched = {service.job_id: service for service in self.list() if service.job_id and not service.ended}
        quiet = self._clock.monotonic() - self._changed_at
        await self._jobs.ask({job: service.sent for job, service in watched.items()}, quiet)
        trouble += filter(None, [self._jobs.trouble])
        async with _noting(trouble):
            await asyncio.gather(*(self._look_at(service, trouble) for service in watched.values()))
        trouble += filter(None, [self._starter.settler.trouble])
        self._trouble = trouble[0] if trouble else None

    async def settled(self) -> None:
        """Wait until the work on services that are not submitted yet is done, or pauses before the next try."""
        await self._starter.settler.idle()

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
        if job is None:  # the scheduler has not told of it yet
            if silent != service.reason and (silent or service.reason.startswith(SILENT)):
                self.put(replace(service, reason=silent))
            return
        async with _noting(trouble):
            if job.phase == "pending":
                await live.watch.wait_for_a_run(service, self.site.shell)
            else:
                await live.watch.look(service, job.nodes, self.site.shell, self._http)
            if job.outcome == "failed" and not any(replica.reason for replica in live.watch.replicas.values()):
                words = [job.reason, await last_words_of(service, self.site.shell)]
                job = replace(job, reason="; ".join(filter(None, words)))
        if job.phase != "running" or job.suspended:
            live.running_since = None
        elif live.running_since is None:
            live.running_since = self._clock.monotonic()
        ran = 0.0 if live.running_since is None else self._clock.monotonic() - live.running_since
        service = self._services[service_id]  # as it is now: it may have been cancelled meanwhile
        replicas = tuple(live.watch.replicas.values())
        moved = advance(service, job, replicas, now=self._clock.now(), ran_seconds=ran, silence=silent)
        if moved != service:
            self.put(moved)

    async def _cancel_job(self, service_id: str) -> Trouble:
        """Cancel the job of a service whose end is decided."""
        trouble: Trouble = []
        live = self._live[service_id]
        if not live.lock.locked():
            async with live.lock, _noting(trouble):
                service = self._services[service_id]
                if service.stopping and service.job_id:
                    await self.site.scheduler.cancel(service.job_id, service.sent)
                    self.put(replace(service, stopping=False))
        return trouble

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

    async def _metrics_of(self, replica: Replica, api_key: str) -> str | None:
        try:
            answer = await self._http.get(f"{replica.url}/metrics", headers={"authorization": f"Bearer {api_key}"})
        except httpx.HTTPError:
            return None
        return answer.text if answer.is_success else None

    def _running_since(self, service: Service) -> float | None:
        """When its job began to run, on this process's clock. It kept running while no orchestrator did."""
        if service.started_at is None:
            return None
        ran = (self._clock.now() - service.started_at).total_seconds()
        return self._clock.monotonic() - max(ran, 0.0)

    def put(self, service: Service) -> Service:
        """Store a service's new state. Raises RunError when the disk takes nothing; then nothing has changed."""
        self._stored.save(service)
        self._services[service.id] = service
        self._live.setdefault(service.id, _Live())
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


def _fingerprint(recipe_name: str, config: Mapping[str, object]) -> str:
    """The same for the same request."""
    return hashlib.sha256(json.dumps([recipe_name, config], sort_keys=True).encode()).hexdigest()


@contextlib.asynccontextmanager
async def _noting(trouble: list[str]) -> AsyncIterator[None]:
    """Note that the site cannot be reached; the next look tries again."""
    try:
        yield
    except (ClusterError, RunError) as error:
        trouble.append(str(error))
