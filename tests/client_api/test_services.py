"""What the Server API says of services is understood, and what goes wrong on the way is said in words."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tokenstorm.client_api.server import ServerServices
from tokenstorm.client_api.services import Access, ServiceInfo
from tokenstorm.errors import Unknown, Unreachable
from tokenstorm.targets import GpuSampler

ANSWERS: dict[str, tuple[int, Any]] = {
    "/api/v1/services/abc": (
        200,
        {"id": "abc", "recipe_name": "a/b", "status": "running", "engine": "simulated", "model": "m", "more": 1},
    ),
    "/api/v1/services/abc/access": (
        200,
        {
            "endpoints": [{"replica": "n1.0", "url": "http://n1:8001", "nodes": ["n1", "n2"]}],
            "gpu_samplers": [{"node": "n1", "url": "http://n1:9/metrics", "gpus": 4}],
            "api_key": "k",
        },
    ),
    "/api/v1/orchestrator/endpoint": (200, {"endpoint": "http://login:8000", "local_url": "http://127.0.0.1:8000"}),
    "/api/v1/services/a%2Fb": (404, {"detail": "there is no service 'a/b': there is abc"}),
    "/api/v1/services/busy": (502, {"detail": "the orchestrator is not reachable"}),
    "/api/v1/services/odd": (200, ["what"]),
}


def ask(what: Callable[[ServerServices], Any]) -> Any:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        status, body = ANSWERS[request.url.raw_path.decode()]
        return httpx.Response(status, json=body)

    async def work() -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return await what(ServerServices("http://server:8001/", "token", client))

    found = asyncio.run(work())
    assert {request.headers["authorization"] for request in asked} == {"Bearer token"}
    return found


def test_a_service_its_engines_and_the_way_through_the_orchestrator_are_understood() -> None:
    assert ask(lambda it: it.find("abc")) == ServiceInfo(status="running", engine="simulated", model="m")
    sampler = GpuSampler(node="n1", url="http://n1:9/metrics", gpus=4, keyed=True)
    known = Access((("n1.0", "http://n1:8001"),), "k", {"n1.0": ("n1", "n2")}, gpu_samplers=(sampler,))
    assert ask(lambda it: it.access("abc")) == known
    assert ask(lambda it: it.routed("abc")).endpoints == (("orchestrator", "http://login:8000/api/v1/vllm/abc"),)


def test_a_service_that_is_not_there_is_unknown_in_the_servers_own_words() -> None:
    with pytest.raises(Unknown, match="there is abc"):
        ask(lambda it: it.find("a/b"))


@pytest.mark.parametrize("service", ["busy", "odd"])
def test_an_answer_that_makes_no_sense_is_said_with_what_it_was(service: str) -> None:
    with pytest.raises(Unreachable, match="the Server API at http://server:8001 answered"):
        ask(lambda it: it.find(service))


def test_a_server_api_that_is_not_there_is_said_with_what_to_do() -> None:
    async def work() -> None:
        services = ServerServices("http://127.0.0.1:9")
        try:
            await services.find("abc")
        finally:
            await services.close()

    with pytest.raises(Unreachable, match=r"is not reachable .*: start it"):
        asyncio.run(work())


def test_what_comes_behind_an_answer_tells_nothing_of_the_next_service() -> None:
    serving: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                name = (await reader.readuntil(b"\r\n\r\n")).split()[1].rpartition(b"/")[2]
                for model in (name, b"another"):
                    body = b'{"id": "x", "recipe_name": "a/b", "status": "running", "model": "%b"}' % model
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()
        await writer.wait_closed()

    async def work() -> list[str | None]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            services = ServerServices(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            try:
                return [(await services.find(name)).model for name in ("a", "b", "c")]
            finally:
                await services.close()
                await asyncio.gather(*filter(None, serving))

    assert asyncio.run(work()) == ["a", "b", "c"]


def test_keys_do_not_show() -> None:
    assert "secret" not in repr(Access((), "secret"))
