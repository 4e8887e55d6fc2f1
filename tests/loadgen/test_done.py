"""When an answer is complete, and what then becomes of its connection; over real sockets."""

import asyncio
import socket
import struct
from time import monotonic_ns

import pytest

from scripted import Serve, run, server
from streams import chunk, sse
from tokenstorm.loadgen.answers import Whole
from tokenstorm.loadgen.http import LARGEST_HEAD, Connection, Exchange, Receive
from tokenstorm.loadgen.openai import explain
from tokenstorm.loadgen.pool import Pool
from tokenstorm.loadgen.stream import Stream
from tokenstorm.result import Failure

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


TOKEN = chunked(sse(chunk({"content": "a"})))
DONE = chunked(b"data: [DONE]\n\n")


class Asked(Exchange):
    """One request whose answer is a stream."""

    def __init__(self) -> None:
        self.request = b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"
        self.sent = monotonic_ns()
        self.over = asyncio.Event()
        self.ends = 0
        self.answer: Stream | Whole | None = None

    def began(self, status: int) -> Receive:
        carrier = self.carrier
        assert isinstance(carrier, Connection)
        self.answer = Stream(carrier) if status == 200 else Whole()
        return self.answer.receive

    def ended(self) -> None:
        self.ends += 1
        self.ended_at = monotonic_ns()
        if self.answer is not None and self.failure is None:
            self.answer.finish(self.status or 0)
        self.over.set()

    @property
    def trouble(self) -> Failure | None:
        failure = self.failure or (self.answer.failure if self.answer else None)
        return failure and explain(failure, self)


async def ask(pool: Pool) -> Asked:
    exchange = Asked()
    pool.send(exchange)
    await exchange.over.wait()
    return exchange


async def hold(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.01)
    peer = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(TOKEN)
    await reader.read()


async def talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"zz\r\n\r\n")
    await reader.read()


async def end_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.3)
    writer.write(END)
    await reader.read()


AFTER = [hold, close, reset, go_on, talk_nonsense, end_late]


@pytest.mark.parametrize("at_once", [True, False], ids=["in one read", "apart"])
@pytest.mark.parametrize("after", AFTER)
def test_an_answer_is_complete_at_done_whatever_follows(after: Serve, at_once: bool) -> None:
    """It is a success, its time is that of the read that brought the end, and the next request is answered as well."""

    async def main() -> None:
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + TOKEN)
            if not at_once:
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(DONE)
            await after(reader, writer)

        async with server(serve) as pool:
            first = await ask(pool)
            second = await ask(pool)
        for exchange in (first, second):
            assert exchange.trouble is None
            assert exchange.ends == 1
            assert exchange.answer is not None
            assert exchange.answer.chunks == 1
        assert first.answer is not None
        assert first.done is not None
        assert first.answer.last_token is not None
        assert first.done >= first.answer.last_token
        assert first.done <= first.ended_at
        assert (connections, second.resent) == (2, False)

    run(main)


@pytest.mark.parametrize("apart", [False, True], ids=["in one write", "in a write of its own"])
def test_a_connection_whose_framing_ends_with_the_answer_is_kept(apart: bool) -> None:
    async def main() -> None:
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while True:
                await reader.readuntil(b"\r\n\r\n")
                if apart:
                    writer.transport.write(HEAD + TOKEN)
                    writer.transport.write(DONE)
                    writer.transport.write(END)
                else:
                    writer.write(HEAD + TOKEN + DONE + END)

        async with server(serve) as pool:
            for _ in range(5):
                assert (await ask(pool)).trouble is None
        assert connections == 1

    run(main)


def test_done_without_its_blank_line_is_the_end_as_well() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + TOKEN + chunked(b"data: [DO") + chunked(b"NE]\n"))
            await reader.read()

        async with server(serve) as pool:
            assert (await ask(pool)).trouble is None

    run(main)


