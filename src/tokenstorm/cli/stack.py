"""The three APIs, each as a block that serves while it lasts; needs the extra `services`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import platformdirs

from tokenstorm.client_api.app import create_app as client_app
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.services import HttpServices
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.site import Site
from tokenstorm.config import Config
from tokenstorm.errors import ClusterError
from tokenstorm.orchestrator.app import create_app as orchestrator_app
from tokenstorm.orchestrator.recipes import Recipes, load_recipes
from tokenstorm.orchestrator.routing import Router
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.server_api.app import create_app as server_app
from tokenstorm.web import Server

KEEP_ALIVE_SECONDS = 4.0
"""Idle connections to our own APIs are closed after 5 s by them."""
GONE_SECONDS = 20.0
"""What jobs that were cancelled may take to end; the scheduler kills them before."""
BEYOND_DRAIN_SECONDS = 30.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Listen:
    """Where an API listens, and the token that it demands, if it does."""

    host: str
    port: int
    token: str | None = field(default=None, repr=False)


def all_recipes(config: Config, folders: Sequence[Path] = ()) -> Recipes:
    """Those that are shipped, the user's own beside the configuration file, and those of further folders."""
    usual = platformdirs.user_config_path("tokenstorm", appauthor=False)
    own = (config.file.parent if config.file else usual) / "recipes"
    return load_recipes([*([own] if own.is_dir() else []), *folders])


@asynccontextmanager
async def orchestrator_api(
    config: Config, site: Site, recipes: Sequence[Path], listen: Listen
) -> AsyncIterator[tuple[str, ServiceOrchestrator]]:
    """The orchestrator and its URL. Services go on when it ends."""
    orchestrator = ServiceOrchestrator(site, all_recipes(config, recipes), _store(config, site, "services"))
    async with contextlib.AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        engines = httpx.AsyncClient(transport=transport(site.shell), trust_env=False, limits=limits)
        await stack.enter_async_context(engines)
        stack.push_async_callback(orchestrator.close)
        await orchestrator.start()
        router = Router(orchestrator.replicas, engines)
        server = Server(orchestrator_app(orchestrator, router, token=listen.token), listen.host, listen.port)
        await stack.enter_async_context(server.running())
        yield server.url, orchestrator


@asynccontextmanager
async def server_api(orchestrator_url: str, listen: Listen) -> AsyncIterator[str]:
    """The Server API before an orchestrator that has the same token; its URL."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS)
    async with httpx.AsyncClient(trust_env=False, limits=limits) as client:
        app = server_app(orchestrator_url, client, token=listen.token, orchestrator_token=listen.token)
        server = Server(app, listen.host, listen.port)
        async with server.running():
            yield server.url


@asynccontextmanager
async def client_api(
    config: Config, site: Site, server_url: str, listen: Listen
) -> AsyncIterator[tuple[str, ClientManager]]:
    """The Client API beside a Server API that has the same token; its URL. Groups go on when it ends."""
    store = Store.open(_store(config, site, "groups"))
    try:
        services = HttpServices(server_url, listen.token)
        manager = ClientManager(site, store, services, config.home)
        server = Server(client_app(manager, token=listen.token), listen.host, listen.port)
        try:
            async with server.running():
                yield server.url, manager
        finally:
            await services.close()
    finally:
        store.close()


class Started:
    """What was started while the APIs ran, and its end."""

    def __init__(self, manager: ClientManager, orchestrator: ServiceOrchestrator) -> None:
        self._manager = manager
        self._orchestrator = orchestrator
        self._earlier_groups = frozenset(group.group_id for group in manager.active)
        self._earlier_services = frozenset(service.id for service in orchestrator.list())

    @property
    def groups(self) -> list[int]:
        """The groups that have not ended."""
        return [group.group_id for group in self._manager.active if group.group_id not in self._earlier_groups]

    @property
    def services(self) -> list[str]:
        """The services that have not ended."""
        found = [service for service in self._orchestrator.list() if not service.ended]
        return [service.id for service in found if service.id not in self._earlier_services]

    async def stop(self, hurry: asyncio.Event) -> list[str]:
        """Drain the groups, cancel the services, wait until their jobs are gone; with `hurry`, cancel all at once.

        Returns what could not be ended, in words.
        """
        left = await self._stop_groups(self.groups, hurry)
        return left + await self._stop_services(self.services)

    async def _stop_groups(self, groups: list[int], hurry: asyncio.Event) -> list[str]:
        jobs = {group: job for group in groups if (job := self._manager.get(group).job_id)}
        drain = max((self._manager.get(group).drain_seconds for group in groups), default=0.0)
        for group in groups:
            self._manager.stop(group)
        if groups and not await self._groups_end(groups, drain + BEYOND_DRAIN_SECONDS, hurry):
            for group, job in jobs.items():
                if self._manager.current(group):
                    with contextlib.suppress(ClusterError):
                        await self._manager.site.scheduler.cancel(job)
            await self._groups_end(groups, GONE_SECONDS)
        return [f"group {group}" for group in groups if self._manager.current(group)]

    async def _groups_end(self, groups: Iterable[int], seconds: float, hurry: asyncio.Event | None = None) -> bool:
        """Whether they have, within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(self._manager.current(group) for group in groups):
                    if hurry and hurry.is_set():
                        return False
                    await asyncio.sleep(_LOOK_SECONDS)
        return not any(self._manager.current(group) for group in groups)

    async def _stop_services(self, services: list[str]) -> list[str]:
        jobs: dict[str, str] = {}
        left: list[str] = []
        for service in services:
            try:
                ended = await self._orchestrator.cancel(service)
            except ClusterError as error:
                left.append(f"service {service} ({error})")
            else:
                jobs |= {ended.job_id: service} if ended.job_id else {}
        scheduler = self._orchestrator.site.scheduler
        going = set(jobs)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GONE_SECONDS):
                while going:
                    states = await scheduler.states(going)
                    going = {job for job in going if states[job].phase != "ended"}
                    await asyncio.sleep(_LOOK_SECONDS if going else 0)
        return left + [f"service {jobs[job]}" for job in sorted(going)]


def _store(config: Config, site: Site, what: str) -> Path:
    """A file for each profile: what runs in one place is not looked for in another."""
    return config.home / f"{what}.{quote(site.profile.name, safe='')}.sqlite"
