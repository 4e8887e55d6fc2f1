"""The Client API against its bars, with the real local scheduler, load generator and simulator.

    python benchmarks/client_api.py [--rows create,first,list,viewers] [--posts 20] [--viewers 200] [--seconds 10]

Each row prints what was measured as a share of its bar: at most 1 is within it. Rows that depend on the machine's mood
alternate (with viewers, without), and their medians are compared.
"""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import msgspec
from msgspec.structs import replace

from measuring import say, started
from tokenstorm.api.groups import GroupRequest
from tokenstorm.client_api import group as states
from tokenstorm.client_api.app import create_app
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.server import ServerServices
from tokenstorm.client_api.store import GroupSecrets, Store
from tokenstorm.cluster.opening import open_site
from tokenstorm.config.profile import Profile
from tokenstorm.plan import new_run_id
from tokenstorm.report.page import try_page
from tokenstorm.web import Server

GROUPS = "/api/v1/client-groups"
CREATE_BAR, FIRST_BAR, LIST_BAR, LAG_BAR = 0.250, 2.0, 0.050, 0.0002
"""Seconds: POST until 201 p95; POST to the first request; GET p95; difference of send_lag p99."""


async def serve_api(folder: Path) -> None:
    """An API in a process of its own, until it is ended."""
    profile = Profile(name="local", scheduler="local", base_path=PurePosixPath(folder), python=sys.executable)
    site, store = await open_site(profile), Store.open(folder / "client.db")
    manager = ClientManager(site, store, ServerServices("http://127.0.0.1:9"), folder, make_page=try_page)
    server = Server(create_app(manager), "127.0.0.1", 0)
    async with server.running():
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


