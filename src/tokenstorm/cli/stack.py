"""The three APIs, each as a block that serves while it lasts; needs the extra `services`."""

import contextlib
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec

from tokenstorm.cli.ending import Active, OwnServices, PlacedServices, Services, active, stop
from tokenstorm.cli.recipes import all_recipes, recipe_folders
from tokenstorm.cli.signals import Signals
from tokenstorm.cli.terminal import tell_progress
from tokenstorm.client_api.app import create_app as client_app
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.page import ServerApi
from tokenstorm.client_api.server import ServerServices
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.site import Site
from tokenstorm.config.file import Config
from tokenstorm.config.profile import Profile
from tokenstorm.errors import ApiError, ClusterError, RunError
from tokenstorm.interfaces import ANY_NETWORK, local_address
from tokenstorm.jobs.poller import Poller
from tokenstorm.metrics.summary import Summary
from tokenstorm.orchestrator.app import create_app as orchestrator_app
from tokenstorm.orchestrator.app import described
from tokenstorm.orchestrator.recipes import Recipes, load_recipes
from tokenstorm.orchestrator.routing import Router
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.report.page import try_page
from tokenstorm.report.series_page import try_series_page
from tokenstorm.report.whole import read_series_summary
from tokenstorm.runs import RunPaths, SeriesPaths, write_atomically
from tokenstorm.sdk.client import AsyncClient
from tokenstorm.server_api.app import create_app as server_app
from tokenstorm.server_api.placed import PlacedOrchestrator, Published
from tokenstorm.server_api.where import Address, Fixed, Where
from tokenstorm.signpost import PAGE_PORT, add_signpost
from tokenstorm.web import Server, is_loopback


@dataclass(frozen=True)
class Listen:
    """Where an API listens, and the token that it demands, if it does; `page_port` is where the page is."""

    host: str
    port: int
    token: str | None = field(default=None, repr=False)
    page_port: int = PAGE_PORT


def new_token(host: str, *, known: bool) -> str | None:
    """What to demand at that host, unless its connections tell who is there: over loopback, where users are `known`."""
    return None if known and is_loopback(host) else secrets.token_urlsafe(24)


@asynccontextmanager
async def orchestrator_api(
    site: Site, recipes: Recipes, store: Path, listen: Listen, *, near: bool, poller: Poller | None = None
) -> AsyncIterator[tuple[str, ServiceOrchestrator]]:
    """The orchestrator and its URL; `near` tells that the site's nodes reach it there. Services go on when it ends."""
    orchestrator = ServiceOrchestrator(site, recipes, store, deployment=Deployment(site, tell_progress), poller=poller)
    async with contextlib.AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        engines = httpx.AsyncClient(transport=transport(site.shell), trust_env=False, limits=limits)
        await stack.enter_async_context(engines)
        stack.push_async_callback(orchestrator.close)
        await orchestrator.start()
        router = Router(orchestrator.replicas, engines)
        app = orchestrator_app(orchestrator, router, token=listen.token, near=near)
        add_signpost(app, listen.page_port)
        server = Server(app, listen.host, listen.port)
        await stack.enter_async_context(server.running())
        yield server.url, orchestrator


