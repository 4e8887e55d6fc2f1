"""Whatever is sent to the API, it answers as its OpenAPI document says, and never with a bug."""

import asyncio
import itertools
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from groups import Jobs, Services, api
from tokenstorm.client_api.app import create_app
from tokenstorm.client_api.services import ServiceInfo
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.web import Server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[int]]]:
    """The API in a thread of its own, over jobs that end as soon as they are looked at, with groups to ask for."""
    folder: Path = tmp_path_factory.mktemp("contract")
    found: list[tuple[str, list[int]]] = []
    up, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        services = Services({"sim": ServiceInfo(status="running"), "old": ServiceInfo(status="failed")})
        jobs = Jobs(first=JobState("ended", "failed", "as it was made to"))
        async with api(folder, jobs, services) as it:
            ids = [await it.create(), await it.create(service_id="sim", target_url=None, start="manual")]
            server = Server(create_app(it.manager), "127.0.0.1", 0)
            async with server.running():
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
    """The OpenAPI document."""

    async def make(folder: Path) -> dict[str, Any]:
        async with api(folder) as it:
            return create_app(it.manager).openapi()

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(make(Path(folder)))


schema = schemathesis.openapi.from_dict(document())
MORE_THAN_A_SCHEMA_SAYS = {
    "POST /api/v1/client-groups": "which fields go together",
    "POST /api/v1/client-groups/dry-run": "which fields go together",
    "POST /api/v1/client-groups/run": "the moment is to come",
    "POST /api/v1/client-groups/{group_id}/run": "the moment is to come",
    "GET /api/v1/client-groups/{group_id}/requests": "Parquet needs pyarrow",
}
"""Where valid data may be refused, and why."""
turns = itertools.count()


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_call_answers_as_documented(case: Any, served: tuple[str, list[int]]) -> None:
    url, ids = served
    if (
        type((case.path_parameters or {}).get("group_id")) is int and next(turns) % 3
    ):  # one that is no number stays wrong
        case.path_parameters["group_id"] = ids[next(turns) % len(ids)]
    excluded = [not_a_server_error]
    if case.operation.label in MORE_THAN_A_SCHEMA_SAYS:
        excluded.append(positive_data_acceptance)
    answer = case.call_and_validate(base_url=url, excluded_checks=excluded)
    assert answer.status_code != 500, answer.text  # other 5xx are checked to be documented