@asynccontextmanager
async def everything(folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """The API, the simulator, and a caller of the API."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with (
        started(__file__, "serve", str(folder)) as (url, _),
        started("-m", "tokenstorm.simulator", "--port", "0", "--preset", "fast") as (engine, _),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits) as client,
    ):
        yield client, engine


async def until_stopped(client: httpx.AsyncClient, group: int) -> dict[str, Any]:
    """Its info at the end."""
    while True:
        info: dict[str, Any] = (await client.get(f"{GROUPS}/{group}")).json()["info"]
        if info["status"] == "stopped":
            return info
        await asyncio.sleep(0.25)


def p95(values: list[float]) -> float:
    """By nearest rank."""
    return sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)]


async def create(args: argparse.Namespace) -> None:
    """POST until 201, one after another, each group ending before the next."""
    with tempfile.TemporaryDirectory() as folder:
        async with everything(Path(folder)) as (client, engine):
            took = []
            body = {"target_url": engine, "num_clients": 1, "request_count": 1, "prompts": ["hi"], "max_tokens": 1}
            for _ in range(args.posts):
                began = time.perf_counter()
                answer = await client.post(GROUPS, json=body)
                took.append(time.perf_counter() - began)
                assert answer.status_code == 201, answer.text
                await until_stopped(client, answer.json()["group_id"])
            say(f"POST until 201, p95 of {args.posts}", p95(took), CREATE_BAR)


async def first(args: argparse.Namespace) -> None:
    """POST to the first request that is counted, at an engine that notes when it comes."""
    arrived = asyncio.Event()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = re.search(r"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                if "x-request-id" in head and "-preflight" not in head:
                    arrived.set()
                said = json.dumps(
                    {"data": [{"id": "m"}], "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
                ).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(said)
                )
                writer.write(said)
        writer.close()

    server = await asyncio.start_server(engine, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        async with everything(Path(folder)) as (client, _):
            took = []
            body = {"target_url": url, "num_clients": 2, "requests_per_second": 50, "request_count": 5}
            for _ in range(max(5, args.posts // 2)):
                arrived.clear()
                began = time.perf_counter()
                answer = await client.post(GROUPS, json={**body, "prompts": ["hi"], "stream": False})
                assert answer.status_code == 201, answer.text
                await asyncio.wait_for(arrived.wait(), 30)
                took.append(time.perf_counter() - began)
                await until_stopped(client, answer.json()["group_id"])
            say(f"POST to the first request at the engine, worst of {len(took)}", max(took), FIRST_BAR)
            say("  median", statistics.median(took), FIRST_BAR)
    server.close()


def fill(folder: Path, count: int) -> None:
    """A store with so many groups that are over."""
    store = Store.open(folder / "client.db")
    asked = {"target_url": "http://127.0.0.1:9", "num_clients": 10, "prompts": ["What is deep learning?"] * 10}
    request = msgspec.convert(asked, GroupRequest)
    for _ in range(count):
        run_id = new_run_id()

        def make(group_id: int, run_id: str = run_id) -> ClientGroup:
            return ClientGroup(
                group_id=group_id,
                run_id=run_id,
                num_clients=10,
                service_id=None,
                name="",
                labels={},
                manual=False,
                hold_seconds=600.0,
                drain_seconds=30.0,
                time_limit_minutes=5,
                created_at=states.now(),
                stage="running",
            )

        secrets = GroupSecrets("secret")
        added = store.add(make, msgspec.json.encode(request), secrets, idempotency_key=None, fingerprint="")
        store.save(states.stopped(replace(added, has_summary=True), "completed", ""))
    store.close()


async def timed(ask: Callable[[], Awaitable[httpx.Response]], times: int) -> list[float]:
    """How long each of so many calls took."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        answer = await ask()
        took.append(time.perf_counter() - began)
        assert answer.status_code == 200, answer.text
    return took


async def listed(_args: argparse.Namespace) -> None:
    """1,000 finished groups: the list, and one of them."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), 1000)
        async with everything(Path(folder)) as (client, _):
            say("1000 groups: GET list, p95", p95(await timed(lambda: client.get(GROUPS), 200)), LIST_BAR)
            say("1000 groups: GET one, p95", p95(await timed(lambda: client.get(f"{GROUPS}/500"), 200)), LIST_BAR)
            whole = await timed(lambda: client.get(GROUPS, params={"detail": True}), 20)
            say("1000 groups: GET list with detail, p95 (no bar of its own)", p95(whole), LIST_BAR)


def connections(url: str) -> int:
    """Who is connected to a port of this machine, ranks of the run left out: they upgraded, and are its children."""
    port = f"{int(url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port}") and row[3] == "01" for row in rows)


async def view(client: httpx.AsyncClient, group: int, seen: list[int]) -> None:
    """One viewer, to the end; on a bare socket, so that the viewers cost this machine little."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(f"GET {GROUPS}/{group}/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    count = 0
    while part := await reader.read(65536):
        count += part.count(b"event: progress")
    writer.close()
    seen.append(count)


async def run_once(
    client: httpx.AsyncClient, engine: str, args: argparse.Namespace, viewers: int
) -> tuple[float, int, int]:
    """send_lag p99 in seconds, the most connections to the launcher beside its ranks', and events that viewers saw."""
    body = {
        "target_url": engine,
        "num_clients": 20,
        "requests_per_second": 50,
        "duration_seconds": args.seconds,
        "max_tokens": 16,
        "prompts": ["hello"],
        "ranks": 1,
        "seed": 1,
        "drain_seconds": 5,
    }
    group = (await client.post(GROUPS, json=body)).json()["group_id"]
    seen: list[int] = []
    watching = [asyncio.create_task(view(client, group, seen)) for _ in range(viewers)]
    most = 0
    while (info := (await client.get(f"{GROUPS}/{group}")).json()["info"])["status"] != "stopped":
        if info["client_address"]:
            most = max(most, connections(info["client_address"]) - 1)  # one is the rank's
        await asyncio.sleep(0.5)
    await asyncio.gather(*watching)
    summary = (await client.get(f"{GROUPS}/{group}/results")).json()
    assert summary["counts"]["succeeded"] == summary["counts"]["scheduled"], summary["counts"]
    return summary["metrics"]["send_lag_seconds"]["p99"], most, min(seen, default=0)


async def viewers(args: argparse.Namespace) -> None:
    """Alternated pairs of the same run, with and without viewers."""
    with tempfile.TemporaryDirectory() as folder:
        async with everything(Path(folder)) as (client, engine):
            differences, most, fewest = [], 0, sys.maxsize
            for _ in range(args.pairs):
                without, _, _ = await run_once(client, engine, args, 0)
                lag, held, seen = await run_once(client, engine, args, args.viewers)
                differences.append(lag - without)
                most, fewest = max(most, held), min(fewest, seen)
            each = " ".join(f"{difference / LAG_BAR:+.2f}" for difference in differences)
            say(
                f"{args.viewers} viewers: send_lag p99 more than without, median",
                statistics.median(differences),
                LAG_BAR,
            )
            sys.stdout.write(f"  each pair, in bars: {each}\n")
            sys.stdout.write(f"  connections to the launcher at most: {most} (bar: 1)\n")
            sys.stdout.write(f"  seconds that the worst viewer saw: {fewest} of {args.seconds:g}\n")


ROWS = {"create": create, "first": first, "list": listed, "viewers": viewers}


def main() -> None:
    """Parse the command line and measure."""
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve_api(Path(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--posts", type=int, default=20)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    for row in args.rows.split(","):
        asyncio.run(ROWS[row](args))


if __name__ == "__main__":
    main()