def test_a_timeout_that_comes_while_the_framing_is_awaited_takes_nothing_from_the_answer() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + TOKEN + DONE)
            await reader.read()

        async with server(serve) as pool:
            exchange = Asked()
            pool.send(exchange)
            while exchange.done is None:  # noqa: ASYNC110 - the moment lasts a millisecond
                await asyncio.sleep(0)
            done = exchange.done
            exchange.fail("timeout", "no complete answer in 1 s")
            await asyncio.sleep(0.01)
            assert (exchange.trouble, exchange.ends, exchange.done) == (None, 1, done)

    run(main)


ODD = {
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello", "101"),
    "a status of no kind": (b"HTTP/1.1 600 What\r\ncontent-length: 0\r\n\r\n", "What|no reason"),
    "headers without end": (b"HTTP/1.1 200 OK\r\nx: " + b"y" * (LARGEST_HEAD + 5000), "headers"),
    "answers that precede one without end": (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "headers"),
    "a trailer without end": (HEAD + b"0\r\nx: " + b"y" * (LARGEST_HEAD + 5000), "headers"),
    "a length beyond all": (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", "not HTTP"),
    "two lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "not HTTP"),
    "a chunk beyond all": (HEAD + b"fffffffffffffffffff\r\n", "not HTTP"),
    "a refusal in gzip": (
        b"HTTP/1.1 500 X\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00",
        "coded with gzip",
    ),
    "no status": (b"HTTP/1.1 000 X\r\ncontent-length: 2\r\n\r\nhi", "hi"),
    "gzip in the framing": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n4\r\n\x1f\x8b\x08\x00\r\n0\r\n\r\n",
        "coded with gzip",
    ),
    "gzip": (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00",
        "coded with gzip",
    ),
    "a redirect": (
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: https://h/x\r\ncontent-length: 0\r\n\r\n",
        "https://h/x",
    ),
    "a refusal without words": (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        "Service Unavailable",
    ),
    "nothing at all": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "not an answer"),
    "a status alone": (b"HTTP/1.1 204 No Content\r\n\r\n", "No Content|not an answer"),
}


@pytest.mark.parametrize(("answer", "words"), ODD.values(), ids=ODD)
def test_an_odd_answer_fails_its_request_in_words(answer: bytes, words: str) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for at in range(0, len(answer), 1024):
                writer.write(answer[at : at + 1024])
                await writer.drain()
            await reader.read()

        async with server(serve) as pool:
            trouble = (await ask(pool)).trouble
        assert trouble is not None
        assert any(word in trouble.detail for word in words.split("|")), trouble

    run(main)


BROKEN = chunked(sse({"error": {"message": "CUDA out of memory", "code": 500}}))


@pytest.mark.parametrize("after", [hold, close, reset])
def test_an_error_is_told_in_the_servers_words_however_the_connection_ends(after: Serve) -> None:
    """Engines that die say so and break off: the request is over with their words."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + TOKEN + BROKEN)
            await after(reader, writer)

        async with server(serve) as pool:
            trouble = (await ask(pool)).trouble
        assert trouble == Failure("stream_error", "CUDA out of memory")

    run(main)


def test_what_a_server_says_on_an_idle_connection_before_it_closes_it_is_no_answer() -> None:
    """A 408 that crosses the next request on its way: that one is sent once more, on a fresh connection."""
    ok = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (
        len(sse(chunk({"content": "a"}), "[DONE]")),
        sse(chunk({"content": "a"}), "[DONE]"),
    )

    async def main() -> None:
        turn = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal turn
            turn += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ok)
            if turn == 1:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

        async with server(serve) as pool:
            first, second = await ask(pool), await ask(pool)
        assert (first.trouble, second.trouble, second.resent, turn) == (None, None, True, 2)

    run(main)


def test_half_an_answer_that_nobody_asked_for_does_not_begin_the_next_one() -> None:
    body = sse(chunk({"content": "a"}), "[DONE]")

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 500 Oops\r\ncontent-le")
            await reader.readuntil(b"\r\n\r\n")

        async with server(serve) as pool:
            await ask(pool)
            await asyncio.sleep(0.1)
            assert (await ask(pool)).trouble is None

    run(main)
