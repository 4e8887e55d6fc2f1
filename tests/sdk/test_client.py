"""The Python client against an API whose answers a test makes up, over real sockets."""

import asyncio
import inspect
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tokenstorm import sdk
from tokenstorm.errors import ApiError, UsageError
from tokenstorm.sdk import Arrival, AsyncClient, Change, Client, Group, GroupRequest, Ramp, Second, Service, Synthetic
from tokenstorm.sdk import calls as every_call
from tokenstorm.sdk.waits import made

SERVICE = {"id": "s1", "status": "running", "recipe_name": "a/b", "engine": "vllm", "something_new": 1}
INFO = {"num_clients": 3, "status": "stopped", "outcome": "completed", "load_config": {"num_clients": 3}}


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, object] | tuple[int, object, str]


@dataclass
class Api:
    """Answers with what a function makes of each request; both APIs at one address."""

    answer: Callable[[Seen], Answer]
    url: str = ""
    seen: list[Seen] = field(default_factory=list)

    def client(self, **options: Any) -> Client:
        return Client(self.url, self.url, **options)

    def asynchronous(self, **options: Any) -> AsyncClient:
        return AsyncClient(self.url, self.url, **options)


@contextmanager
def serving(answer: Callable[[Seen], Answer]) -> Iterator[Api]:
    api = Api(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            length = int(self.headers.get("content-length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, self.path, headers, self.rfile.read(length))
            api.seen.append(seen)
            status, content, *kind = api.answer(seen)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", kind[0] if kind else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = reply  # noqa: N815 - the names that the base class looks for

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        api.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


def closed_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


def test_the_parts_of_a_load_are_sent_as_structs_or_as_what_they_are_in_json() -> None:
    with (
        serving(lambda _: (201, {"status": "created", "group_id": 1, "num_clients": 2})) as api,
        api.client() as client,
    ):
        rising = Arrival(ramp=Ramp(from_rps=1, to_rps=9))
        client.create_group(num_clients=2, target_url="http://h", synthetic=Synthetic(words=5), arrival=rising)
        request: GroupRequest = {"num_clients": 2, "arrival": {"ramp": {"from_rps": 1, "to_rps": 9}}}
        client.create_group(**request)
    first, second = (json.loads(seen.body) for seen in api.seen)
    assert first["synthetic"]["words"] == 5
    assert {name: first["arrival"][name] for name in second["arrival"]} == second["arrival"]


def test_what_a_group_is_created_with_is_listed_in_the_signature() -> None:
    parameters = inspect.signature(Client.create_group).parameters
    assert (parameters["num_clients"].annotation, parameters["num_clients"].default) == (int, inspect.Parameter.empty)
    assert parameters["idempotency_key"].default is None


def test_both_clients_have_the_same_calls_with_the_same_arguments() -> None:
    public = {name for name in dir(Client) if not name.startswith("_")}
    assert public == {name for name in dir(AsyncClient) if not name.startswith("_")}
    for name in public - {"send", "follow"}:
        sync, other = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(sync).parameters == inspect.signature(other).parameters
        assert sync.__doc__ == other.__doc__
        assert sync.__doc__


def test_public_names_are_listed_in_order_and_are_there() -> None:
    assert sorted(sdk.__all__, key=lambda name: (not name.isupper(), name)) == sdk.__all__
    assert all(hasattr(sdk, name) for name in sdk.__all__)


def test_every_call_that_is_described_is_a_method() -> None:
    described = {
        name
        for name, found in inspect.getmembers(every_call, inspect.isfunction)
        if found.__module__ == every_call.__name__ and not name.startswith("_") and name != "refusal"
    }
    assert described <= set(dir(Client))


def test_a_request_is_what_was_asked_for_and_its_answer_is_typed() -> None:
    with serving(lambda _: (201, SERVICE)) as api, api.client(token="secret") as client:
        service = client.create_service("a/b", {"model": "x"})
    assert service == Service(id="s1", status="running", recipe_name="a/b", engine="vllm")
    (seen,) = api.seen
    assert (seen.method, seen.path) == ("POST", "/api/v1/services")
    assert json.loads(seen.body) == {"recipe_name": "a/b", "config": {"model": "x"}}
    assert seen.headers["authorization"] == "Bearer secret"
    assert seen.headers["content-type"] == "application/json"


def test_each_service_that_is_created_has_a_key_of_its_own_unless_one_is_given() -> None:
    with serving(lambda _: (201, SERVICE)) as api, api.client() as client:
        client.create_service("a/b")
        client.create_service("a/b")
        client.create_service("a/b", idempotency_key="mine")
    first, second, third = [seen.headers["idempotency-key"] for seen in api.seen]
    assert first != second
    assert third == "mine"


@pytest.mark.parametrize("key", ["é", "a\nb", "a b", "x" * 201])
def test_a_key_that_no_header_takes_is_refused_before_anything_is_sent(key: str) -> None:
    with pytest.raises(UsageError, match="must be 1 to 200 letters, digits and signs of ASCII"):
        every_call.create_service("a/b", idempotency_key=key)
    with pytest.raises(UsageError, match="the idempotency key "):
        every_call.create_group(service_id="s1", num_clients=3, prompts=["a"], idempotency_key=key)


def test_a_call_with_a_key_is_made_until_it_is_answered_and_at_once_given_up_where_nobody_takes_it() -> None:
    answers: list[Answer] = [(504, {"detail": "no answer"}), (502, {}), (201, SERVICE)]
    with serving(lambda _: answers.pop(0)) as api, api.client() as client:
        assert client.follow(made(every_call.create_service("a/b"), 30)).id == "s1"
    assert len({seen.headers["idempotency-key"] for seen in api.seen}) == 1
    with serving(lambda _: (422, {"detail": "no such key"})) as api, api.client() as client:
        with pytest.raises(ApiError, match="no such key"):
            client.follow(made(every_call.create_service("a/b"), 30))
        assert len(api.seen) == 1
    nobody = closed_port()
    with Client(nobody, nobody) as client, pytest.raises(ApiError, match="tokenstorm up"):
        client.follow(made(every_call.create_service("a/b"), 1e9))


def test_a_group_is_created_with_what_was_given_and_nothing_else() -> None:
    created = {"status": "created", "group_id": 7, "num_clients": 3, "message": ""}
    with serving(lambda _: (201, created)) as api, api.client() as client:
        assert client.create_group(service_id="s1", num_clients=3, prompts=["a"], idempotency_key="k").group_id == 7
    (seen,) = api.seen
    assert json.loads(seen.body) == {"service_id": "s1", "num_clients": 3, "prompts": ["a"]}
    assert seen.headers["idempotency-key"] == "k"


def test_an_id_is_one_part_of_a_path_whatever_it_holds() -> None:
    with serving(lambda _: (200, SERVICE)) as api, api.client() as client:
        for hostile in ("../x", "a/b", "a?b", "a#b", "a b", ".."):
            client.get_service(hostile)
    assert [seen.path.count("/") for seen in api.seen] == [4] * 6
    assert not any("?" in seen.path for seen in api.seen)


def test_a_refusal_carries_the_problem_document() -> None:
    problem = {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "num_clients: too many",
        "errors": [{"field": "num_clients", "message": "too many"}],
    }
    with serving(lambda _: (422, problem, "application/problem+json")) as api, api.client() as client:
        with pytest.raises(ApiError, match="num_clients: too many") as caught:
            client.create_group(service_id="s", num_clients=3)
        assert (caught.value.status, caught.value.problem, caught.value.exit_code) == (422, problem, 2)
        with pytest.raises(ApiError, match="too many") as streamed:
            next(client.events(3))
        assert streamed.value.status == 422


@pytest.mark.parametrize("content", [b"<html>Bad gateway</html>", b"", b"[1]", b"\xff"])
def test_a_refusal_without_a_problem_document_is_told_all_the_same(content: bytes) -> None:
    with serving(lambda _: (502, content, "text/html")) as api, api.client() as client:
        with pytest.raises(ApiError, match="502") as caught:
            client.list_services()
        assert (caught.value.status, caught.value.problem) == (502, {})


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"id": 3}', b""])
def test_an_answer_that_is_none_is_an_error(content: bytes) -> None:
    with serving(lambda _: (200, content)) as api, api.client() as client, pytest.raises(ApiError, match="version"):
        client.get_service("s")


def test_an_api_that_is_not_there_is_one_error_that_says_what_to_do() -> None:
    url = closed_port()
    with Client(url, url) as client, pytest.raises(ApiError, match="tokenstorm up") as caught:
        client.list_groups()
    assert caught.value.status is None


def test_a_proxy_is_not_asked_for_an_address_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, closed_port())
    with serving(lambda _: (200, SERVICE)) as api:
        with api.client() as client:
            assert client.get_service("s1").id == "s1"
        with Client(api.url.replace("127.0.0.1", "localhost"), api.url) as client:
            assert client.get_service("s1").id == "s1"


@pytest.mark.parametrize("url", ["", "localhost:8001", "ftp://x", "http://"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        Client(url)


def test_waiting_ends_when_the_service_is_ready_and_tells_of_each_change() -> None:
    states = iter(["pending", "pending", "starting", "running"])
    heard: list[str] = []
    with serving(lambda _: (200, {**SERVICE, "status": next(states)})) as api, api.client() as client:
        ready = client.wait_until_ready("s1", on_change=lambda service: heard.append(service.status))
    assert ready.status == "running"
    assert heard == ["pending", "starting", "running"]


def test_waiting_for_a_service_that_ends_or_takes_too_long_is_an_error() -> None:
    failed = {**SERVICE, "status": "failed", "reason": "no such image"}
    with (
        serving(lambda _: (200, failed)) as api,
        api.client() as client,
        pytest.raises(ApiError, match="no such image"),
    ):
        client.wait_until_ready("s1")
    pending = {**SERVICE, "status": "pending", "reason": "in the queue"}
    with (
        serving(lambda _: (200, pending)) as api,
        api.client() as client,
        pytest.raises(ApiError, match="in the queue"),
    ):
        client.wait_until_ready("s1", seconds=0.1)


def test_waiting_goes_on_over_a_failure_that_passes_and_not_over_others() -> None:
    answers: Iterator[Answer] = iter(
        [
            (502, {"detail": "away"}),
            (503, {"detail": "away"}),
            (200, {"group_id": 1, "info": INFO}),
            (404, {"detail": "x"}),
        ]
    )
    with serving(lambda _: next(answers)) as api, api.client() as client:
        assert client.wait_until_stopped(1).info.outcome == "completed"
        with pytest.raises(ApiError) as caught:
            client.wait_until_stopped(1)
        assert caught.value.status == 404


def test_a_call_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        call = every_call.Call("server", "GET", "/services", bytes, seconds=0.2)
        began = time.monotonic()
        with Client(url, url) as client, pytest.raises(ApiError, match="no answer"):
            client.send(call)
        assert time.monotonic() - began < every_call.SECONDS / 2


def test_events_are_changes_and_seconds_and_unknown_ones_are_left_out() -> None:
    stream = (
        b': hello\n\nevent: status\ndata: {"group_id": 1, "status": "running"}\n\n'
        b"event: weather\ndata: rain\n\n"
        b'event: progress\ndata: {"t": 0,\ndata: "sent": 5, "latency": {"p50": 0.1, "p90": 0.2, "p99": 0.3}}\n\n'
        b'event: done\ndata: {"group_id": 1, "status": "stopped", "outcome": "completed"}\n\n'
    )
    with serving(lambda _: (200, stream, "text/event-stream")) as api, api.client() as client:
        status, second, done = client.events(1)
    assert status == Change(group_id=1, status="running")
    assert isinstance(second, Second)
    assert (second.sent, second.latency.p90) == (5, 0.2)
    assert isinstance(done, Change)
    assert (done.final, done.outcome) == (True, "completed")


def test_the_asynchronous_client_does_the_same() -> None:
    states = iter(["starting", "running"])
    stream = b'event: done\ndata: {"group_id": 1, "status": "stopped"}\n\n'

    def answer(seen: Seen) -> Answer:
        if seen.path.endswith("/events"):
            return 200, stream, "text/event-stream"
        if "/client-groups" in seen.path:
            return 200, {"group_id": 1, "info": INFO}
        return (200, {**SERVICE, "status": next(states)}) if seen.path.endswith("s1") else (404, {"detail": "not here"})

    async def main(api: Api) -> tuple[Service, Group, list[object]]:
        async with api.asynchronous() as client:
            service = await client.wait_until_ready("s1")
            group = await client.wait_until_stopped(1)
            events: list[object] = [event async for event in client.events(1)]
            with pytest.raises(ApiError, match="not here"):
                await client.get_service("other")
            return service, group, events

    with serving(answer) as api:
        service, group, events = asyncio.run(main(api))
    assert (service.status, group.info.outcome) == ("running", "completed")
    assert events == [Change(group_id=1, status="stopped", final=True)]


def test_an_api_key_is_not_shown() -> None:
    found = {"endpoints": [], "api_key": "sk-secret"}
    with serving(lambda _: (200, found)) as api, api.client() as client:
        access = client.get_access("s1")
    assert access.api_key == "sk-secret"
    assert "sk-secret" not in repr(access)
