"""Each caller gets its own answer or an error, never another's, whatever a server says that nobody asked for."""

import asyncio
import random
import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

import httpx
import pytest

from sshd import MISSING, SSHD, Kind, sshd
from tokenstorm.cluster.http import AGAIN, transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.ssh.reach import pair
from tokenstorm.cluster.ssh.relay import Relay
from waiting import finish, until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Connect = Callable[[str, int], Awaitable[Streams]]
Way = Callable[[Serve], AbstractAsyncContextManager[Connect]]
Say = Callable[[asyncio.StreamWriter], None]

LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\nlate"
STALE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
FRAMED_TWICE = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\ntransfer-encoding: chunked\r\n\r\n1\r\n%b\r\n0\r\n\r\n"


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def in_chunks(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request; the path where it has none."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    return await reader.readexactly(int(length)) if length else head.split()[1].strip(b"/")


class Engine:
    """A server that answers with what was asked. `first` is what it says as soon as somebody connects."""

    def __init__(self, answer: Callable[[bytes], bytes] = whole, first: bytes = b"") -> None:
        self._answer, self._first = answer, first
        self.connected: list[asyncio.StreamWriter] = []
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected.append(writer)
        writer.write(self._first)
        try:
            while True:
                self.asked.append(await request_of(reader))
                writer.write(self._answer(self.asked[-1]))
        except (asyncio.IncompleteReadError, OSError):
            pass


class Caller:
    """Requests over one client. `readers` are those of its connections."""

    def __init__(self, connect: Connect, *, waits: bool = False) -> None:
        self._connect, self._waits = connect, waits
        self.readers: list[asyncio.StreamReader] = []
        self.client = httpx.AsyncClient(
            transport=transport(LocalShell(), self._open), trust_env=False, base_url="http://engine", timeout=20
        )

    async def _open(self, host: str, port: int) -> Streams:
        streams = await self._connect(host, port)
        self.readers.append(streams[0])
        if self._waits:
            await self.something_came()
        return streams

    async def post(self, text: str) -> str:
        """What is answered to a request that is never sent twice."""
        return (await self.client.post("/", content=text.encode())).text

    async def something_came(self) -> None:
        """Wait until something came on the newest connection."""
        reader: Any = self.readers[-1]
        await until(lambda: reader._buffer or reader.at_eof() or reader.exception())


@asynccontextmanager
async def serving(serve: Serve, start: Callable[[Serve], Awaitable[asyncio.Server]]) -> AsyncIterator[asyncio.Server]:
    """A server, until all of its connections have ended."""
    tasks: list[asyncio.Task[Any]] = []

    async def noted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(cast("asyncio.Task[Any]", asyncio.current_task()))
        await serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async with await start(noted) as server:
        yield server
        await asyncio.gather(*tasks)


@asynccontextmanager
async def by_tcp(serve: Serve) -> AsyncIterator[Connect]:
    async with serving(serve, lambda noted: asyncio.start_server(noted, "127.0.0.1", 0)) as server:
        yield lambda *_: LocalShell().open_connection("127.0.0.1", server.sockets[0].getsockname()[1])


@asynccontextmanager
async def by_unix_socket(path: Path, serve: Serve) -> AsyncIterator[Connect]:
    async with serving(serve, lambda noted: asyncio.start_unix_server(noted, path)):
        yield lambda *_: LocalShell().open_unix_connection(PurePosixPath(path))


@asynccontextmanager
async def by_relay(path: Path, serve: Serve) -> AsyncIterator[Connect]:
    here, there = await pair()
    relay = Relay(*here)
    running = [asyncio.create_task(one.run()) for one in (relay, Relay(*there))]

    async def connect(*_: object) -> Streams:
        near, far = await pair()
        await relay.open(str(path), 0, far)
        return near

    async with by_unix_socket(path, serve):
        yield connect
        here[1].close()
        await asyncio.gather(*running)
        there[1].close()


@pytest.fixture(params=["tcp", "unix socket", "relay"])
def way(request: pytest.FixtureRequest, sockets: Path) -> Way:
    if request.param == "tcp":
        return by_tcp
    return partial(by_relay if request.param == "relay" else by_unix_socket, sockets / "engine")


def reset(writer: asyncio.StreamWriter) -> None:
    """Close without a goodbye."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def say_and_leave(writer: asyncio.StreamWriter) -> None:
    writer.write(LATE)
    writer.close()


UNASKED: dict[str, Say] = {
    "408 and the end": say_and_leave,
    "408, left open": lambda writer: writer.write(LATE),
    "another answer": lambda writer: writer.write(STALE),
    "half an answer": lambda writer: writer.write(STALE[:20]),
    "an empty line": lambda writer: writer.write(b"\r\n"),
    "an interim answer": lambda writer: writer.write(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the end": lambda writer: writer.close(),
    "half the end": lambda writer: writer.write_eof(),
    "a reset": reset,
}


@pytest.mark.parametrize("say", UNASKED.values(), ids=UNASKED)
def test_what_comes_unasked_on_an_idle_connection_answers_nobody_and_fails_nobody(way: Way, say: Say) -> None:
    """Nothing was sent on that connection, so that also a request that must not be sent twice goes to another one."""
    finish(speak_unasked(way, say))


async def speak_unasked(way: Way, say: Say) -> None:
    engine = Engine()
    async with way(engine.serve) as connect:
        caller = Caller(connect)
        async with caller.client:
            assert await caller.post("one") == "one"
            say(engine.connected[0])
            await caller.something_came()
            assert [await caller.post(text) for text in ("two", "three", "four")] == ["two", "three", "four"]
            assert len(caller.readers) == 2, "the second one is good, and kept"


BEHIND: dict[str, Callable[[bytes], bytes]] = {
    "another answer": lambda body: whole(body) + STALE,
    "another answer behind chunks": lambda body: in_chunks(body) + STALE,
    "a 408": lambda body: whole(body) + LATE,
    "many answers": lambda body: whole(body) + STALE * 5000,
    "half an answer": lambda body: whole(body) + STALE[:20],
    "an empty line": lambda body: whole(body) + b"\r\n",
    "one byte": lambda body: whole(body) + b"x",
    "an interim answer": lambda body: whole(body) + b"HTTP/1.1 100 Continue\r\n\r\n",
    "the rest of a length that chunks overrule": lambda body: FRAMED_TWICE % body[:1] + STALE,
}


@pytest.mark.parametrize("answer", BEHIND.values(), ids=BEHIND)
def test_what_comes_behind_a_whole_answer_is_not_the_next_ones(way: Way, answer: Callable[[bytes], bytes]) -> None:
    finish(say_more_than_was_asked(way, answer))


async def say_more_than_was_asked(way: Way, answer: Callable[[bytes], bytes]) -> None:
    engine = Engine(answer)
    async with way(engine.serve) as connect:
        caller = Caller(connect)
        async with caller.client:
            assert [await caller.post(text) for text in ("1", "2", "3")] == ["1", "2", "3"]
            assert len(caller.readers) == 3


@pytest.mark.integration
@pytest.mark.skipif(SSHD is None, reason=MISSING)
def test_the_same_holds_over_ssh(kind: Kind, tmp_path: Path) -> None:
    async def scenario() -> None:
        shell = kind(login.ssh)

        @asynccontextmanager
        async def by_ssh(serve: Serve) -> AsyncIterator[Connect]:
            async with serving(serve, lambda noted: asyncio.start_server(noted, "127.0.0.1", 0)) as server:
                yield lambda *_: shell.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])

        for say in UNASKED.values():
            await speak_unasked(by_ssh, say)
        for answer in BEHIND.values():
            await say_more_than_was_asked(by_ssh, answer)
        await shell.close()

    with sshd(tmp_path / "sshd") as login:
        finish(scenario())


@pytest.mark.parametrize("head", [NO_CONTENT, NO_CONTENT[:-2] + b"content-length: 46\r\n\r\n"])
@pytest.mark.parametrize("behind", [b"", STALE])
def test_an_answer_without_a_body_that_has_one_is_the_last_on_its_connection(head: bytes, behind: bytes) -> None:
    async def scenario() -> None:
        engine = Engine(lambda body: head + behind if body == b"one" else whole(body))
        async with by_tcp(engine.serve) as connect:
            caller = Caller(connect)
            async with caller.client:
                assert [await caller.post(text) for text in ("one", "two", "three")] == ["", "two", "three"]
                assert len(caller.readers) == (1 if head + behind == NO_CONTENT else 2)

    finish(scenario())


@pytest.mark.parametrize("behind", [b"", b"stale"])
def test_the_body_that_should_not_follow_the_answer_to_head_is_nobodys(behind: bytes) -> None:
    async def scenario() -> None:
        engine = Engine(lambda path: STALE[:-5] + behind if path == b"head" else whole(path))
        async with by_tcp(engine.serve) as connect:
            caller = Caller(connect)
            async with caller.client:
                assert (await caller.client.head("/head")).headers["content-length"] == "5"
                if not behind:
                    engine.connected[0].write(STALE[-5:])  # it comes late
                assert await caller.post("two") == "two"

    finish(scenario())


@pytest.mark.parametrize("first", [STALE, LATE, b"SSH-2.0-OpenSSH\r\n"])
def test_who_speaks_before_the_request_is_not_asked(way: Way, first: bytes) -> None:
    """As if there were no connection, so that whoever knows another way tries that one."""

    async def scenario() -> None:
        engine = Engine(first=first)
        async with way(engine.serve) as connect:
            caller = Caller(connect, waits=True)
            async with caller.client:
                for text in ("one", "two"):
                    with pytest.raises(httpx.ConnectError, match="before anything was asked"):
                        await caller.post(text)
                assert engine.asked == []

    finish(scenario())


def test_a_408_that_crosses_with_a_request_is_no_answer_to_it() -> None:
    """It is sent again where that does no harm. Where it may do some, its caller gets the 408, and nobody the answer that comes late."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(whole(await request_of(reader)))
            text = await request_of(reader)
            writer.write(LATE)
            asyncio.get_running_loop().call_later(0.01, writer.write, whole(text))
            await reader.read()
        except asyncio.IncompleteReadError:
            pass

    async def scenario() -> None:
        async with by_tcp(serve) as connect:
            caller = Caller(connect)
            async with caller.client:
                assert await caller.post("one") == "one"
                assert (await caller.client.get("/two")).text == "two"
                assert (await caller.client.post("/", content=b"three", extensions={AGAIN: True})).text == "three"
                assert await caller.post("four") == "late"
                assert await caller.post("five") == "five"
                assert len(caller.readers) == 4

    finish(scenario())


class Trouble:
    """A server that goes wrong at random, in every way that can be told from an answer."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._late: list[asyncio.Task[None]] = []
        self._asked: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                body = await request_of(reader)
                self._asked.add(writer)
                if not await self._answer(body, reader, writer):
                    break
                self._asked.discard(writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        if self._dice.random() < 0.5 and not writer.transport.is_closing():
            reset(writer)
        await asyncio.gather(*self._late)

    async def _answer(self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        if self._dice.random() < 0.3:
            await asyncio.sleep(self._dice.random() * 0.01)
        good = self._dice.choice((whole, in_chunks))(body)
        bad = self._dice.choice((STALE, LATE, STALE[:20], b"\r\n", b"x"))
        match self._dice.choice(
            ("good",) * 6 + ("behind", "at once", "later", "half", "nothing", "408", "twice", "last")
        ):
            case "behind":
                writer.write(good + bad)
            case "at once":
                writer.write(good)
                writer.write(bad)
            case "later":
                writer.write(good)
                self._late.append(asyncio.create_task(self._unasked(bad, reader, writer)))
            case "half":
                writer.write(good[: self._dice.randrange(len(good))])
                return False
            case "nothing":
                return False
            case "408":
                writer.write(LATE)
                writer.write(good)
            case "twice":
                writer.write(FRAMED_TWICE % body[:1] + STALE)
            case "last":
                writer.write(good)
                return False
            case _:
                writer.write(good)
        return True

    async def _unasked(self, bad: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say it when nobody has asked anything: what answers a request is its answer."""
        await asyncio.sleep(self._dice.random() * 0.01)
        if not (writer.transport.is_closing() or writer in self._asked or has_come(reader, writer)):
            writer.write(bad)


def has_come(reader: Any, writer: asyncio.StreamWriter) -> bool:
    """Whether there is something to read, be it the end."""
    polled = select.poll()
    polled.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(reader._buffer or reader.at_eof() or polled.poll(0))


@pytest.mark.parametrize("seed", range(4))
def test_nobody_ever_gets_what_another_one_asked_for(seed: int, sockets: Path) -> None:
    dice = random.Random(seed)
    answered: list[str] = []

    async def ask(caller: Caller, number: int) -> None:
        for count in range(20):
            text = f"{number}-{count}"
            sent = dice.choice(("POST", "again", "GET", "given up", "left"))
            extensions = {AGAIN: sent == "again"}
            method, path = ("GET", text) if sent == "GET" else ("POST", "")
            request = caller.client.build_request(method, f"/{path}", content=text.encode(), extensions=extensions)
            try:
                async with asyncio.timeout(dice.random() * 0.005 if sent == "given up" else 20):
                    answer = await caller.client.send(request, stream=sent == "left")
                if sent == "left":
                    await answer.aclose()
                elif answer.status_code == 200:
                    assert answer.text in (text, text[:1]), "the second of which is how a framing that is two says it"
                    answered.append(text)
                else:
                    assert (answer.status_code, answer.text) == (408, "late")
            except (httpx.TransportError, TimeoutError):
                pass

    async def scenario() -> None:
        # what is written to a unix socket is at the other end at once: nothing is on its way, where nobody could see it
        async with by_unix_socket(sockets / "engine", Trouble(dice).serve) as connect:
            caller = Caller(connect)
            async with caller.client:
                await asyncio.gather(*(ask(caller, number) for number in range(20)))
        assert len(answered) > 100, "most of them are answered"

    finish(scenario())
