"""A small HTTP/1.1 server on asyncio protocols, for endpoints where every microsecond counts.

A handler is a plain function: it gets a whole `Request` and a `Reply` to answer with, now or later.

    def handler(request: Request, reply: Reply) -> None:
        reply.send(200, b'{"ok": true}')

    server = await serve(handler, "127.0.0.1", 0)

Connections are kept alive; pipelined requests are answered one at a time, in order. Other users of this machine are
refused, unless their request carries the server's key.
"""

import asyncio
import json
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import TypeAlias, cast

import httptools

from tokenstorm.peers import Peer, find_peer

__all__ = ["Handler", "Reply", "Request", "serve"]

MAX_HEAD_BYTES = 64 * 1024
PIPELINE_DEPTH = 16
SILENT_SECONDS = 60.0
LINGER_SECONDS = 2.0

Headers: TypeAlias = Iterable[tuple[str, str]]
HasKey: TypeAlias = Callable[[Mapping[str, str]], bool]
"""Tells from a request's headers whether its sender knows the server's key."""
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_log = logging.getLogger(__name__)
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_tasks: set[asyncio.Task[None]] = set()  # the loop itself only keeps weak references
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_STRANGER = "this port is for the user who opened it, and you are another user of this machine"
_UNKNOWN = "this port is for the user who opened it, and it cannot be told who you are"


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


_REFUSED = Request("", "", "", {}, b"", keep_alive=False, http_version="1.1")
_REFUSED_HEAD = replace(_REFUSED, method="HEAD")


class Reply:
    """Answers one request: `send`, or `start` + `write`… + `end`, or `reset`, or `upgrade`.

    Once the peer has left, `closed` is true, `on_close` has been called (unless the answer was
    complete) and writes do nothing.
    """

    __slots__ = ("_chunked", "_connection", "_muted", "_request", "closed", "on_close", "started")

    def __init__(self, connection: "_Connection", request: Request) -> None:
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
            f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\ncontent-type: {content_type}\r\n"
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


