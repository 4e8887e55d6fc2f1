"""The wire: HTTP/1.1 over keep-alive connections, with one timestamp per read, taken at the read.

Each piece of body is handed on at once, with the time of the read that brought it. Whoever takes them may tell the
connection what it expects: then a read that is one whole chunk, and differs from the last only in a text, is known by
comparing bytes. Such a read leaves the framing where it was, so that the parser need not see it.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from time import monotonic_ns
from typing import cast

import httptools

from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.result import EXHAUSTED, Failure

RETIRE_NS = 4_000_000_000
"""Engines close a connection that was idle for 5 s; ours go a second earlier."""

OPENED_AT_ONCE = 64

RACE_NS = 1_000_000_000
"""A reused connection that ends later than this after the send was not closed while idle."""

FRAMING_HEADERS = frozenset((b"content-length", b"transfer-encoding"))

MANY_TAILS = 64
LARGEST_EXPECTED = 2048
"""Bytes of a read beyond which it is parsed, whatever is expected."""

Receive = Callable[[bytes, int], None]
"""Takes a piece of body, and the time of its read."""


class Exchange:
    """One request on the wire, and what came back. Times are `time.monotonic_ns()`.

    Subclasses name in `began` who takes the body, and learn of the end, good or bad, in `ended`.
    """

    request: bytes
    sent: int
    connected: int | None = None
    status: int | None = None
    done: int | None = None
    failure: Failure | None = None
    resent: bool = False
    carrier: "Connection | asyncio.Task[None] | None" = None

    def began(self, status: int) -> Receive:
        """The answer has this status: who takes its body?"""
        raise NotImplementedError

    def ended(self) -> None:
        """Called once, when the answer is whole (`done` is set) or the exchange failed (`failure` is set)."""
        raise NotImplementedError

    def leave(self) -> None:
        """Give up the connection; `ended` is not called."""
        carrier, self.carrier = self.carrier, None
        if isinstance(carrier, Connection):
            carrier.abandon()
        elif carrier is not None:
            carrier.cancel()

    def fail(self, kind: str, detail: str) -> None:
        """End the exchange with a failure and give up its connection."""
        self.leave()
        self.done = monotonic_ns()
        self.failure = Failure(kind, detail)
        self.ended()


def _chunk_line(size: int) -> bytes:
    """The first line of a read that is one whole chunk of `size` bytes in all; no chunk has 21 or 262, say."""
    for digits in range(1, 4):
        line = b"%x\r\n" % max(0, size - digits - 4)
        if len(line) == digits + 2:
            return line
    return b"\0"


_CHUNK_LINES = [_chunk_line(size) for size in range(LARGEST_EXPECTED)]


class Connection(asyncio.Protocol):
    """One connection to one replica; it carries one exchange at a time."""

    __slots__ = (
        "_data",
        "_expected_below",
        "_feed",
        "_framed",
        "_head",
        "_head_at",
        "_headers_done",
        "_note",
        "_parser",
        "_pool",
        "_receive",
        "_tail",
        "_tail_size",
        "_text_at",
        "_transport",
        "_whole",
        "closed",
        "connected",
        "exchange",
        "fresh",
        "idle_since",
        "read_at",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._receive: Receive = _nobody
        self.exchange: Exchange | None = None
        self.closed = False
        self.fresh = True
        self._framed = False
        self._headers_done = False
        self._whole = False
        self.connected = self.idle_since = self.read_at = 0
        self._data = self._head = self._tail = b""
        self._expected_below = self._head_at = self._text_at = self._tail_size = 0
        self._note: Callable[[int], None] = _nobody

    def data_received(self, data: bytes) -> None:
        self.read_at = now = monotonic_ns()
        size = len(data)
        text_at = self._text_at
        if (
            size < self._expected_below
            and data.startswith(self._head, self._head_at)
            and data.endswith(self._tail)
            and text_at < data.find(b'"', text_at) == size - self._tail_size
            and data.startswith(_CHUNK_LINES[size])
        ):
            note = self._note
            note(now)
            return
        self._expected_below = 0
        self._data = data
        feed = self._feed
        try:
            feed(data)
        except httptools.HttpParserCallbackError:
            raise  # a bug of ours, not of the server
        except httptools.HttpParserError as error:
            if self._whole:
                self._close()  # what follows a whole answer is nobody's
            else:
                self._broken("malformed", f"not HTTP: {error}")
        if self._whole:  # only now: the next request must not be given what is left of this read
            self._whole = False
            self._complete()

    def on_body(self, piece: bytes) -> None:
        self._receive(piece, self.read_at)

    def expect(self, head: bytes, tail: bytes, note: Callable[[int], None]) -> None:
        """The piece just received was `head`, a text without quotes, and `tail`: of its like only `note` the times.

        It ends with the next piece that is different, or did not come as one whole chunk in one read.
        """
        data = self._data
        line = data[: data.find(b"\r\n") + 2]
        size = len(data)
        if size < LARGEST_EXPECTED and line == _CHUNK_LINES[size] and data.endswith(tail + b"\r\n"):
            self._head_at = len(line)
            self._text_at = len(line) + len(head)
            self._head, self._tail = head, _shared(tail + b"\r\n")
            self._tail_size = len(tail) + 2
            self._note = note
            self._expected_below = LARGEST_EXPECTED

    def send(self, exchange: Exchange) -> None:
        """Write the request; the connection must be idle."""
        exchange.carrier = self
        if exchange.connected is None:
            exchange.connected = self.connected
        self.exchange = exchange
        self.read_at = 0
        self._transport.write(exchange.request)

    def abandon(self) -> None:
        """Close without telling anyone."""
        self.exchange = None
        self.closed = True
        self._receive = _nobody
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connected = self.idle_since = monotonic_ns()
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        exchange = self.exchange
        if exchange is None:
            return
        if exc is None and self._headers_done and not self._framed:
            self._complete()  # the body ended with the connection
        elif self._lost_the_race(exchange):
            self.exchange = None
            self._pool.resend(exchange)
        else:
            where = "in the middle of the answer" if self.read_at else "before any answer"
            self._broken("reset" if exc else "closed", f"{exc or 'the server closed the connection'}, {where}")

    def _lost_the_race(self, exchange: Exchange) -> bool:
        """Whether the server closed an idle connection while the request was on its way to it."""
        just_sent = monotonic_ns() - exchange.sent < RACE_NS
        return just_sent and not (self.read_at or self.fresh or exchange.resent)

    def on_header(self, name: bytes, _value: bytes) -> None:
        if name.lower() in FRAMING_HEADERS:
            self._framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # noqa: PLR2004 - 1xx answers precede the real one
            self._headers_done = True
            if self.exchange is None or self._whole:  # nobody asked
                self._close()
            else:
                self.exchange.status = status
                self._receive = self.exchange.began(status)

    def on_message_complete(self) -> None:
        if self._headers_done:
            self._headers_done = self._framed = False
            self._receive = _nobody
            self._whole = True
            if not self._parser.should_keep_alive():
                self._close()

    def _complete(self) -> None:
        exchange = self.exchange
        self._headers_done = self._framed = False
        if exchange is None:
            return
        exchange.done = self.idle_since = self.read_at
        self._receive = _nobody
        self.exchange = exchange.carrier = None
        if not self.closed:
            self._pool.release(self)
        exchange.ended()

    def _broken(self, kind: str, detail: str) -> None:
        self._close()
        if self.exchange is not None:
            self.exchange.fail(kind, detail)

    def _close(self) -> None:
        self.closed = True
        self._transport.close()


class Pool:
    """The connections to one replica: the last one used is the first one used again."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None = None) -> None:
        self.endpoint = endpoint
        self._tls = (tls or ssl.create_default_context()) if endpoint.tls else None
        self._addresses: list[str] = []
        self._resolving = asyncio.Lock()
        self._idle: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def send(self, exchange: Exchange) -> None:
        """Start the exchange on an idle connection, or on a new one. `exchange.sent` is set by the caller."""
        oldest = exchange.sent - RETIRE_NS
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if connection.idle_since < oldest:
                connection.abandon()
                continue
            connection.idle_since = 0
            connection.send(exchange)
            return
        self._send_fresh(exchange)

    def resend(self, exchange: Exchange) -> None:
        """Once more, on a fresh connection, after a reused one turned out to be closed."""
        exchange.resent = True
        exchange.connected = None
        self._send_fresh(exchange)

    def release(self, connection: Connection) -> None:
        """Take back a connection whose answer is complete."""
        connection.fresh = False
        self._idle.append(connection)

    async def resolve(self) -> None:
        """Look the host up once, so that no request waits for a name server. Raises OSError."""
        if self.endpoint.unix is None:
            async with self._resolving:
                if not self._addresses:
                    found = await asyncio.get_running_loop().getaddrinfo(
                        self.endpoint.host, self.endpoint.port, type=socket.SOCK_STREAM
                    )
                    self._addresses = [cast("str", address[0]) for *_, address in found]

    async def open(self, count: int, start: int | None = None) -> None:
        """Have `count` idle connections ready, by `start` if given, which is when their idleness begins. Raises OSError.

        What is not begun by then is left out. Engines count from the end of an answer, so that waiting for a first request
        makes no connection old.
        """
        gate = asyncio.Semaphore(OPENED_AT_ONCE)

        async def one() -> None:
            async with gate:
                if start is not None and monotonic_ns() > start:
                    return
                connection = await self._connect()
            if self._closed:
                connection.abandon()
            else:
                connection.idle_since = max(connection.idle_since, start or 0)
                self.release(connection)

        opened = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
        for trouble in opened:
            if isinstance(trouble, BaseException):
                raise trouble

    def retire(self) -> None:
        """Close the connections that were idle too long."""
        oldest = monotonic_ns() - RETIRE_NS
        keep = 0
        while keep < len(self._idle) and self._idle[keep].idle_since < oldest:
            self._idle[keep].abandon()
            keep += 1
        del self._idle[:keep]

    def close(self) -> None:
        """Close the idle connections and stop connecting."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for connection in self._idle:
            connection.abandon()
        self._idle.clear()

    def _send_fresh(self, exchange: Exchange) -> None:
        task = asyncio.get_running_loop().create_task(self._connect_and_send(exchange))
        exchange.carrier = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_and_send(self, exchange: Exchange) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            exchange.carrier = None
            exchange.fail(*connect_failure(error))
        else:
            connection.idle_since = 0
            connection.send(exchange)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self.endpoint.unix is not None:
            return (await loop.create_unix_connection(self._connection, self.endpoint.unix))[1]
        if not self._addresses:
            await self.resolve()
        trouble = OSError("the host has no address")
        for address in tuple(self._addresses):
            try:
                made = await loop.create_connection(
                    self._connection,
                    address,
                    self.endpoint.port,
                    ssl=self._tls,
                    server_hostname=self.endpoint.host if self._tls else None,
                )
            except ssl.SSLError:
                raise
            except OSError as error:
                trouble = error
            else:
                if address != self._addresses[0]:  # as with localhost, when only 127.0.0.1 listens
                    self._addresses.sort(key=address.__ne__)
                return made[1]
        raise trouble

    def _connection(self) -> Connection:
        return Connection(self)


def _nobody(*_: object) -> None:
    """Takes what nobody asked for."""


_tails: dict[bytes, bytes] = {}


def _shared(tail: bytes) -> bytes:
    """One copy of an end that thousands of streams have in common, so that it stays in the processor's cache."""
    if len(_tails) > MANY_TAILS:
        _tails.clear()
    return _tails.setdefault(tail, tail)


_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.ENOBUFS, errno.ENOMEM))


def connect_failure(error: OSError) -> tuple[str, str]:
    """Kind and detail of a connection that could not be made."""
    if isinstance(error, ConnectionRefusedError):
        return "refused", "connection refused"
    if isinstance(error, ssl.SSLError):
        return "tls", str(error)
    if isinstance(error, socket.gaierror):
        return "dns", str(error)
    if isinstance(error, FileNotFoundError):
        return "refused", "there is no such socket"
    if error.errno in _OURS:
        return EXHAUSTED, f"{os.strerror(error.errno)}, on this machine"
    return "unreachable", str(error)
