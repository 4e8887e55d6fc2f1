"""The three APIs, each as a block that serves while it lasts; needs the extra `services`."""

import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec

from tokenstorm.cli.recipes import all_recipes, recipe_folders
from tokenstorm.cli.terminal import tell_progress
from tokenstorm.client_api.app import create_app as client_app
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.services import ServerServices
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.site import Site
from tokenstorm.config import Config, Profile
from tokenstorm.interfaces import ANY_NETWORK, local_address
from tokenstorm.orchestrator.app import create_app as orchestrator_app
from tokenstorm.orchestrator.recipes import Recipes, load_recipes
from tokenstorm.orchestrator.routing import Router
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.runs import write_atomically
from tokenstorm.server_api.app import create_app as server_app
from tokenstorm.server_api.placed import PlacedOrchestrator, Published
from tokenstorm.server_api.where import Address, Fixed, Where
from tokenstorm.web import Server


@dataclass(frozen=True)
class Listen:
    """Where an API listens, and the token that it demands, if it does."""

    host: str
    port: int
    token: str | None = field(default=None, repr=False)


@asynccontextmanager
async def orchestrator_api(
    site: Site, recipes: Recipes, store: Path, listen: Listen, *, near: bool
) -> AsyncIterator[tuple[str, ServiceOrchestrator]]:
    """The orchestrator and its URL; `near` tells that the site's nodes reach it there. Services go on when it ends."""
    orchestrator = ServiceOrchestrator(site, recipes, store, deployment=Deployment(site, tell_progress))
    async with contextlib.AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        engines = httpx.AsyncClient(transport=transport(site.shell), trust_env=False, limits=limits)
        await stack.enter_async_context(engines)
        stack.push_async_callback(orchestrator.close)
        await orchestrator.start()
        router = Router(orchestrator.replicas, engines)
        app = orchestrator_app(orchestrator, router, token=listen.token, near=near)
        server = Server(app, listen.host, listen.port)
        await stack.enter_async_context(server.running())
        yield server.url, orchestrator


def own_orchestrator(
    config: Config, site: Site, recipes: Sequence[Path], listen: Listen
) -> AbstractAsyncContextManager[tuple[str, ServiceOrchestrator]]:
    """The orchestrator of the user's machine, which nodes of a cluster do not reach."""
    near = site.profile.scheduler == "local"
    return orchestrator_api(
        site, all_recipes(config, recipes), store_of(config.home, site, "services"), listen, near=near
    )


@asynccontextmanager
async def placed_here(folder: Path) -> AsyncIterator[None]:
    """The orchestrator that `placed` started, on the cluster: it publishes where it listens."""
    profile = Profile.model_validate_json((folder / "profile.json").read_bytes())
    token, home = (folder / "token").read_text(encoding="utf-8"), folder.parent
    recipes = load_recipes(sorted((folder / "recipes").iterdir()) if (folder / "recipes").is_dir() else ())
    as_job = profile.orchestrator.placement == "job"
    site = await open_site(profile)
    async with contextlib.AsyncExitStack() as opened:
        opened.push_async_callback(site.close)
        if as_job:
            listen = Listen(local_address(profile.interface or ANY_NETWORK), 0, token)
        else:  # on the node's own disk: shared file systems are no place for sockets
            private = opened.enter_context(tempfile.TemporaryDirectory(prefix="tokenstorm-"))
            listen = Listen(f"{private}/socket", 0, token)
        serving = orchestrator_api(site, recipes, store_of(home, site, "services"), listen, near=as_job)
        url, _ = await opened.enter_async_context(serving)
        there = Published(
            start=folder.name,
            host=socket.gethostname(),
            url=url if as_job else None,
            socket=None if as_job else listen.host,
        )
        write_atomically(home / "address.json", msgspec.json.encode(there), mode=0o600)
        yield


@asynccontextmanager
async def server_api(where: Where, client: httpx.AsyncClient, listen: Listen) -> AsyncIterator[str]:
    """The Server API before an orchestrator that `client` reaches; its URL."""
    async with client:
        server = Server(server_app(where, client, token=listen.token), listen.host, listen.port)
        async with server.running():
            yield server.url


def here(orchestrator_url: str, listen: Listen) -> tuple[Where, httpx.AsyncClient]:
    """An orchestrator of this machine, or of one that is reached from it, which has the Server API's token."""
    shell = LocalShell()  # over its transport a chunk costs less than over that of httpx
    client = httpx.AsyncClient(transport=transport(shell), trust_env=False)
    return Fixed(Address(orchestrator_url.rstrip("/"), listen.token)), client


def placed(site: Site, config: Config, recipes: Sequence[Path]) -> PlacedOrchestrator:
    """The orchestrator of a profile that places it on the cluster. The user's own recipes go with it."""
    all_recipes(config, recipes)  # what is wrong in them is said here
    texts = {
        f"{number:03}/{path.relative_to(folder)}": path.read_text(encoding="utf-8")
        for number, folder in enumerate(recipe_folders(config, recipes))
        for path in (*folder.rglob("*.yaml"), *folder.rglob("*.yml"))
    }
    return PlacedOrchestrator(site, texts, Deployment(site, tell_progress))


@asynccontextmanager
async def client_api(
    config: Config, site: Site, server_url: str, listen: Listen
) -> AsyncIterator[tuple[str, ClientManager]]:
    """The Client API beside a Server API that has the same token; its URL. Groups go on when it ends."""
    store = Store.open(store_of(config.home, site, "groups"))
    try:
        services = ServerServices(server_url, listen.token)
        manager = ClientManager(site, store, services, config.home, Deployment(site, tell_progress))
        server = Server(client_app(manager, token=listen.token), listen.host, listen.port)
        try:
            async with server.running():
                try:
                    yield server.url, manager
                finally:
                    manager.hang_up()
        finally:
            await services.close()
    finally:
        store.close()


def store_of(home: Path, site: Site, what: str) -> Path:
    """A file for each profile: what runs in one place is not looked for in another."""
    return home / f"{what}.{quote(site.profile.name, safe='')}.sqlite"
