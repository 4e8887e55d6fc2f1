"""The Server API hands everything on to the orchestrator, and says so when it is not there."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from orchestrating import slurm, submitted
from running import free_port
from tokenstorm.orchestrator import app as orchestrator_app
from tokenstorm.orchestrator.routing import Router
from tokenstorm.server_api.app import create_app
from tokenstorm.server_api.where import Address, Fixed
from tokenstorm.web import Server

Test = Callable[[httpx.AsyncClient, httpx.AsyncClient], Awaitable[None]]


def behind(folder: Path, test: Test, *, token: str | None = None) -> None:
    """A test with a client of the Server API, and one of the orchestrator behind it, which has one service."""

    async def main() -> None:
        async with asyncio.timeout(30), AsyncExitStack() as stack:
            cluster = slurm(folder)
            orchestrator = await stack.enter_async_context(cluster.orchestrator())
            stack.callback(cluster.close)
            service = await submitted(orchestrator, "inference/vllm-single-node", {})
            await cluster.ready(orchestrator, service)
            engines = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            app = orchestrator_app.create_app(orchestrator, Router(orchestrator.replicas, engines), token=token)
            below = Server(app, "127.0.0.1", 0)
            await stack.enter_async_context(below.running())
            up = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            above = Server(
                create_app(Fixed(Address(below.url, token)), up, orchestrator_app.described()), "127.0.0.1", 0
            )
            await stack.enter_async_context(above.running())
            clients = [
                await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20))
                for server in (above, below)
            ]
            await test(*clients)

    asyncio.run(main())


def test_every_call_of_the_orchestrator_is_there_and_documented_in_the_same_way(tmp_path: Path) -> None:
    async def test(above: httpx.AsyncClient, below: httpx.AsyncClient) -> None:
        ours, theirs = [(await api.get("/openapi.json")).json() for api in (above, below)]
        assert set(ours["paths"]) == set(theirs["paths"])
        for path, calls in theirs["paths"].items():
            for method, call in calls.items():
                told = ours["paths"][path][method]
                assert told["summary"] == call["summary"]
                assert set(told["responses"]) >= set(call["responses"])
        assert set(ours["components"]["schemas"]) >= set(theirs["components"]["schemas"])
        assert "502" in ours["paths"]["/api/v1/services"]["get"]["responses"]

    behind(tmp_path, test)


def test_answers_come_as_the_orchestrator_gives_them(tmp_path: Path) -> None:
    async def test(above: httpx.AsyncClient, below: httpx.AsyncClient) -> None:
        listed = (await above.get("/api/v1/services")).json()
        assert listed == (await below.get("/api/v1/services")).json()
        service = listed["services"][0]["id"]
        refused = await above.get("/api/v1/services/nothing")
        assert (refused.status_code, refused.headers["content-type"]) == (404, "application/problem+json")
        assert service in refused.json()["detail"]
        assert (await above.get("/api/v1/nothing")).status_code == 404
        wrong = await above.put("/api/v1/services")
        same = (await below.put("/api/v1/services")).headers
        assert {**same, "date": ""} == {**wrong.headers, "date": ""}
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
        created = await above.post("/api/v1/services", json={"recipe_name": "inference/vllm-replicas"})
        assert created.status_code == 201
        ended = await above.post(f"/api/v1/services/{created.json()['id']}/status", json={"status": "cancelled"})
        assert ended.json()["status"] == "cancelled"
        assert (await above.get("/ready")).json() == {"status": "ready"}

    behind(tmp_path, test)


def test_a_page_of_its_own_docs_may_call_it_through_to_the_orchestrator(tmp_path: Path) -> None:
    """A browser sends Origin with each POST: it is looked at here, and is not the orchestrator's."""

    async def test(above: httpx.AsyncClient, below: httpx.AsyncClient) -> None:
        body = {"recipe_name": "inference/vllm-replicas"}
        own = {"origin": str(above.base_url).rstrip("/")}
        assert (await above.post("/api/v1/services", json=body, headers=own)).status_code == 201
        foreign = {"origin": "http://elsewhere.example"}
        assert (await above.post("/api/v1/services", json=body, headers=foreign)).status_code == 403

    behind(tmp_path, test)


def test_who_is_not_let_in_is_told_so_in_the_form_that_the_path_is_read_in(tmp_path: Path) -> None:
    async def test(above: httpx.AsyncClient, below: httpx.AsyncClient) -> None:
        for api in (above, below):
            foreign = {"host": "elsewhere.example"}
            refused = await api.post("/api/v1/vllm/any/v1/chat/completions", headers=foreign)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
            refused = await api.get("/api/v1/services", headers=foreign)
            assert (refused.status_code, refused.json()["title"]) == (403, "Forbidden")

    behind(tmp_path, test)


def test_its_metrics_count_what_it_handed_on(tmp_path: Path) -> None:
    async def test(above: httpx.AsyncClient, below: httpx.AsyncClient) -> None:
        assert 'tokenstorm_forwarded_requests_total{answer="unreachable"} 0' in (await above.get("/metrics")).text
        for path in ("services", "services", "services/none"):
            await above.get(f"/api/v1/{path}")
        lines = (await above.get("/metrics")).text.splitlines()
        assert 'tokenstorm_forwarded_requests_total{answer="2xx"} 2' in lines
        assert 'tokenstorm_forwarded_requests_total{answer="4xx"} 1' in lines

    behind(tmp_path, test)


def test_prometheus_is_sent_to_the_address_it_came_by(tmp_path: Path) -> None:
    async def test(above: httpx.AsyncClient, below: httpx.AsyncClient) -> None:
        (target,) = (await above.get("/api/v1/services/targets")).json()
        assert target["targets"] == [above.base_url.netloc.decode()]

    behind(tmp_path, test)


def test_the_orchestrator_is_named_by_its_own_address_and_by_one_that_works_from_here(tmp_path: Path) -> None:
    async def test(above: httpx.AsyncClient, below: httpx.AsyncClient) -> None:
        told = (await above.get("/api/v1/orchestrator/endpoint")).json()
        assert told["endpoint"] == str(below.base_url).rstrip("/")
        assert told["local_url"] == str(above.base_url).rstrip("/")

    behind(tmp_path, test)


def test_the_orchestrators_token_is_the_gateways_own_secret(tmp_path: Path) -> None:
    async def test(above: httpx.AsyncClient, below: httpx.AsyncClient) -> None:
        assert (await below.get("/api/v1/services")).status_code == 401
        answer = await above.get("/api/v1/services", headers={"authorization": "Bearer the-callers-own"})
        assert answer.status_code == 200

    behind(tmp_path, test, token="t0ken")


@pytest.mark.parametrize("path", ["/api/v1/services", "/api/v1/vllm/s1/v1/models"])
def test_without_an_orchestrator_it_says_how_to_start_one(path: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), AsyncExitStack() as stack:
            up = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            nobody = f"http://127.0.0.1:{free_port()}"
            server = Server(create_app(Fixed(Address(nobody)), up, orchestrator_app.described()), "127.0.0.1", 0)
            await stack.enter_async_context(server.running())
            api = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False))
            answer = await api.get(path)
            said = answer.json()
            detail = said["error"]["message"] if "error" in said else said["detail"]
            assert answer.status_code == 502
            assert nobody in detail
            assert "tokenstorm orchestrator" in detail
            ready = await api.get("/ready")
            assert ready.status_code == 503
            assert nobody in ready.json()["detail"]
            assert (await api.get("/health")).status_code == 200

    asyncio.run(main())
