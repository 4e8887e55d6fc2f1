"""What the OpenAI pass-through adds to the time to the first token: against the engine itself, in one run.

    python benchmarks/passthrough.py [--pairs 5]

A hundred closed-loop streams of a chunk each 50 ms. The engine is the yardstick's endpoint; orchestrator and Server API
are processes of their own, with the routes they have in the product. Direct and passed-on runs alternate.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvloop

from tokenstorm.cluster.http import transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.orchestrator.replicas import Replica
from tokenstorm.orchestrator.routing import Router, vllm_routes
from tokenstorm.server_api.app import PREFIX, create_app
from tokenstorm.web import Server, new_app

HERE = Path(__file__).parent
BAR_MS = 3.0
LOAD = [
    "--num-clients",
    "100",
    "--max-tokens",
    "40",
    "--duration",
    "8",
    "--warmup",
    "2",
    "--drain",
    "10",
    "--ramp-seconds",
    "1",
]


async def serve(*, engine_port: int | None, orchestrator: str | None) -> None:
    """The pass-through before an engine, or the Server API before an orchestrator, until it is killed."""
    async with httpx.AsyncClient(transport=transport(LocalShell()), trust_env=False) as client:
        if orchestrator is not None:
            app = create_app(orchestrator, client)
        else:
            one = Replica(
                id="n.0",
                service_id="s",
                node="n",
                status="running",
                host="127.0.0.1",
                port=engine_port,
                models=("truth",),
            )
            app = new_app("pass-through", "", ready=lambda: None)
            app.include_router(vllm_routes(Router(lambda _: [one], client), list), prefix=PREFIX)
        server = Server(app, "127.0.0.1", 0)
        async with server.running():
            print(server.url, flush=True)
            await asyncio.Event().wait()


@contextmanager
def process(*argv: str) -> Iterator[str]:
    """A process that says its address first; its first line."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout
        try:
            yield started.stdout.readline().strip()
        finally:
            started.kill()


def bench(url: str, folder: Path) -> dict[str, Any]:
    """One run; its summary."""
    argv = [sys.executable, "-m", "tokenstorm", "bench", url, *LOAD, "--json", "--run-dir", str(folder)]
    summary: dict[str, Any] = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    assert summary["counts"]["failed"] == 0, summary["counts"]
    return summary


def ttft(summary: dict[str, Any]) -> float:
    """The median in milliseconds."""
    return float(summary["metrics"]["ttft_seconds"]["p50"]) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--engine-port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--orchestrator", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine_port or args.orchestrator:
        uvloop.run(serve(engine_port=args.engine_port, orchestrator=args.orchestrator))
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        truthd = folder / "truthd"
        subprocess.run(["cc", "-O2", "-o", truthd, HERE / "yardstick" / "truthd.c", "-lm"], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        engine = subprocess.Popen([truthd, "--port", str(port), "--ttft", "50", "--itl", "50"])
        stack.callback(engine.wait)
        stack.callback(engine.kill)
        me = (sys.executable, str(Path(__file__)))
        hop = stack.enter_context(process(*me, "--engine-port", str(port)))
        gateway = stack.enter_context(process(*me, "--orchestrator", hop))
        ways = {
            "direct": f"http://127.0.0.1:{port}",
            "one hop: orchestrator": f"{hop}{PREFIX}/vllm/s",
            "two hops: Server API and orchestrator": f"{gateway}{PREFIX}/vllm/s",
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(args.pairs):
            for number, (way, url) in enumerate(ways.items()):
                found[way].append(ttft(bench(url, folder / f"run.{turn}.{number}")))
                print(f"  {way}: TTFT p50 {found[way][-1]:.2f} ms", file=sys.stderr)
    direct = statistics.median(found.pop("direct"))
    print(f"TTFT p50, medians of {args.pairs} alternated runs; direct {direct:.2f} ms")
    for way, times in found.items():
        added = statistics.median(times) - direct
        print(f"{way}: +{added:.2f} ms, {added / BAR_MS:.2f} of the bar for one hop ({BAR_MS:g} ms)")


if __name__ == "__main__":
    main()
