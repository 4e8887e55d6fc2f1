"""Whatever is sent to the API, it answers as its OpenAPI document says, and never with a bug."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from orchestrating import Cluster, slurm
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.orchestrator.app import create_app
from tokenstorm.orchestrator.routing import Router
from tokenstorm.web import Server


async def seeded(cluster: Cluster, stack: AsyncExitStack) -> tuple[Server, list[str]]:
    """A served API with services in several states, and their ids."""
    orchestrator = await stack.enter_async_context(cluster.orchestrator())
    one = await orchestrator.create("inference/vllm-single-node", {})
    group = await orchestrator.create("inference/vllm-replicas", {})
    ended = await orchestrator.create("inference/sglang", {})
    for service in (one, group):
        await cluster.ready(orchestrator, service)
    cluster.put_job(ended, JobState("ended", "node_fail"))
    await orchestrator.look()
    cluster.shell.files[one.path / "stdout.log"] = b"hello\n"
    engines = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
    server = Server(create_app(orchestrator, Router(orchestrator.replicas, engines)), "127.0.0.1", 0)
    await stack.enter_async_context(server.running())
    return server, [one.id, group.id, ended.id]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """The API in a thread of its own."""
    folder: Path = tmp_path_factory.mktemp("contract")
    found: list[tuple[str, list[str]]] = []
    up = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            server, ids = await seeded(slurm(folder), stack)
            found.append((server.url, ids))
            up.set()
            await stop.wait()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve())
        finally:
            up.set()

    thread = threading.Thread(target=run)
    thread.start()
    up.wait(30)
    assert found, "the API did not start: its traceback is above"
    yield found[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()


@pytest.fixture(scope="module")
def api(served: tuple[str, list[str]]) -> Any:
    """The OpenAPI document as it is served."""
    return schemathesis.openapi.from_url(f"{served[0]}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")
turns = itertools.count()


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_call_answers_as_documented(case: Any, served: tuple[str, list[str]]) -> None:
    _, ids = served
    known = {"service_id", "group_id"} & set(case.path_parameters or {})
    if known and next(turns) % 3:
        case.path_parameters[known.pop()] = ids[next(turns) % len(ids)]
    case.call_and_validate()
