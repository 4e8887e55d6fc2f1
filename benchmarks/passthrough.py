"""What the pass-through adds to the time to the first token.

    python benchmarks/passthrough.py [--streams 100] [--pairs 5] [--seconds 8] [--engine simulator|truthd]

An engine sends a chunk to each of 100 streams every 50 ms: the simulator to all at once, as batching engines do, the
yardstick's endpoint to each on its own. The load generator reads them from the engine itself
and through the pass-through, by turns: through the orchestrator alone (one hop), and through the Server API and the
orchestrator (two). Each is a process of its own. Prints both p50s, their difference and their ratio for each pair, and
ends with 1 when the median of one hop's differences is above the bar.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import uvloop

from tokenstorm.cluster.http import transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.orchestrator.app import described
from tokenstorm.orchestrator.replicas import Replica
from tokenstorm.orchestrator.routing import Router, vllm_routes
from tokenstorm.server_api.app import create_app
from tokenstorm.server_api.where import Address, Fixed
from tokenstorm.web import Server, new_app

BAR_MS = 3.0
KEY = "TOKENSTORM_BENCH_KEY"
ENGINE = ["--step-base-ms", "50", "--step-per-sequence-ms", "0", "--step-per-prefill-token-ms", "0", "--api-key-env"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100, help="streams at once (100)")
    parser.add_argument("--pairs", type=int, default=5, help="alternated pairs for each way (5)")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured window of each run (8)")
    parser.add_argument("--engine", choices=("simulator", "truthd"), default="simulator", help="(simulator)")
    parser.add_argument("--serve", nargs=2, metavar=("WHAT", "URL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        uvloop.run(serve(*args.serve))
        return 0
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        if args.engine == "truthd":
            engine = stack.enter_context(truthd(Path(folder)))
        else:
            engine = stack.enter_context(started("-m", "tokenstorm.simulator", "--port", "0", *ENGINE, KEY))
        below = stack.enter_context(started(__file__, "--serve", "orchestrator", engine))
        above = stack.enter_context(started(__file__, "--serve", "server", below))
        ways = {"one hop": f"{below}/api/v1/vllm/s1", "two hops": f"{above}/api/v1/vllm/s1"}
        worst = {name: compare(name, engine, url, args, Path(folder)) for name, url in ways.items()}
    print(f"bar for one hop: at most {BAR_MS:g} ms more: {'holds' if worst['one hop'] <= BAR_MS else 'does not hold'}")
    return worst["one hop"] > BAR_MS


def compare(name: str, engine: str, url: str, args: argparse.Namespace, folder: Path) -> float:
    """The median of what a way adds to the p50 of the TTFT, in milliseconds."""
    more, tails = [], []
    for pair in range(args.pairs):
        turns = [("direct", engine), ("through", url)]
        found = {
            what: bench(where, args, folder / f"{name}-{pair}-{what}") for what, where in turns[:: 1 - pair % 2 * 2]
        }
        direct, through = found["direct"], found["through"]
        more.append(through["p50"] - direct["p50"])
        tails.append(through["p99"] - direct["p99"])
        print(
            f"{name}, pair {pair + 1}: TTFT p50 {direct['p50']:.1f} ms direct, {through['p50']:.1f} ms through: "
            f"{more[-1]:+.2f} ms (x {through['p50'] / direct['p50']:.3f}), p99 {tails[-1]:+.2f} ms",
            flush=True,
        )
    print(
        f"{name}: p50 {statistics.median(more):+.2f} ms, p99 {statistics.median(tails):+.2f} ms (medians)", flush=True
    )
    return statistics.median(more)


def bench(url: str, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The TTFT of one run in milliseconds, by percentile."""
    options = f"--num-clients {args.streams} --ramp-seconds 4 --warmup 4 --duration {args.seconds} --max-tokens 80"
    words = ["bench", url, *options.split(), "--ignore-eos", "--ranks", "1", "--json", "--prompt", "Tell me a story."]
    command = [sys.executable, "-m", "tokenstorm", *words, "--api-key-env", KEY, "--run-dir", str(folder)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=300)
    if ended.returncode not in {0, 3}:
        sys.exit(f"the load generator failed: {ended.stderr}")
    summary = json.loads(ended.stdout)
    if summary["counts"]["failed"]:
        sys.exit(f"requests failed: {summary['counts']}")
    lines = [json.loads(line) for path in folder.glob("results.*.jsonl") for line in path.read_bytes().splitlines()]
    ttft = [
        (line["first_token"] - line["sent"]) / 1e6
        for line in lines
        if line["phase"] == "measured" and not line["error"]
    ]
    cuts = statistics.quantiles(
        ttft, n=100
    )  # from the lines: the summary's histograms are exact to 1 %, not enough here
    return {"p50": cuts[49], "p99": cuts[98]}


@contextlib.contextmanager
def started(*words: str) -> Iterator[str]:
    """A server as a process, and the address that it prints."""
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, f"{words} did not start"
            yield found[0]
        finally:
            process.terminate()


@contextlib.contextmanager
def truthd(folder: Path) -> Iterator[str]:
    """The yardstick's endpoint, whose streams each have their own pace, and its address."""
    binary = folder / "truthd"
    subprocess.run(["cc", "-O2", "-o", binary, Path(__file__).parent / "yardstick" / "truthd.c", "-lm"], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([binary, "--port", str(port), "--ttft", "50", "--itl", "50"]) as process:
        try:
            yield f"http://127.0.0.1:{port}"  # the load generator waits until it listens
        finally:
            process.kill()


def environment() -> dict[str, str]:
    return {**os.environ, KEY: "the-engines-key"}


async def serve(what: str, url: str) -> None:
    """The orchestrator's routing to one replica, or the Server API in front of it."""
    async with httpx.AsyncClient(transport=transport(LocalShell()), trust_env=False) as client:
        if what == "server":
            app = create_app(Fixed(Address(url)), client, described())
        else:
            host, _, port = url.removeprefix("http://").partition(":")
            only = Replica(
                id="here.0",
                service_id="s1",
                node="here",
                status="running",
                host=host,
                port=int(port),
                api_key=os.environ[KEY],
            )
            app = new_app("routing", "", ready=lambda: None)
            app.include_router(vllm_routes(Router(lambda _: [only], client), list), prefix="/api/v1")
        server = Server(app, "127.0.0.1", 0)
        async with server.running():
            print(server.url, flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
