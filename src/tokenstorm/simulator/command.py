"""`python -m tokenstorm.simulator`: serve the simulated engine until it is told to stop."""

import argparse
import asyncio
import gc
import os
import signal
import sys
from dataclasses import fields, replace
from typing import Any

import uvloop

from tokenstorm.hosts import in_url
from tokenstorm.httpd import serve
from tokenstorm.program import ends

from .options import add_arguments
from .server import SimulatedEngine
from .settings import PRESETS, Faults, Settings


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; return the exit code."""
    try:
        settings = replace(PRESETS[args.preset], **_given(args, Settings))
        faults = Faults(**_given(args, Faults))
        api_key = _api_key(args.api_key_env)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(args, settings, faults, api_key))


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="tokenstorm sim", description="Serve a simulated LLM engine.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


async def _serve(args: argparse.Namespace, settings: Settings, faults: Faults, api_key: str | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, *ends()):
        loop.add_signal_handler(number, stop.set)
    engine = SimulatedEngine((args.model, *args.adapter), settings, faults, api_key=api_key, seed=args.seed)
    try:
        server = await serve(engine.handle, args.host, args.port, has_key=engine.has_key)
    except OSError as error:
        # A host that is not known has a negative number, and words of its own.
        code = error.errno or 0
        reason = os.strerror(code) if code > 0 else error.strerror
        where = f"{args.host}:{args.port}"
        advice = "choose another --host or --port (0 picks a free port)"
        print(f"error: cannot listen on {where}: {reason}; {advice}", file=sys.stderr)
        return 1
    port = server.sockets[0].getsockname()[1]
    gc.freeze()  # what was imported need not be looked at again and again
    print(
        f"serving {args.model} at http://{in_url(args.host)}:{port} (simulated engine, preset {args.preset})",
        flush=True,
    )
    await stop.wait()
    server.close()
    late = engine.metrics.late_seconds
    if late:
        print(f"warning: the engine ran late by {late:.2f} s in all: busy machine", file=sys.stderr)
    return 0


def _given(args: argparse.Namespace, kind: type[Settings | Faults]) -> dict[str, Any]:
    """The fields that were named on the command line."""
    values = {field.name: getattr(args, field.name) for field in fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        msg = f"the environment variable {variable} is empty: put the API key there"
        raise ValueError(msg)
    return key
