"""`tokenstorm demo`: the whole flow through the APIs, in one process, on this machine."""

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from tokenstorm.cli.panel import screen
from tokenstorm.cli.signals import Signals, handled_signals
from tokenstorm.cli.stack import Listen, everything, new_token
from tokenstorm.cli.terminal import show_line, show_summary, show_text, tell
from tokenstorm.cli.watching import Watching
from tokenstorm.cluster.opening import open_site
from tokenstorm.config.file import LOCAL, Config
from tokenstorm.errors import RunError
from tokenstorm.options import DEFAULT_PROMPT
from tokenstorm.peers import users_are_known
from tokenstorm.runs import RunPaths, data_home
from tokenstorm.sdk import AsyncClient, GroupRequest, Summary

RECIPE = "inference/sim-single-node"
LOAD: GroupRequest = {
    "num_clients": 50,
    "requests_per_second": 20.0,
    "duration_seconds": 10.0,
    "warmup_seconds": 2.0,
    "max_tokens": 64,
    "prompts": [DEFAULT_PROMPT],
}
_HOST = "127.0.0.1"
LOAD_OPTIONS = "--num-clients 50 --requests-per-second 20 --duration 10 --warmup 2 --max-tokens 64"
Say = Callable[[str], None]
T = TypeVar("T")


def demo(args: argparse.Namespace) -> int:
    """Its data stay, in a folder of their own: what `up` runs is left alone."""
    summary, where = uvloop.run(_demo(_saying(quiet=args.json)))
    code = show_summary(summary, where, as_json=args.json)
    if not args.json:
        show_text("\nThe engine and the APIs are gone, the run's files stay. Next:")
        show_text("  tokenstorm up    the same APIs, for services and loads of your own")
        show_text(f"  tokenstorm report {where}    the numbers again")
        show_text("  the page with charts, for your browser:")
        show_text(str(RunPaths(Path(where)).report))
    return code


async def _demo(say: Say) -> tuple[Summary, str]:
    config = Config(home=(data_home() / "demo").absolute())
    token = new_token(_HOST, known=users_are_known())
    with handled_signals() as signals:
        site = await open_site(config.profile(LOCAL))
        try:
            async with (
                everything(
                    config,
                    site,
                    listen=lambda port: Listen(_HOST, port, token),
                    ports=(0, 0, 0),
                    recipes=[],
                    signals=signals,
                    keep=False,
                    earlier=True,  # what a demo that was killed left behind
                    say=_nobody,
                ) as running,
                AsyncClient(running.server_url, running.client_url, token=token) as client,
            ):
                say(f"Server API at {running.server_url}, Client API at {running.client_url}")
                return await _flow(client, signals, say)
        finally:
            await site.close()


async def _flow(client: AsyncClient, signals: Signals, say: Say) -> tuple[Summary, str]:
    """What a user would do, with the commands that do the same."""
    say(f"$ tokenstorm service create {RECIPE} --wait")
    service = await _unless(signals.stop, client.create_service(RECIPE))
    service = await _unless(signals.stop, client.wait_until_ready(service.id, seconds=120))
    say(f"simulated engine {service.model} at {service.endpoint}: service {service.id} is {service.status}")
    say(f"$ tokenstorm group create {service.id} {LOAD_OPTIONS} --watch")
    request: GroupRequest = {**LOAD, "service_id": service.id}
    created = await _unless(signals.stop, client.create_group(**request))
    say(created.message)
    drain = asyncio.create_task(_stop_at(signals, client, created.group_id))
    try:
        with screen() as shown:
            watching = Watching(shown)
            async for event in client.events(created.group_id):
                watching.see(event)
        group = await client.wait_until_stopped(created.group_id, seconds=60)
    finally:
        drain.cancel()
        await asyncio.wait((drain,))
    if group.info.outcome not in {"completed", "cancelled"}:
        message = f"group {created.group_id} {group.info.outcome}: {group.info.reason}"
        raise RunError(message)
    return await client.results(created.group_id), group.info.run_dir or group.info.run_id


async def _stop_at(signals: Signals, client: AsyncClient, group_id: int) -> None:
    """Drain the group at the first signal."""
    await signals.stop.wait()
    tell("stopping: what was sent is waited for")
    await client.stop_group(group_id)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The work's result, unless there is a signal before."""
    task, told = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise KeyboardInterrupt
        return task.result()
    finally:
        task.cancel()
        told.cancel()
        await asyncio.wait((task, told))


def _saying(*, quiet: bool) -> Say:
    return _nobody if quiet else show_line


def _nobody(_line: str) -> None:
    pass