def own_orchestrator(
    config: Config, site: Site, recipes: Sequence[Path], listen: Listen, poller: Poller | None = None
) -> AbstractAsyncContextManager[tuple[str, ServiceOrchestrator]]:
    """The orchestrator of the user's machine, which nodes of a cluster do not reach."""
    near = site.profile.scheduler == "local"
    return orchestrator_api(
        site, all_recipes(config, recipes), store_of(config.home, site, "services"), listen, near=near, poller=poller
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
        app = server_app(where, client, described(token=listen.token), token=listen.token)
        add_signpost(app, listen.page_port)
        server = Server(app, listen.host, listen.port)
        async with server.running():
            yield server.url


def here(orchestrator_url: str, listen: Listen) -> tuple[Where, httpx.AsyncClient]:
    """An orchestrator of this machine, or of one that is reached from it, which has the Server API's token."""
    shell = LocalShell()  # over its transport a chunk costs less than over that of httpx
    client = httpx.AsyncClient(transport=transport(shell), trust_env=False)
    return Fixed(Address(orchestrator_url.rstrip("/"), listen.token)), client


def placed(site: Site, config: Config, recipes: Sequence[Path], poller: Poller | None = None) -> PlacedOrchestrator:
    """The orchestrator of a profile that places it on the cluster. The user's own recipes go with it."""
    all_recipes(config, recipes)  # what is wrong in them is said here
    texts = {
        f"{number:03}/{path.relative_to(folder)}": path.read_text(encoding="utf-8")
        for number, folder in enumerate(recipe_folders(config, recipes))
        for path in (*folder.rglob("*.yaml"), *folder.rglob("*.yml"))
    }
    return PlacedOrchestrator(site, texts, Deployment(site, tell_progress), poller=poller)


@asynccontextmanager
async def client_api(
    config: Config, site: Site, server_url: str, listen: Listen, poller: Poller | None = None
) -> AsyncIterator[tuple[str, ClientManager]]:
    """The Client API beside a Server API that has the same token; its URL. Groups go on when it ends."""
    store = Store.open(store_of(config.home, site, "groups"))
    try:
        services = ServerServices(server_url, listen.token)
        manager = ClientManager(
            site,
            store,
            services,
            config.home,
            make_page=try_any_page,
            deployment=Deployment(site, tell_progress),
            poller=poller,
        )
        http = httpx.AsyncClient(transport=transport(LocalShell()), trust_env=False)
        app = client_app(manager, token=listen.token, server=ServerApi(server_url.rstrip("/"), listen.token, http))
        server = Server(app, listen.host, listen.port)
        try:
            async with server.running():
                try:
                    yield server.url, manager
                finally:
                    manager.hang_up()
        finally:
            await services.close()
            await http.aclose()
    finally:
        store.close()


@dataclass(frozen=True)
class Running:
    """The addresses of what is up; None for an orchestrator that runs on the cluster, when it is needed."""

    orchestrator_url: str | None
    server_url: str
    client_url: str


@asynccontextmanager
async def everything(
    config: Config,
    site: Site,
    *,
    listen: Callable[[int], Listen],
    ports: tuple[int, int, int],
    recipes: list[Path],
    signals: Signals,
    keep: bool,
    earlier: bool = False,
    say: Callable[[str], None],
) -> AsyncIterator[Running]:
    """The three APIs, at the `ports` of orchestrator, Server API and Client API.

    Their end is that of what was started meanwhile, and with `earlier` before; with `keep` all goes on.
    """
    chosen = (replace(listen(port), page_port=ports[-1] or PAGE_PORT) for port in ports)
    orchestrator_port, server_port, client_port = chosen
    poller = Poller(site.scheduler)
    async with contextlib.AsyncExitStack() as opened:
        if site.profile.orchestrator.placement == "local":
            serving = own_orchestrator(config, site, recipes, orchestrator_port, poller)
            orchestrator_url, orchestrator = await opened.enter_async_context(serving)
            where, client = here(orchestrator_url, orchestrator_port)
            services: Services = OwnServices(orchestrator)
        else:
            remote = placed(site, config, recipes, poller)
            opened.push_async_callback(remote.close)
            where, client, orchestrator_url = remote, remote.client(), None
        server_url = await opened.enter_async_context(server_api(where, client, server_port))
        if orchestrator_url is None:
            asking = await opened.enter_async_context(AsyncClient(server_url, token=server_port.token))
            services = PlacedServices(remote, asking)
        client_serving = client_api(config, site, server_url, client_port, poller)
        client_url, manager = await opened.enter_async_context(client_serving)
        before = Active() if earlier else await active(manager, services)
        try:
            yield Running(orchestrator_url, server_url, client_url)
        finally:
            await _end(manager, services, before, signals, keep=keep, say=say)


async def _end(
    manager: ClientManager,
    services: Services,
    before: Active,
    signals: Signals,
    *,
    keep: bool,
    say: Callable[[str], None],
) -> None:
    try:
        now = await active(manager, services)
    except (ApiError, ClusterError) as error:
        say(f"nothing was stopped, since nobody tells what runs ({error}): the next `tokenstorm up` finds it")
        return
    started, others = now - before, now & before
    words = f"{_count(len(started.groups), 'group')}, {_count(len(started.services), 'service')}"
    if keep:
        say(f"left running: {words}")
    else:
        if started:
            say(f"stopping {words.replace(',', ' and')}; once more: at once")
        for left in await stop(manager, services, started, signals.hurry):
            say(f"{left} could not be ended: look at it with the next `tokenstorm up`")
    if others:
        say(f"left running, as it was before: {others}")


def store_of(home: Path, site: Site, what: str) -> Path:
    """A file for each profile: what runs in one place is not looked for in another."""
    return home / f"{what}.{quote(site.profile.name, safe='')}.sqlite"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def try_any_page(paths: RunPaths, summary: Summary) -> str:
    """The page of a run, or of the series whose folder it is and of which `summary` is one run."""
    series = SeriesPaths(paths.root)
    if not series.series.exists():
        return try_page(paths, summary)
    try:
        found = read_series_summary(series)
    except RunError as error:
        return str(error)
    return try_series_page(series, found) if found else f"{series.summary} is missing"
