"""`up`, and `orchestrator`, `server` and `client` alone: APIs that serve until they are told to end."""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from tokenstorm.cli import stack
from tokenstorm.cli.commands import TOKEN
from tokenstorm.cli.signals import Signals, handled_signals
from tokenstorm.cli.stack import Listen, everything, new_token
from tokenstorm.cli.terminal import asking, show_line, tell
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.site import Site
from tokenstorm.config.file import Config, load_config
from tokenstorm.errors import RunError
from tokenstorm.peers import users_are_known

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
            _show(
                "Client API",
                f"{running.client_url}  (open it in a browser; its calls are at {running.client_url}/docs)",
            )
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
            _show("Client API", f"{url}  (open it in a browser; its calls are at {url}/docs)")
            await signals.stop.wait()
    return 0


def _listening(host: str) -> Callable[[int], Listen]:
    """Ports of that host, with the token of the environment, or one that is printed here where it takes one."""
    token = os.environ.get(TOKEN)
    if not token and (token := new_token(host, known=users_are_known())):
        _show("token", f"{token}  (for others: {TOKEN}={token})")
    return lambda port: Listen(host, port, token or None)


def _show(what: str, value: str) -> None:
    show_line(f"{what:<{_LABEL}}{value}")
