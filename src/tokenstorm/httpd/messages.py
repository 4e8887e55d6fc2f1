"""A request, and the reply to it."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, TypeAlias

PHRASES = {status.value: status.phrase for status in HTTPStatus}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_tasks: set[asyncio.Task[None]] = set()  # the loop itself only keeps weak references

Headers: TypeAlias = Iterable[tuple[str, str]]
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request. `path` and `query` are as sent (still percent-encoded)."""

    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case; repeated headers joined by ", "
    body: bytes
    keep_alive: bool
    http_version: str

    @property
    def verb(self) -> str:
        """The method, and GET for HEAD: that is answered in the same way, and its body does not leave."""
        return "GET" if self.method == "HEAD" else self.method


class Line(Protocol):
    """The connection that carries a reply."""

    transport: asyncio.Transport
    paused: bool
    rest: bytes
    """What came after a request to upgrade."""

    def write(self, data: bytes) -> None: ...

    def finished(self, *, keep: bool) -> None: ...

    def fail(self, reply: "Reply", error: Exception) -> None: ...


class Reply:
    """Answers one request: `send`, or `start` + `write`… + `end`, or `reset`, or `upgrade`.

    Once the peer has left, `closed` is true, `on_close` has been called (unless the answer was
    complete) and writes do nothing.
    """

    __slots__ = ("_chunked", "_connection", "_muted", "_request", "closed", "on_close", "started")

    def __init__(self, connection: Line, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._muted = request.method == "HEAD"  # a HEAD is answered without its body
        self._chunked = self.started = self.closed = False
        self.on_close: Callable[[], None] | None = None

    @property
    def paused(self) -> bool:
        """True while the peer reads too slowly and written bytes pile up in memory."""
        return self._connection.paused

    def send(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Headers = (),
    ) -> None:
        """Send a whole answer, in one write."""
        head = self._head(status, content_type, headers, f"content-length: {len(body)}\r\n")
        self._connection.write(head if self._muted else head + body)
        self._finish()

    def start(
        self,
        status: int,
        content_type: str = "text/event-stream; charset=utf-8",
        headers: Headers = (),
    ) -> None:
        """Send the head of a streamed answer."""
        # HTTP/1.0 knows no chunks: there the end of the connection ends the body.
        self._chunked = self._request.http_version != "1.0"
        framing = "transfer-encoding: chunked\r\n" if self._chunked else ""
        self._connection.write(self._head(status, content_type, headers, framing))
        if self._muted:
            self._finish()

    def write(self, data: bytes) -> None:
        """Send `data` as one chunk, in one write."""
        if self.closed or self._muted or not data:  # an empty chunk would end the body
            return
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        self._connection.transport.write(chunk)

    def end(self, data: bytes = b"") -> None:
        """End a streamed answer; `data`, when given, leaves in the same write."""
        if self.closed:
            return
        if self._chunked and not self._muted:
            last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
            self._connection.write(last)
        else:
            self.write(data)
        self._finish()

    def reset(self) -> None:
        """Cut the connection with a TCP reset (fault injection, or a stream that broke)."""
        self.closed = True
        self.on_close = None
        transport = self._connection.transport
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    def upgrade(self, protocol: str, *, limit: int = 2**20) -> Streams:
        """Answer 101 and hand the connection over, with the bytes already received.

        `limit` is the longest line in bytes that the reader's `readline` takes.
        """
        if self.started or self.closed or "upgrade" not in self._request.headers:
            msg = "only an unanswered request with an Upgrade header can be upgraded: answer 426"
            raise RuntimeError(msg)
        self.started = self.closed = True
        head = f"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}"
        self._connection.write(f"{head}\r\n\r\n".encode("latin-1"))
        loop, transport = asyncio.get_running_loop(), self._connection.transport
        reader = asyncio.StreamReader(limit, loop)
        streams = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport.set_protocol(streams)
        streams.connection_made(transport)
        reader.feed_data(self._connection.rest)
        self._connection.transport.resume_reading()
        return reader, asyncio.StreamWriter(transport, streams, reader, loop)

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a coroutine that answers later; its exceptions are logged and answered with 500."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - logged, and answered with 500
                self._connection.fail(self, error)

        task = asyncio.get_running_loop().create_task(guarded())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        return task

    def _head(self, status: int, content_type: str, headers: Headers, framing: str) -> bytes:
        if self.started:
            msg = "this request was answered already"
            raise RuntimeError(msg)
        self.started = True
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers)
        connection = "" if self._request.keep_alive else "connection: close\r\n"
        return (
            f"HTTP/1.1 {status} {PHRASES.get(status, '')}\r\ncontent-type: {content_type}\r\n"
            f"{framing}{connection}{extra}\r\n"
        ).encode("latin-1")

    def _finish(self) -> None:
        if not self.closed:
            self.closed = True
            self.on_close = None
            self._connection.finished(keep=self._request.keep_alive)

    def lose(self) -> None:
        """The peer left (called by the connection)."""
        self.closed = True
        callback, self.on_close = self.on_close, None
        if callback:
            callback()


Handler: TypeAlias = Callable[[Request, Reply], None]
HasKey: TypeAlias = Callable[[Mapping[str, str]], bool]
"""Tells from a request's headers whether its sender knows the server's key."""
