"""The three APIs, each as a block that serves while it lasts; needs the extra `services`."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import platformdirs

from tokenstorm.cli.terminal import tell
from tokenstorm.client_api.app import create_app as client_app
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.services import HttpServices
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.deploy import Deployment
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.site import Site
from tokenstorm.config import Config
from tokenstorm.orchestrator.app import create_app as orchestrator_app
from tokenstorm.orchestrator.recipes import Recipes, load_recipes
from tokenstorm.orchestrator.routing import Router
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.server_api.app import create_app as server_app
from tokenstorm.web import Server


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
    orchestrator = ServiceOrchestrator(
        site, all_recipes(config, recipes), _store(config, site, "services"), deployment=Deployment(site, tell)
    )
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
    shell = LocalShell()  # over its transport a chunk costs less than over that of httpx
    async with httpx.AsyncClient(transport=transport(shell), trust_env=False) as client:
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
        manager = ClientManager(site, store, services, config.home, Deployment(site, tell))
        server = Server(client_app(manager, token=listen.token), listen.host, listen.port)
        try:
            async with server.running():
                yield server.url, manager
        finally:
            await services.close()
    finally:
        store.close()


def _store(config: Config, site: Site, what: str) -> Path:
    """A file for each profile: what runs in one place is not looked for in another."""
    return config.home / f"{what}.{quote(site.profile.name, safe='')}.sqlite"
