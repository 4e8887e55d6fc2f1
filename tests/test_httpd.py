"""The HTTP server, spoken to through real sockets."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstorm.httpd import MAX_HEAD_BYTES, Handler, Reply, Request, serve

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Client = Callable[[Connect], Awaitable[None]]


def converse(handler: Handler, client: Client, *, keep_alive: float = 5.0, max_body: int = 1_000_000) -> None:
    """Serve `handler` on a free port and let `client` talk to it; nothing may hang."""

    async def main() -> None:
        server = await serve(handler, "127.0.0.1", 0, keep_alive=keep_alive, max_body=max_body)
        port = server.sockets[0].getsockname()[1]
        writers = []

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            return reader, writer

        async with asyncio.timeout(20):
            await client(connect)
        for writer in writers:
            writer.close()
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), headers


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status, headers = await read_head(reader)
    return status, headers, await reader.readexactly(int(headers["content-length"]))


async def ask(connect: Connect, data: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await connect()
    writer.write(data)
    answer = await read_answer(reader)
    writer.close()
    return answer


def echo(request: Request, reply: Reply) -> None:
    """Answers with what it was asked."""
    described = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "body": request.body.decode("latin-1"),
        "x": request.headers.get("x"),
    }
    reply.send(200, json.dumps(described).encode())


def test_one_connection_carries_many_requests() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        for number in range(3):
            writer.write(b"GET /a/%d?q=%%20 HTTP/1.1\r\nX: one\r\nx: two\r\n\r\n" % number)
            status, headers, body = await read_answer(reader)
            assert (status, headers["content-type"]) == (200, "application/json")
            described = json.loads(body)
            assert described["path"] == f"/a/{number}"
            assert described["query"] == "q=%20"
            assert described["x"] == "one, two"

    converse(echo, client)


def test_pipelined_requests_are_answered_one_at_a_time_and_in_order() -> None:
    active: list[str] = []

    def slow(request: Request, reply: Reply) -> None:
        assert not active, "a second request was started before the first was answered"
        active.append(request.path)

        def answer() -> None:
            active.clear()
            reply.send(200, request.path.encode())

        asyncio.get_running_loop().call_soon(answer)

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % n for n in range(100)))
        for number in range(100):
            assert (await read_answer(reader))[2] == b"/%d" % number

    converse(slow, client)


@given(cuts=st.lists(st.integers(1, 70), max_size=6))
@settings(max_examples=20)
def test_it_does_not_matter_how_a_request_is_cut_into_packets(cuts: list[int]) -> None:
    sent = b"POST /p?a=b HTTP/1.1\r\nx: y\r\ncontent-length: 10\r\n\r\n0123456789"

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        start = 0
        for cut in sorted({min(cut, len(sent)) for cut in cuts} | {len(sent)}):
            writer.write(sent[start:cut])
            await asyncio.sleep(0)  # lets the loop send this piece on its own
            start = cut
        body = (await read_answer(reader))[2]
        expected = {"method": "POST", "path": "/p", "query": "a=b", "body": "0123456789", "x": "y"}
        assert json.loads(body) == expected

    converse(echo, client)


def test_a_chunked_request_body_is_put_together_and_its_trailers_are_dropped() -> None:
    chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n"

    async def client(connect: Connect) -> None:
        described = json.loads((await ask(connect, chunked + b"x: trailer\r\n\r\n"))[2])
        assert (described["body"], described["x"]) == ("abcde", None)

    converse(echo, client)


def test_a_stream_arrives_chunk_by_chunk_and_the_connection_lives_on() -> None:
    def stream(request: Request, reply: Reply) -> None:
        reply.start(200, "text/plain")
        reply.write(b"one")
        reply.write(b"")  # would end the body if it were sent
        reply.end(b"two")

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await read_head(reader))[1]["transfer-encoding"] == "chunked"
            body = await reader.readuntil(b"0\r\n\r\n")
            assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"

    converse(stream, client)


def test_a_stream_for_http_1_0_has_no_chunks_and_ends_with_the_connection() -> None:
    def stream(request: Request, reply: Reply) -> None:
        reply.start(200, "text/plain")
        reply.write(b"one")
        reply.end(b"two")

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert "transfer-encoding" not in (await read_head(reader))[1]
        assert await reader.read() == b"onetwo"

    converse(stream, client)


def test_head_gets_the_head_alone() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"HEAD / HTTP/1.1\r\n\r\n")
        assert int((await read_head(reader))[1]["content-length"]) > 0
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await read_answer(reader))[0] == 200

    converse(echo, client)


def test_connection_close_is_obeyed() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert (await read_answer(reader))[1]["connection"] == "close"
        assert await reader.read() == b""

    converse(echo, client)


def test_a_client_that_expects_100_continue_is_told_to_go_on() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert json.loads((await read_answer(reader))[2])["body"] == "ok"

    converse(echo, client)


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (400, b"this is not HTTP\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
        (413, b"POST / HTTP/1.1\r\ncontent-length: 1001\r\n\r\n" + b"x" * 1001),
        (413, b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001),
        (431, b"GET / HTTP/1.1\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nx: " + b"y" * 5 * MAX_HEAD_BYTES),
    ],
    ids=["noise", "two lengths", "long body", "long chunk", "long head", "endless head"],
)
def test_what_is_refused_gets_an_error_object_and_the_connection_ends(status: int, sent: bytes) -> None:
    """The requests before it are answered first."""

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET /before HTTP/1.1\r\n\r\n" + sent)
        assert (await read_answer(reader))[0] == 200
        answered, headers, body = await read_answer(reader)
        assert (answered, headers["connection"]) == (status, "close")
        assert json.loads(body)["error"]["code"] == status
        assert await reader.read() == b""

    converse(echo, client, max_body=1000)


@given(noise=st.binary(max_size=200), begin=st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST "]))
@settings(max_examples=50)
def test_whatever_a_peer_sends_the_server_lives_on(noise: bytes, begin: bytes) -> None:
    async def client(connect: Connect) -> None:
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: failures.append(what))
        _, writer = await connect()
        writer.write(begin + noise)
        writer.close()
        assert (await ask(connect, b"GET / HTTP/1.1\r\n\r\n"))[0] == 200
        assert failures == []

    converse(echo, client)


def test_a_handler_that_raises_gives_a_500_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(request: Request, reply: Reply) -> None:
        if request.path == "/broken":
            raise LookupError("the cupboard is bare")  # noqa: EM101
        reply.send(200)

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET /broken HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        status, _, body = await read_answer(reader)
        assert (status, json.loads(body)["error"]["code"]) == (500, 500)
        assert (await read_answer(reader))[0] == 200, "the connection goes on"

    with caplog.at_level(logging.ERROR):
        converse(broken, client)
    assert "the cupboard is bare" in caplog.text


def test_a_coroutine_that_raises_is_answered_and_logged_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(request: Request, reply: Reply) -> None:
        async def work() -> None:
            await asyncio.sleep(0)
            raise LookupError("nobody home")  # noqa: EM101

        reply.spawn(work())

    async def client(connect: Connect) -> None:
        assert (await ask(connect, b"GET / HTTP/1.1\r\n\r\n"))[0] == 500

    converse(handler, client)
    assert "nobody home" in caplog.text


def test_a_stream_that_breaks_off_does_not_look_complete() -> None:
    def handler(request: Request, reply: Reply) -> None:
        reply.start(200)
        raise LookupError

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()

    converse(handler, client)


def test_an_idle_connection_is_closed_but_not_one_that_waits_for_its_answer() -> None:
    replies: list[Reply] = []

    def handler(request: Request, reply: Reply) -> None:
        if request.path == "/slow":
            replies.append(reply)
        else:
            reply.send(200)

    async def client(connect: Connect) -> None:
        slow, writer = await connect()
        writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
        idle, other = await connect()
        other.write(b"GET / HTTP/1.1\r\n\r\n")
        await read_answer(idle)
        assert await idle.read() == b"", "closed by the server"
        replies[0].send(200, b"at last")
        assert (await read_answer(slow))[2] == b"at last"

    converse(handler, client, keep_alive=0.05)


def test_the_handler_learns_that_the_peer_has_left() -> None:
    left = asyncio.Event()
    replies: list[Reply] = []

    def handler(request: Request, reply: Reply) -> None:
        replies.append(reply)
        reply.on_close = left.set
        reply.start(200)

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await read_head(reader)
        writer.close()
        await left.wait()
        assert replies[0].closed
        replies[0].write(b"nobody reads this")
        replies[0].end()

    converse(handler, client)


def test_on_close_is_not_called_for_an_answer_that_was_complete() -> None:
    calls: list[str] = []

    def handler(request: Request, reply: Reply) -> None:
        reply.on_close = lambda: calls.append("left")
        reply.send(200)

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
        await reader.read()

    converse(handler, client)
    assert calls == []


def test_reset_cuts_the_connection() -> None:
    def handler(request: Request, reply: Reply) -> None:
        reply.start(200)
        asyncio.get_running_loop().call_soon(reply.reset)

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()

    converse(handler, client)


def test_a_slow_reader_shows_as_paused() -> None:
    seen: list[bool] = []

    def handler(request: Request, reply: Reply) -> None:
        reply.start(200)
        piece = b"x" * 1_000_000
        while not reply.paused:
            reply.write(piece)
        seen.append(True)
        reply.end()

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"0\r\n\r\n"), "nothing is lost"

    converse(handler, client)
    assert seen == [True]


@pytest.mark.parametrize("later", [False, True], ids=["at once", "from a task"])
def test_an_upgrade_hands_over_the_connection_with_the_bytes_that_came_early(later: bool) -> None:
    def handler(request: Request, reply: Reply) -> None:
        async def work() -> None:
            if later:
                await asyncio.sleep(0)
            reader, writer = reply.upgrade("tokenstorm")
            while line := await reader.readline():
                writer.write(line.upper())
            writer.close()

        reply.spawn(work())

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        head = b"GET /rank HTTP/1.1\r\nconnection: upgrade\r\nupgrade: tokenstorm\r\n\r\n"
        writer.write(head + b"early\n")
        status, headers = await read_head(reader)
        assert (status, headers["upgrade"]) == (101, "tokenstorm")
        assert await reader.readline() == b"EARLY\n"
        long_line = b"x" * 500_000 + b"\n"
        writer.write(long_line)
        assert await reader.readexactly(len(long_line)) == long_line.upper()
        writer.write_eof()
        assert await reader.read() == b"", "closed from the other side too"

    converse(handler, client)


def test_an_upgrade_that_is_not_wanted_is_answered_as_usual() -> None:
    async def client(connect: Connect) -> None:
        asked = b"GET /x HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        status, headers, body = await ask(connect, asked)
        assert (status, headers["connection"]) == (200, "close")
        assert json.loads(body)["path"] == "/x"

    converse(echo, client)


def test_it_serves_on_a_unix_socket(tmp_path: Path) -> None:
    async def main() -> None:
        server = await serve(echo, path=str(tmp_path / "s"))
        answer = await ask(lambda: asyncio.open_unix_connection(str(tmp_path / "s")), b"GET /u HTTP/1.1\r\n\r\n")
        assert json.loads(answer[2])["path"] == "/u"
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
