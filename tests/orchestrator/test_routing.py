"""Prompts and the pass-through: over real sockets, past replicas that fail."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import openai
import pytest

from running import Stage
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.errors import Unknown
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.orchestrator import routing
from tokenstorm.orchestrator.replicas import Replica
from tokenstorm.orchestrator.routing import Router, vllm_routes
from tokenstorm.web import Server, new_app

Answer = Callable[[Request, Reply], None]
KEY = "the-engines-key"
LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"


class Fleet:
    """Some engines behind the routes of one service, `s1`."""

    def __init__(self, client: httpx.AsyncClient, replicas: list[Replica]) -> None:
        self.client = client
        self.replicas = replicas

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(path, **options)

    async def chat(self, **options: Any) -> httpx.Response:
        return await self.client.post("/vllm/s1/v1/chat/completions", content=b'{"model":"m"}', **options)


def replica(number: int, port: int, status: Any = "running") -> Replica:
    return Replica(
        id=f"n.{number}",
        service_id="s1",
        node="n",
        status=status,
        host="127.0.0.1",
        port=port,
        models=("m",),
        api_key=KEY,
    )


@contextlib.asynccontextmanager
async def routes(replicas: list[Replica]) -> AsyncIterator[Fleet]:
    """The routes on a port of their own."""

    def known(service_id: str) -> list[Replica]:
        if service_id != "s1":
            message = f"there is no service {service_id!r}"
            raise Unknown(message)
        return replicas

    shell = LocalShell()
    async with httpx.AsyncClient(transport=transport(shell), trust_env=False) as up:
        app = new_app("test", "", ready=lambda: None)
        app.include_router(vllm_routes(Router(known, up), list))
        server = Server(app, "127.0.0.1", 0)
        async with server.running(), httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as down:
            yield Fleet(down, replicas)
    await shell.close()


def run(test: Callable[[Fleet], Coroutine[Any, Any, None]], *engines: Answer) -> None:
    """One test with an engine for each answer."""

    async def main() -> None:
        async with asyncio.timeout(30):
            servers = [await serve(answer, "127.0.0.1", 0) for answer in engines]
            ports = [server.sockets[0].getsockname()[1] for server in servers]
            async with routes([replica(number, port) for number, port in enumerate(ports)]) as fleet:
                await test(fleet)
            for server in servers:
                server.close()
            await asyncio.sleep(0.01)  # the loop closes their connections in its next turns

    asyncio.run(main())


def named(name: str, seen: list[Request] | None = None) -> Answer:
    """An engine that says who it is."""

    def answer(request: Request, reply: Reply) -> None:
        if seen is not None:
            seen.append(request)
        reply.send(200, json.dumps({"id": name, "model": "m", "choices": [{"message": {"content": name}}]}).encode())

    return answer


def resetting(request: Request, reply: Reply) -> None:
    reply.reset()


def unavailable(request: Request, reply: Reply) -> None:
    reply.send(503, b'{"error": {"message": "loading"}}')


async def names(fleet: Fleet, times: int) -> list[str]:
    answers = [await fleet.chat() for _ in range(times)]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.json()["id"] for answer in answers]


def test_requests_go_round() -> None:
    async def test(fleet: Fleet) -> None:
        assert await names(fleet, 6) == ["a", "b", "c"] * 2

    run(test, named("a"), named("b"), named("c"))


@pytest.mark.parametrize("fault", [resetting, unavailable])
def test_a_replica_that_fails_is_passed_over_and_nobody_notices(fault: Answer) -> None:
    tries = 0

    def failing(request: Request, reply: Reply) -> None:
        nonlocal tries
        tries += 1
        fault(request, reply)

    async def test(fleet: Fleet) -> None:
        assert set(await names(fleet, 12)) == {"a", "c"}
        assert tries == 1

    run(test, named("a"), failing, named("c"))


def test_a_replica_comes_back_when_it_has_rested(monkeypatch: pytest.MonkeyPatch) -> None:
    now, well = 1000.0, False
    monkeypatch.setattr(routing, "monotonic", lambda: now)

    def moody(request: Request, reply: Reply) -> None:
        (named("b") if well else resetting)(request, reply)

    async def test(fleet: Fleet) -> None:
        nonlocal now, well
        assert set(await names(fleet, 4)) == {"a"}
        well = True
        assert set(await names(fleet, 4)) == {"a"}
        now += routing.REST_SECONDS
        assert set(await names(fleet, 4)) == {"a", "b"}

    run(test, named("a"), moody)


def test_a_replica_that_is_not_well_gets_nothing() -> None:
    async def test(fleet: Fleet) -> None:
        fleet.replicas[0] = replica(0, 1, "failed")
        fleet.replicas[1] = replica(1, 1, "starting")
        assert set(await names(fleet, 4)) == {"c"}

    run(test, named("a"), named("b"), named("c"))


def test_when_nobody_answers_it_is_an_error_that_openai_clients_know() -> None:
    async def test(fleet: Fleet) -> None:
        refused = await fleet.chat()
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "2"
        assert "n.0" in refused.json()["error"]["message"]
        unknown = await fleet.client.post("/vllm/s9/v1/completions", content=b"{}")
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "invalid_request_error")
        fleet.replicas.clear()
        assert "none is ready" in (await fleet.chat()).json()["error"]["message"]
        models = (await fleet.get("/vllm/s1/models")).json()
        assert (models["success"], models["models"]) == (False, None)

    run(test, resetting)


def test_the_last_replicas_503_is_told_in_its_own_words() -> None:
    async def test(fleet: Fleet) -> None:
        answer = await fleet.chat()
        assert (answer.status_code, answer.json()) == (503, {"error": {"message": "loading"}})

    run(test, unavailable, unavailable)


def test_the_engine_gets_its_own_key_and_nothing_of_the_callers_hop() -> None:
    seen: list[Request] = []

    async def test(fleet: Fleet) -> None:
        headers = {
            "authorization": "Bearer the-callers-own",
            "x-request-id": "r-1",
            "connection": "keep-alive, x-mine",
            "x-mine": "1",
            "te": "trailers",
        }
        await fleet.client.post("/vllm/s1/v1/completions?a=1&b=%2F", content=b"\x00\xff", headers=headers)
        (request,) = seen
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["x-request-id"] == "r-1"
        assert not {"x-mine", "te", "keep-alive"} & set(request.headers)
        assert (request.path, request.query, request.body) == ("/v1/completions", "a=1&b=%2F", b"\x00\xff")

    run(test, named("a", seen))


def test_nothing_is_added_that_the_caller_did_not_send() -> None:
    """No encoding it did not ask for, and no cookie that the engine gave somebody else."""
    seen: list[Request] = []

    def baking(request: Request, reply: Reply) -> None:
        seen.append(request)
        reply.send(200, b"{}", headers=[("set-cookie", "whose=hers"), ("keep-alive", "timeout=5")])

    async def test(fleet: Fleet) -> None:
        for _ in range(2):
            reader, writer = await asyncio.open_connection(fleet.client.base_url.host, fleet.client.base_url.port)
            writer.write(b"GET /vllm/s1/v1/a%2Fb/%E4?x=%zz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            assert b"set-cookie: whose=hers" in answer
            assert b"timeout=5" not in answer
        assert [(one.path, one.query) for one in seen] == [("/v1/a%2Fb/%E4", "x=%zz")] * 2
        assert [set(one.headers) for one in seen] == [{"host", "authorization"}] * 2

    run(test, baking)


@pytest.mark.parametrize("path", ["/%76llm/s1/v1/models", "/vllm/s1/%761/models", "/vllm/s1%2Fv1/models"])
def test_a_path_that_hides_where_it_leads_is_refused(path: str) -> None:
    seen: list[Request] = []

    async def test(fleet: Fleet) -> None:
        reader, writer = await asyncio.open_connection(fleet.client.base_url.host, fleet.client.base_url.port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        assert (await reader.read()).startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))
        writer.close()
        await writer.wait_closed()
        assert not seen

    run(test, named("a", seen))


@pytest.mark.parametrize(
    "path", ["/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/%252e%252e/metrics", "/v1/a%5c..%5cmetrics", "/v1/./models"]
)
def test_a_path_that_climbs_is_refused(path: str) -> None:
    seen: list[Request] = []

    async def test(fleet: Fleet) -> None:
        reader, writer = await asyncio.open_connection(fleet.client.base_url.host, fleet.client.base_url.port)
        writer.write(f"GET /vllm/s1{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))
        assert not seen

    run(test, named("a", seen))


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused(announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenstorm.proxy.MAX_BODY_BYTES", 1000)
    seen: list[Request] = []

    async def in_parts() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield b"x" * 600

    async def test(fleet: Fleet) -> None:
        body = b"x" * 1001 if announced else in_parts()
        answer = await fleet.client.post("/vllm/s1/v1/completions", content=body)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
        assert not seen
        assert (await fleet.client.post("/vllm/s1/v1/completions", content=b"x" * 1000)).status_code == 200

    run(test, named("a", seen))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_passes(method: str) -> None:
    seen: list[Request] = []

    async def test(fleet: Fleet) -> None:
        answer = await fleet.client.request(method, "/vllm/s1/v1/files/f1")
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) > 0
        assert bool(answer.content) == (method != "HEAD")
        assert [one.method for one in seen] == [method]

    run(test, named("a", seen))


def test_a_stream_passes_chunk_by_chunk() -> None:
    """The engine says the next thing only when the caller has got the last one."""
    go_on = asyncio.Event()

    def streaming(request: Request, reply: Reply) -> None:
        async def stream() -> None:
            reply.start(200)
            for number in range(3):
                reply.write(b"data: %d\n\n" % number)
                await go_on.wait()
                go_on.clear()
            reply.end()

        reply.spawn(stream())

    async def test(fleet: Fleet) -> None:
        got = []
        async with fleet.client.stream("POST", "/vllm/s1/v1/completions", content=b"{}") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for part in answer.aiter_raw():
                got.append(part)
                go_on.set()
        assert got == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]

    run(test, streaming)


def test_a_caller_that_goes_away_ends_the_engines_work() -> None:
    left = asyncio.Event()

    def endless(request: Request, reply: Reply) -> None:
        reply.on_close = left.set
        reply.start(200)
        reply.write(b"data: 0\n\n")

    async def test(fleet: Fleet) -> None:
        async with fleet.client.stream("POST", "/vllm/s1/v1/completions", content=b"{}") as answer:
            await anext(answer.aiter_raw())
        await left.wait()

    run(test, endless)


@pytest.mark.parametrize("path", ["v1/completions", "prompt"])
def test_a_caller_that_goes_away_before_the_answer_ends_the_engines_work(path: str) -> None:
    came, left = asyncio.Event(), asyncio.Event()

    def silent(request: Request, reply: Reply) -> None:
        reply.on_close = left.set
        came.set()

    async def test(fleet: Fleet) -> None:
        asked = asyncio.create_task(fleet.client.post(f"/vllm/s1/{path}", json={"prompt": "hi"}))
        await came.wait()
        asked.cancel()
        await left.wait()

    run(test, silent)


def test_an_engine_that_dies_in_the_middle_breaks_the_callers_stream_too() -> None:
    def dying(request: Request, reply: Reply) -> None:
        reply.start(200)
        reply.write(b"data: 0\n\n")
        asyncio.get_running_loop().call_later(0.05, reply.reset)

    async def test(fleet: Fleet) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await fleet.chat()
        assert set(await names(fleet, 4)) == {"b"}, "it is passed over from then on"

    run(test, dying, named("b"))


def test_a_prompt_whose_answer_breaks_off_is_asked_again_elsewhere() -> None:
    """Its caller has been sent nothing yet."""

    def dying(request: Request, reply: Reply) -> None:
        reply.start(200, "application/json")
        reply.write(b'{"model":')
        asyncio.get_running_loop().call_later(0.05, reply.reset)

    async def test(fleet: Fleet) -> None:
        answer = await fleet.client.post("/vllm/s1/prompt", json={"prompt": "hi"})
        assert answer.json()["routed_to"] == "n.1"

    run(test, dying, named("b"))


def test_a_replica_that_was_found_well_again_is_used_at_once() -> None:
    well = False

    def moody(request: Request, reply: Reply) -> None:
        (named("b") if well else resetting)(request, reply)

    async def test(fleet: Fleet) -> None:
        nonlocal well
        assert set(await names(fleet, 4)) == {"a"}
        there = fleet.replicas[1]
        fleet.replicas[1] = replica(1, there.port or 0, "failed")
        assert set(await names(fleet, 4)) == {"a"}
        fleet.replicas[1], well = there, True
        assert set(await names(fleet, 4)) == {"a", "b"}

    run(test, named("a"), moody)


def test_the_others_share_the_turns_of_one_that_rests() -> None:
    async def test(fleet: Fleet) -> None:
        await names(fleet, 4)
        found = await names(fleet, 12)
        assert {name: found.count(name) for name in "acd"} == {"a": 4, "c": 4, "d": 4}

    run(test, named("a"), resetting, named("c"), named("d"))


def test_a_connection_that_an_engine_closed_meanwhile_is_no_failure_of_that_engine() -> None:
    """Engines close idle connections; the replica keeps its turns, and no request is lost."""
    closes = True

    def closing(request: Request, reply: Reply) -> None:
        named("b")(request, reply)
        if closes:
            reply.reset()

    async def test(fleet: Fleet) -> None:
        assert (await names(fleet, 8)).count("b") == 4

    run(test, named("a"), closing)


def test_a_prompt_says_who_answered_it() -> None:
    async def test(fleet: Fleet) -> None:
        answer = await fleet.client.post("/vllm/s1/prompt", json={"prompt": "hi"})
        assert answer.json() == {
            "success": True,
            "response": "a",
            "usage": None,
            "model": "m",
            "routed_to": "n.0",
            "service_id": "s1",
        }
        assert (await fleet.client.post("/vllm/s1/prompt", json={"prompt": ""})).status_code == 422
        assert (await fleet.client.post("/vllm/s9/prompt", json={"prompt": "hi"})).status_code == 404

    run(test, named("a"))


def test_what_an_engine_says_of_its_version_passes_through_from_the_next_replica_that_is_well() -> None:
    def simulated(request: Request, reply: Reply) -> None:
        assert request.path == "/version"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        reply.send(200, b'{"version": "1", "simulated": true}')

    async def test(fleet: Fleet) -> None:
        for _ in range(3):
            answer = await fleet.get("/vllm/s1/version")
            assert (answer.status_code, answer.json()) == (200, {"version": "1", "simulated": True})
        unknown = await fleet.get("/vllm/s9/version")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "service_not_found")
        assert (await fleet.get("/vllm/s1/versions")).status_code == 404
        assert (await fleet.get("/vllm/s1/x/version")).status_code == 404

    run(test, simulated, resetting, simulated)


def test_a_model_that_cannot_chat_is_asked_to_complete() -> None:
    def base_model(request: Request, reply: Reply) -> None:
        if request.path == "/v1/chat/completions":
            reply.send(400, b'{"error": {"message": "this tokenizer has no chat template"}}')
        else:
            assert json.loads(request.body)["prompt"] == "hi"
            reply.send(200, b'{"model": "m", "choices": [{"text": "there"}]}')

    async def test(fleet: Fleet) -> None:
        assert (await fleet.client.post("/vllm/s1/prompt", json={"prompt": "hi"})).json()["response"] == "there"

    run(test, base_model)


def test_replicas_that_cannot_chat_take_turns_all_the_same() -> None:
    def base_model(request: Request, reply: Reply) -> None:
        if request.path == "/v1/chat/completions":
            reply.send(400, b'{"error": {"message": "this tokenizer has no chat template"}}')
        else:
            reply.send(200, b'{"model": "m", "choices": [{"text": "there"}]}')

    async def test(fleet: Fleet) -> None:
        answers = [(await fleet.client.post("/vllm/s1/prompt", json={"prompt": "hi"})).json() for _ in range(4)]
        assert [answer["routed_to"] for answer in answers] == ["n.0", "n.1"] * 2

    run(test, base_model, base_model)


def test_a_request_that_ends_whoever_takes_it_ends_two_at_most() -> None:
    taken: list[str] = []

    def dying(name: str) -> Answer:
        def answer(request: Request, reply: Reply) -> None:
            taken.append(name)
            reply.reset()

        return answer

    async def test(fleet: Fleet) -> None:
        assert (await fleet.chat()).status_code == 503
        assert taken == ["a", "b"]

    run(test, *map(dying, "abcd"))


@pytest.mark.parametrize("path", ["/vllm/s1/v1/chat/completions", "/vllm/s1/prompt"])
def test_a_request_at_a_replica_that_hangs_goes_elsewhere_once_that_is_known(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "LOOK_SECONDS", 0.02)
    hanging = asyncio.Event()

    async def test(fleet: Fleet) -> None:
        asking = asyncio.create_task(fleet.client.post(path, json={"prompt": "hi"}))
        await hanging.wait()
        fleet.replicas[0] = replica(0, fleet.replicas[0].port or 0, "failed")
        assert (await asking).json()["model"] == "m"

    def hang(request: Request, reply: Reply) -> None:
        hanging.set()

    run(test, hang, named("b"))


@pytest.mark.parametrize(("status", "told"), [(400, 400), (404, 404), (429, 429), (418, 502)])
def test_an_engine_that_refuses_a_prompt_is_quoted(status: int, told: int) -> None:
    def refusing(request: Request, reply: Reply) -> None:
        reply.send(status, b'{"error": {"message": "not today"}}')

    async def test(fleet: Fleet) -> None:
        answer = await fleet.client.post("/vllm/s1/prompt", json={"prompt": "hi"})
        assert (answer.status_code, answer.json()["detail"]) == (told, "not today")

    run(test, refusing)


def test_openais_own_clients_work_through_it(stage: Stage) -> None:
    engine = stage.simulate()
    port = int(engine.url.rpartition(":")[2])

    async def main() -> None:
        async with asyncio.timeout(30), routes([replica(0, port)]) as fleet:
            base = f"{str(fleet.client.base_url).rstrip('/')}/vllm/s1/v1"
            messages: Any = [{"role": "user", "content": "hi"}]
            async with openai.AsyncOpenAI(base_url=base, api_key="any") as client:
                model = (await client.models.list()).data[0].id
                whole = await client.chat.completions.create(model=model, messages=messages, max_tokens=5)
                assert whole.usage is not None
                assert whole.usage.completion_tokens == 5
                stream = await client.chat.completions.create(model=model, messages=messages, max_tokens=5, stream=True)
                said = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
                assert len([word for word in said if word]) == 5
                with pytest.raises(openai.NotFoundError, match="nobody"):
                    await client.completions.create(model="nobody", prompt="hi")

            def in_a_thread() -> str:
                with openai.OpenAI(base_url=base, api_key="any") as client:
                    answer = client.completions.create(model=model, prompt="hi", max_tokens=3, stream=True)
                    return "".join(chunk.choices[0].text for chunk in answer if chunk.choices)

            assert await asyncio.to_thread(in_a_thread)

    asyncio.run(main())


@pytest.mark.parametrize("behind", [b"", LATE], ids=["when it is idle", "behind each answer"])
def test_callers_get_their_own_answers_from_an_engine_whose_proxy_says_408(behind: bytes) -> None:
    """It says so to its connections, whoever uses them next."""
    idle: list[asyncio.StreamWriter] = []
    serving: list[asyncio.Task[Any] | None] = []

    async def proxied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                body = await reader.readexactly(length)
                idle.append(writer)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b%b" % (length, body, behind))
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with await asyncio.start_server(proxied, "127.0.0.1", 0) as engine:
            async with routes([replica(0, engine.sockets[0].getsockname()[1])]) as fleet:
                for number in range(5):
                    body = b'{"model": "m", "number": %d}' % number
                    answer = await fleet.client.post("/vllm/s1/v1/chat/completions", content=body)
                    assert (answer.status_code, answer.content) == (200, body)
                    if not behind:
                        idle.pop().write(LATE)
            await asyncio.gather(*filter(None, serving))

    asyncio.run(main())
