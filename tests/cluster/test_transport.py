"""HTTP inside the cluster goes over the shell's connections, and behaves as httpx does anywhere."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from tokenstorm.cluster import http
from tokenstorm.cluster.http import AGAIN, transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.shell import Streams
from tokenstorm.errors import Unreachable
from tokenstorm.httpd import Handler, Reply, Request, serve
from waiting import until


class CountingShell(LocalShell):
    """Counts connections; the name `engine` is known to it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def open_connection(self, host: str, port: int) -> Streams:
        self.opened += 1
        streams = await super().open_connection("127.0.0.1" if host == "engine" else host, port)
        self.last = streams[0]
        self.writers.append(streams[1])
        return streams


@asynccontextmanager
async def talking(handler: Handler, **options: float) -> AsyncIterator[tuple[httpx.AsyncClient, str, CountingShell]]:
    server = await serve(handler, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    shell = CountingShell()
    async with httpx.AsyncClient(transport=transport(shell), trust_env=False, timeout=20) as client:
        yield client, f"http://engine:{server.sockets[0].getsockname()[1]}", shell
    server.close()
    await server.wait_closed()


def echo(request: Request, reply: Reply) -> None:
    head = f"{request.method} {request.path}?{request.query} {request.headers.get('x-test', '')} "
    reply.send(200, head.encode() + request.body)


def test_requests_and_answers_pass_and_connections_are_used_again() -> None:
    async def run() -> None:
        async with talking(echo) as (client, url, shell):
            for _ in range(3):
                answer = await client.post(f"{url}/a%20b?x=1", content=b"body", headers={"x-test": "y"})
                assert (answer.status_code, answer.content) == (200, b"POST /a%20b?x=1 y body")
            assert shell.opened == 1
            await asyncio.gather(*(client.get(url) for _ in range(150)))
            assert shell.opened <= 151, "as many at once as are asked for"

    asyncio.run(run())


def test_a_connection_that_the_other_side_closed_is_not_used_again() -> None:
    async def run() -> None:
        async with talking(echo, keep_alive=0.05) as (client, url, shell):
            await client.get(url)
            async with asyncio.timeout(20):
                while not shell.last.at_eof():  # noqa: ASYNC110 - the other side sets no event
                    await asyncio.sleep(0.01)
            assert (await client.get(url)).status_code == 200
            assert shell.opened == 2

    asyncio.run(run())


def test_a_connection_that_nobody_asks_for_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when no further request comes."""
    monkeypatch.setattr(http, "KEEP_ALIVE_SECONDS", 0.05)

    async def run() -> None:
        async with talking(echo) as (client, url, shell):
            await asyncio.gather(*(client.get(url) for _ in range(5)))
            assert len(shell.writers) == 5
            await until(lambda: all(writer.is_closing() for writer in shell.writers))

    asyncio.run(run())


@asynccontextmanager
async def spoken(*answers: bytes) -> AsyncIterator[tuple[httpx.AsyncClient, str, list[bytes]]]:
    """A server that says just these bytes, one after each request, and then closes; the requests it got."""
    got: list[bytes] = []

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            if not (request := await reader.read(65536)):
                break
            got.append(request)
            writer.write(answer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    async with httpx.AsyncClient(transport=transport(LocalShell()), trust_env=False, timeout=20) as client:
        yield client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", got
    server.close()
    await server.wait_closed()


def test_a_request_on_a_kept_connection_that_closes_unheard_is_sent_once_more() -> None:
    """Engines close idle connections whenever they like: that is no failure of the engine."""

    async def run() -> None:
        requests = 0

        async def one_answer_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal requests
            await reader.read(65536)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await reader.read(65536)  # takes the second request, and leaves
            requests += 1
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(one_answer_each, "127.0.0.1", 0)
        async with httpx.AsyncClient(transport=transport(LocalShell()), trust_env=False, timeout=20) as client:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            assert [(await client.get(url)).text for _ in range(3)] == ["ok"] * 3
            assert requests == 2
            for _ in range(3):
                assert (await client.post(url, content=b"x", extensions={AGAIN: True})).text == "ok"
            with pytest.raises(httpx.RemoteProtocolError):  # it may have done what was asked for
                await client.post(url, content=b"x")
        server.close()
        await server.wait_closed()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 100 Continue\r\nx: 1\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nx: 1\r\n\r\n", "ok"),
    ],
)
def test_every_way_to_end_an_answer_is_known(answer: bytes, text: str) -> None:
    async def run() -> None:
        async with spoken(answer) as (client, url, _):
            got = await client.get(url)
            assert got.text == text
            assert "x" not in got.headers

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nwhat?",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 300_000,
    ],
)
def test_half_an_answer_never_looks_like_a_whole_one(answer: bytes) -> None:
    async def run() -> None:
        async with spoken(answer) as (client, url, _):
            with pytest.raises(httpx.TransportError):
                await client.get(url)

    asyncio.run(run())


def test_the_head_alone_answers_head() -> None:
    async def run() -> None:
        async with spoken(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n") as (client, url, _):
            answer = await client.head(url)
            assert (answer.headers["content-length"], answer.content) == ("5", b"")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "target"),
    [({"x": "1\r\ny: 2"}, b"/"), ({"x": "1\n"}, b"/"), ({}, b"/ HTTP/1.1\r\nx: 1"), ({}, b"/a b")],
)
def test_nothing_can_be_smuggled_into_a_request(headers: dict[str, str], target: bytes) -> None:
    async def run() -> None:
        async with spoken(b"HTTP/1.1 204 No Content\r\n\r\n") as (client, url, got):
            with pytest.raises(httpx.LocalProtocolError):
                await client.get(url, headers=headers, extensions={"target": target})
            assert not got

    asyncio.run(run())


def test_a_path_beyond_ascii_passes_as_its_codes() -> None:
    async def run() -> None:
        async with talking(echo) as (client, url, _):
            answer = await client.get(url, extensions={"target": "/é?ü".encode()})
            assert answer.text == "GET /%C3%A9?%C3%BC  "

    asyncio.run(run())


def test_what_headers_say_of_the_length_does_not_count() -> None:
    async def run() -> None:
        async with talking(echo) as (client, url, _):
            for headers in ({"content-length": "1"}, {"content-length": "9"}, {"transfer-encoding": "chunked"}):
                assert (await client.post(url, content=b"body", headers=headers)).content == b"POST /?  body"

    asyncio.run(run())


def test_a_stream_passes_as_it_comes() -> None:
    goes_on = asyncio.Event()

    def handler(_: Request, reply: Reply) -> None:
        async def write() -> None:
            reply.start(200, "text/event-stream")
            reply.write(b"first")
            await goes_on.wait()
            reply.write(b"second")
            reply.end()

        tasks.append(asyncio.ensure_future(write()))

    tasks: list[asyncio.Future[None]] = []

    async def run() -> None:
        async with talking(handler) as (client, url, _), client.stream("GET", url) as answer:
            parts = answer.aiter_raw()
            assert await anext(parts) == b"first"
            goes_on.set()
            assert await anext(parts) == b"second"

    asyncio.run(run())


def test_nobody_there_is_a_connect_error() -> None:
    async def run() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with httpx.AsyncClient(transport=transport(LocalShell())) as client:
                with pytest.raises(httpx.ConnectError, match=r"127[.]0[.]0[.]1"):
                    await client.get(f"http://127.0.0.1:{nobody.getsockname()[1]}")

    asyncio.run(run())


def test_an_answer_that_never_comes_is_a_read_timeout() -> None:
    async def run() -> None:
        async with talking(lambda *_: None) as (client, url, _):
            with pytest.raises(httpx.ReadTimeout):
                await client.get(url, timeout=0.2)

    asyncio.run(run())


def test_an_answer_that_breaks_off_is_a_transport_error() -> None:
    def handler(_: Request, reply: Reply) -> None:
        reply.start(200)
        reply.write(b"x")
        reply.reset()

    async def run() -> None:
        async with talking(handler) as (client, url, _):
            with pytest.raises(httpx.TransportError):
                await client.get(url)

    asyncio.run(run())


def test_a_machine_that_cannot_be_reached_is_said_as_such() -> None:
    class Gone(LocalShell):
        async def open_connection(self, host: str, port: int) -> Streams:
            message = "the login node is not there"
            raise Unreachable(message)

    async def run() -> None:
        async with httpx.AsyncClient(transport=transport(Gone())) as client:
            with pytest.raises(Unreachable):
                await client.get("http://engine:1")

    asyncio.run(run())


def test_https_is_refused_with_what_to_do() -> None:
    async def run() -> None:
        async with httpx.AsyncClient(transport=transport(LocalShell())) as client:
            with pytest.raises(httpx.UnsupportedProtocol, match="http://"):
                await client.get("https://engine:1")

    asyncio.run(run())
