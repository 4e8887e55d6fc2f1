"""`up`, and `orchestrator`, `server` and `client` alone: APIs that serve until they are told to end."""

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from tokenstorm.cli import stack
from tokenstorm.cli.commands import TOKEN
from tokenstorm.cli.ending import Active, OwnServices, PlacedServices, Services, active, stop
from tokenstorm.cli.stack import Listen
from tokenstorm.cli.terminal import asking, show_line, tell
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.site import Site
from tokenstorm.config import Config, load_config
from tokenstorm.errors import ApiError, ClusterError, RunError
from tokenstorm.peers import users_are_known
from tokenstorm.sdk import AsyncClient
from tokenstorm.web import is_loopback

_LABEL = 14
_PLACES = {"login": "on the login node", "job": "as a job"}


def up(args: argparse.Namespace) -> int:
    """All three."""
    return uvloop.run(_up(args))


def orchestrator(args: argparse.Namespace) -> int:
    """One alone."""
    return uvloop.run(_orchestrator(args))


def server(args: argparse.Namespace) -> int:
    """One alone."""
    return uvloop.run(_server(args))


def client(args: argparse.Namespace) -> int:
    """One alone."""
    return uvloop.run(_client(args))


@dataclass(frozen=True)
class Signals:
    """`stop` is set by the first signal, `hurry` by the second."""

    stop: asyncio.Event
    hurry: asyncio.Event

    def came(self) -> None:
        """A signal came."""
        (self.hurry if self.stop.is_set() else self.stop).set()


@contextlib.contextmanager
def handled_signals() -> Iterator[Signals]:
    """SIGINT, SIGTERM and a lost terminal end the block in order; `nohup` is respected."""
    loop, signals = asyncio.get_running_loop(), Signals(asyncio.Event(), asyncio.Event())
    heard = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    for one in heard:
        loop.add_signal_handler(one, signals.came)
    try:
        yield signals
    finally:
        for one in heard:
            loop.remove_signal_handler(one)


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
    orchestrator_port, server_port, client_port = map(listen, ports)
    async with contextlib.AsyncExitStack() as opened:
        if site.profile.orchestrator.placement == "local":
            serving = stack.own_orchestrator(config, site, recipes, orchestrator_port)
            orchestrator_url, orchestrator = await opened.enter_async_context(serving)
            where, client = stack.here(orchestrator_url, orchestrator_port)
            services: Services = OwnServices(orchestrator)
        else:
            placed = stack.placed(site, config, recipes)
            opened.push_async_callback(placed.close)
            where, client, orchestrator_url = placed, placed.client(), None
        server_url = await opened.enter_async_context(stack.server_api(where, client, server_port))
        if orchestrator_url is None:
            asking = await opened.enter_async_context(AsyncClient(server_url, token=server_port.token))
            services = PlacedServices(placed, asking)
        client_serving = stack.client_api(config, site, server_url, client_port)
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


@asynccontextmanager
async def opened_site(profile: str | None, signals: Signals) -> AsyncIterator[tuple[Config, Site]]:
    """The configuration, and the place of a profile. A signal ends a login that waits for somebody to type, or for a network."""
    config = load_config()
    opening = asyncio.create_task(open_site(config.profile(profile), asking()))
    stopping = asyncio.create_task(signals.stop.wait())
    try:
        await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            message = "stopped before it was logged in"
            raise RunError(message)
        site = opening.result()
    finally:
        opening.cancel()
        stopping.cancel()
        await asyncio.wait((opening, stopping))  # until an ssh that asks has let go of the terminal
    try:
        yield config, site
    finally:
        await site.close()


async def _up(args: argparse.Namespace) -> int:
    listen = _listening(args.host)
    with handled_signals() as signals:
        async with (
            opened_site(args.profile, signals) as (config, site),
            everything(
                config,
                site,
                listen=listen,
                ports=(args.orchestrator_port, args.server_port, args.client_port),
                recipes=args.recipes,
                signals=signals,
                keep=args.keep,
                say=tell,
            ) as running,
        ):
            _show("Server API", f"{running.server_url}  (try it at {running.server_url}/docs)")
            _show("Client API", f"{running.client_url}  (try it at {running.client_url}/docs)")
            placement = site.profile.orchestrator.placement
            _show("orchestrator", running.orchestrator_url or f"{_PLACES[placement]}, started when it is first needed")
            _show("profile", f"{site.profile.name}, data in {config.home}")
            await signals.stop.wait()
    return 0


async def _orchestrator(args: argparse.Namespace) -> int:
    if args.placed:
        return await _placed(args.placed)
    listen = _listening(args.host)
    with handled_signals() as signals:
        async with (
            opened_site(args.profile, signals) as (config, site),
            stack.own_orchestrator(config, site, args.recipes, listen(args.port)) as (url, _),
        ):
            _show("orchestrator", url)
            await signals.stop.wait()
    return 0


async def _placed(folder: Path) -> int:
    """On the cluster, started by a Server API that left in that folder what is needed."""
    with handled_signals() as signals:
        async with stack.placed_here(folder):
            await signals.stop.wait()
    return 0


async def _server(args: argparse.Namespace) -> int:
    listen = _listening(args.host)(args.port)
    with handled_signals() as signals:
        async with stack.server_api(*stack.here(args.orchestrator_url, listen), listen) as url:
            _show("Server API", f"{url}  (try it at {url}/docs)")
            await signals.stop.wait()
    return 0


async def _client(args: argparse.Namespace) -> int:
    listen = _listening(args.host)
    with handled_signals() as signals:
        async with (
            opened_site(args.profile, signals) as (config, site),
            stack.client_api(config, site, args.server_url, listen(args.port)) as (url, _),
        ):
            _show("Client API", f"{url}  (try it at {url}/docs)")
            await signals.stop.wait()
    return 0


def new_token(host: str, *, known: bool) -> str | None:
    """What to demand at that host, unless its connections tell who is there: over loopback, where users are `known`."""
    return None if known and is_loopback(host) else secrets.token_urlsafe(24)


def _listening(host: str) -> Callable[[int], Listen]:
    """Ports of that host, with the token of the environment, or one that is printed here where it takes one."""
    token = os.environ.get(TOKEN)
    if not token and (token := new_token(host, known=users_are_known())):
        _show("token", f"{token}  (for others: {TOKEN}={token})")
    return lambda port: Listen(host, port, token or None)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _show(what: str, value: str) -> None:
    show_line(f"{what:<{_LABEL}}{value}")
