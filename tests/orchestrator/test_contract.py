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
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from orchestrating import Cluster, slurm, submitted
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.cluster.site import Site
from tokenstorm.orchestrator.app import create_app
from tokenstorm.orchestrator.routing import Router
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.web import Server


async def seeded(cluster: Cluster, stack: AsyncExitStack) -> tuple[Server, list[str]]:
    """A served API with services in several states, and their ids."""
    orchestrator = await stack.enter_async_context(cluster.orchestrator())
    one = await submitted(orchestrator, "inference/vllm-single-node", {})
    group = await submitted(orchestrator, "inference/vllm-replicas", {})
    ended = await submitted(orchestrator, "inference/sglang", {})
    stack.callback(cluster.close)
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


def document() -> dict[str, Any]:
    """The OpenAPI document; making it needs no orchestrator that runs."""
    cluster = slurm(Path())
    site = Site(cluster.profile, cluster.shell, cluster.scheduler, has_gpu=True)
    orchestrator = ServiceOrchestrator(site, cluster.recipes, Path("none"))
    return create_app(orchestrator, Router(orchestrator.replicas, httpx.AsyncClient())).openapi()


schema = schemathesis.openapi.from_dict(document())
turns = itertools.count()


@schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
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