class _Connection(asyncio.Protocol):
    """One connection: parses requests, queues them, and gives them to the handler one by one."""

    def __init__(self, handler: Handler, keep_alive: float, max_body: int, has_key: HasKey | None) -> None:
        self._handler = handler
        self._has_key = has_key
        self._peer: Peer = "unknown"
        self._keep_alive = keep_alive
        self._max_body = max_body
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._reply: Reply | None = None
        self._dispatching = False
        self._idle: asyncio.TimerHandle | None = None
        self._refusal: tuple[int, str] | None = None
        self._deaf = False  # nothing more is read as HTTP: refused, upgraded or closing
        self.rest = b""  # what came after a request to upgrade
        self._messages = 0
        self._partial = self._in_head = self._is_head = False
        self._head_bytes = self._body_bytes = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self.transport: asyncio.Transport
        self.paused = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._peer = find_peer(transport.get_extra_info("socket"))
        self._wait(SILENT_SECONDS)

    def connection_lost(self, _error: Exception | None) -> None:
        self._deaf = True
        self._busy()
        self._queue.clear()
        reply, self._reply = self._reply, None
        if reply:
            reply.lose()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self.rest += data if self._refusal is None else b""
            if len(self.rest) > MAX_HEAD_BYTES:
                self.transport.pause_reading()
            return
        self._busy()
        message = self._messages
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._deaf = True
            self.rest = data[offer.args[0] :]
        except httptools.HttpParserCallbackError:
            raise  # a bug here, not a fault of the peer
        except httptools.HttpParserError as error:
            self._refuse(400, f"malformed HTTP request: {error}")
        if self._in_head and message == self._messages:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the head is larger than {MAX_HEAD_BYTES} bytes")
        self._next()

    # the parser's side

    def on_message_begin(self) -> None:
        self._messages += 1
        self._partial = self._in_head = True
        self._is_head = False
        self._head_bytes = self._body_bytes = 0
        self._url = b""
        self._headers = {}
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # trailers after a chunked body are dropped
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._is_head = self._parser.get_method() == b"HEAD"
        head_bytes = len(self._url) + sum(len(k) + len(v) for k, v in self._headers.items())
        if head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the head is larger than {MAX_HEAD_BYTES} bytes")
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body:
            self._refuse(413, f"the body is larger than {self._max_body} bytes")
        if self._peer == "stranger" and not (self._has_key and self._has_key(self._headers)):
            self._refuse(403, f"{_STRANGER}: {'open your own' if self._has_key is None else 'send its key'}")
        elif self._peer == "unknown" and self._has_key is None:
            self._refuse(401, f"{_UNKNOWN}: open it with a key, and send that")
        if "expect" in self._headers and self._refusal is None and self._reply is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._max_body:
            self._refuse(413, f"the body is larger than {self._max_body} bytes")
        if self._refusal is None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._partial = False
        if self._refusal:
            return
        version = self._parser.get_http_version()
        method = self._parser.get_method().decode("latin-1")
        path, _, query = self._url.decode("latin-1").partition("?")
        # What follows a request to upgrade may not be HTTP, even if the handler does not upgrade.
        keep = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        keep = keep and version == "1.1"
        body = b"".join(self._body)
        self._queue.append(Request(method, path, query, self._headers, body, keep, version))
        if len(self._queue) >= PIPELINE_DEPTH:
            self.transport.pause_reading()

    # the reply's side

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def finished(self, *, keep: bool) -> None:
        self._reply = None
        if not keep:
            self._deaf = True
            self._queue.clear()
            self._close()
        elif not self._dispatching:
            self._next()

    def fail(self, reply: Reply, error: Exception) -> None:
        _log.error("the handler of a request failed", exc_info=error)
        if not reply.started:
            reply.send(500, _error_body("internal error, see the server's log", 500))
        elif not reply.closed:
            reply.reset()  # half an answer must not look like a whole one

    # inside

    def _next(self) -> None:
        """Give the queued requests to the handler until one takes its time."""
        self._dispatching = True
        while self._queue and self._reply is None:
            request = self._queue.popleft()
            reply = self._reply = Reply(self, request)
            try:
                self._handler(request, reply)
            except Exception as error:  # noqa: BLE001 - logged, and answered with 500
                self.fail(reply, error)
        self._dispatching = False
        if self._reply is not None or self.transport.is_closing():
            return
        if self._refusal:
            status, message = self._refusal
            Reply(self, _REFUSED_HEAD if self._is_head else _REFUSED).send(status, _error_body(message, status))
        elif not self._deaf:
            self.transport.resume_reading()
            self._wait(SILENT_SECONDS if self._partial else self._keep_alive)

    def _close(self) -> None:
        if self._refusal and self.transport.can_write_eof():
            # Closing at once, with bytes unread, would reset the connection and lose the answer.
            self.transport.write_eof()
            self._loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()

    def _wait(self, seconds: float) -> None:
        """For the next byte, so long and no longer."""
        self._idle = self._loop.call_later(seconds, self.transport.close)

    def _busy(self) -> None:
        if self._idle:
            self._idle.cancel()
            self._idle = None

    def _refuse(self, status: int, message: str) -> None:
        """Note the first fault; it is answered when the requests before it have been."""
        if self._refusal is None:
            self._refusal = (status, message)
        self._deaf = True


def _error_body(message: str, status: int) -> bytes:
    error = {"message": message, "type": _PHRASES[status], "param": None, "code": status}
    return json.dumps({"error": error}).encode()


async def serve(
    handler: Handler,
    host: str | None = None,
    port: int = 0,
    *,
    path: str | None = None,
    keep_alive: float = 5.0,
    max_body: int = 64 * 1024 * 1024,
    has_key: HasKey | None = None,
) -> asyncio.Server:
    """Listen on host:port, or on the unix socket `path`.

    Who comes from this machine has to be the user who runs this process, or root: others are answered 403 without
    `has_key`'s consent. Who comes over loopback and cannot be told is answered 401 where there is no `has_key`; with it
    the handler decides, as for those who come over a network.

    A connection that is idle for `keep_alive` seconds after an answer is closed, as uvicorn does; so is one on which
    nothing, or nothing more of a request, comes for a minute;
    a body of more than `max_body` bytes is answered with 413.
    """
    loop = asyncio.get_running_loop()
    connection = partial(_Connection, handler, keep_alive, max_body, has_key)
    # The default backlog of 100 would drop connections when a thousand clients start at once.
    if path is not None:
        return await loop.create_unix_server(connection, path, backlog=4096)
    return await loop.create_server(connection, host, port, backlog=4096)
