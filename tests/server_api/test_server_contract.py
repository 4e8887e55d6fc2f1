"""Whatever is sent to the Server API, it answers as its OpenAPI document says, and never with a bug."""

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
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from orchestrating import slurm, submitted
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.orchestrator import app as orchestrator_app
from tokenstorm.orchestrator.routing import Router
from tokenstorm.server_api.app import create_app
from tokenstorm.server_api.where import Address, Fixed
from tokenstorm.web import Server


async def serve(folder: Path, stack: AsyncExitStack) -> tuple[str, list[str]]:
    """The Server API before an orchestrator with services in several states, on a scheduler that is played."""
    cluster = slurm(folder)
    orchestrator = await stack.enter_async_context(cluster.orchestrator())
    stack.callback(cluster.close)
    one = await submitted(orchestrator, "inference/vllm-single-node", {})
    group = await submitted(orchestrator, "inference/vllm-replicas", {})
    ended = await submitted(orchestrator, "inference/sglang", {})
    for service in (one, group):
        await cluster.ready(orchestrator, service)
    cluster.put_job(ended, JobState("ended", "node_fail"))
    await orchestrator.look()
    clients = [httpx.AsyncClient(transport=transport(LocalShell()), trust_env=False) for _ in range(2)]
    engines, up = [await stack.enter_async_context(client) for client in clients]
    below = Server(orchestrator_app.create_app(orchestrator, Router(orchestrator.replicas, engines)), "127.0.0.1", 0)
    await stack.enter_async_context(below.running())
    above = Server(create_app(Fixed(Address(below.url)), up, orchestrator_app.described()), "127.0.0.1", 0)
    await stack.enter_async_context(above.running())
    return above.url, [one.id, group.id, ended.id]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """The APIs in a thread of their own."""
    folder = tmp_path_factory.mktemp("contract")
    found: list[tuple[str, list[str]]] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    up = threading.Event()

    async def main() -> None:
        async with AsyncExitStack() as stack:
            found.append(await serve(folder, stack))
            stop = asyncio.Event()
            loops.append((asyncio.get_running_loop(), stop))
            up.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        finally:
            up.set()

    thread = threading.Thread(target=run)
    thread.start()
    up.wait(30)
    assert found, "the APIs did not start: the traceback is above"
    yield found[0]
    loop, stop = loops[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)


described = create_app(Fixed(Address("http://127.0.0.1:1")), httpx.AsyncClient(), orchestrator_app.described())
schema = schemathesis.openapi.from_dict(described.openapi())
turns = itertools.count()


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_call_answers_as_documented(case: Any, served: tuple[str, list[str]]) -> None:
    url, ids = served
    known = {"service_id", "group_id"} & set(case.path_parameters or {})
    if known and next(turns) % 3:
        case.path_parameters[known.pop()] = ids[next(turns) % len(ids)]
    excluded = [not_a_server_error]
    if case.operation.label in {"POST /api/v1/services", "POST /api/v1/services/dry-run"}:
        excluded.append(positive_data_acceptance)  # which keys `config` may have is the recipe's to say
    answer = case.call_and_validate(base_url=url, excluded_checks=excluded)
    assert answer.status_code != 500, answer.text  # other 5xx are checked to be documented
