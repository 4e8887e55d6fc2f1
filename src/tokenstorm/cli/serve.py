"""`up`, and `orchestrator`, `server` and `client` alone: APIs that serve until they are told to end."""

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from tokenstorm.cli import stack
from tokenstorm.cli.commands import TOKEN
from tokenstorm.cli.ending import Started
from tokenstorm.cli.stack import Listen
from tokenstorm.cli.terminal import tell
from tokenstorm.cluster.site import Site, open_site
from tokenstorm.config import Config, load_config
from tokenstorm.web import is_loopback

_LABEL = 14


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
    """The addresses of what is up."""

    orchestrator_url: str
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
    async with (
        stack.orchestrator_api(config, site, recipes, orchestrator_port) as (orchestrator_url, orchestrator),
        stack.server_api(orchestrator_url, server_port) as server_url,
        stack.client_api(config, site, server_url, client_port) as (client_url, manager),
    ):
        started = Started(manager, orchestrator, earlier=earlier)
        try:
            yield Running(orchestrator_url, server_url, client_url)
        finally:
            await _end(started, signals, keep=keep, say=say)


async def _end(started: Started, signals: Signals, *, keep: bool, say: Callable[[str], None]) -> None:
    groups, services = _count(len(started.groups), "group"), _count(len(started.services), "service")
    if keep:
        say(f"left running: {groups}, {services}")
    elif started.groups or started.services:
        say(f"stopping {groups} and {services}; once more: at once")
        for left in await started.stop(signals.hurry):
            say(f"{left} could not be ended: look at it with the next `tokenstorm up`")
    if started.others:
        say(f"left running, as it was before: {', '.join(started.others)}")


@asynccontextmanager
async def opened_site(profile: str | None) -> AsyncIterator[tuple[Config, Site]]:
    """The configuration, and the place of a profile."""
    config = load_config()
    site = await open_site(config.profile(profile))
    try:
        yield config, site
    finally:
        await site.close()


async def _up(args: argparse.Namespace) -> int:
    listen = _listening(args.host)
    with handled_signals() as signals:
        async with (
            opened_site(args.profile) as (config, site),
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
            _show("orchestrator", running.orchestrator_url)
            _show("profile", f"{site.profile.name}, data in {config.home}")
            await signals.stop.wait()
    return 0


async def _orchestrator(args: argparse.Namespace) -> int:
    listen = _listening(args.host)
    with handled_signals() as signals:
        async with (
            opened_site(args.profile) as (config, site),
            stack.orchestrator_api(config, site, args.recipes, listen(args.port)) as (url, _),
        ):
            _show("orchestrator", url)
            await signals.stop.wait()
    return 0


async def _server(args: argparse.Namespace) -> int:
    listen = _listening(args.host)
    with handled_signals() as signals:
        async with stack.server_api(args.orchestrator_url, listen(args.port)) as url:
            _show("Server API", f"{url}  (try it at {url}/docs)")
            await signals.stop.wait()
    return 0


async def _client(args: argparse.Namespace) -> int:
    listen = _listening(args.host)
    with handled_signals() as signals:
        async with (
            opened_site(args.profile) as (config, site),
            stack.client_api(config, site, args.server_url, listen(args.port)) as (url, _),
        ):
            _show("Client API", f"{url}  (try it at {url}/docs)")
            await signals.stop.wait()
    return 0


def _listening(host: str) -> Callable[[int], Listen]:
    """Ports of that host. Beyond loopback there is a token: the one of the environment, or one that is printed here."""
    token = os.environ.get(TOKEN)
    if not token and not is_loopback(host):
        token = secrets.token_urlsafe(24)
        _show("token", f"{token}  (for others: {TOKEN}={token})")
    return lambda port: Listen(host, port, token or None)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _show(what: str, value: str) -> None:
    sys.stdout.write(f"{what:<{_LABEL}}{value}\n")
    sys.stdout.flush()
