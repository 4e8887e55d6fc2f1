"""httpx over a `Shell`'s connections: any address, as the cluster sees it.

Streamed answers of a hundred engines' requests pass through here token by token, so it parses with httptools: a chunk
costs a fraction of what httpx's own transport needs for it (benchmarks/passthrough.py).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic

import httptools
import httpx

from tokenstorm.cluster.shell import Shell, Streams

AGAIN = "tokenstorm.again"
"""An extension of a request: that it may be sent twice, as requests of a safe method may."""
KEEP_ALIVE_SECONDS = 4.0
"""Engines close idle connections after 5 s; one that is retired before is never found closed."""

_CLOSE_SECONDS = 1.0
_READ_BYTES = 256 * 1024
_MAX_HEAD_BYTES = 256 * 1024
_INTERIM = 200
"""Statuses below this one are followed by the true answer."""
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_BODILESS = frozenset((204, 304))


Connect = Callable[[str, int], Awaitable[Streams]]


def transport(shell: Shell, connect: Connect | None = None) -> httpx.AsyncBaseTransport:
    """For `httpx.AsyncClient(transport=…, trust_env=False)`; http only, as many connections as are asked for.

    A connection that cannot be made is httpx's own error; a machine that cannot be reached is the shell's. A request on
    a kept connection that its other side closed before any byte of the answer is sent once more, on a new one, where
    that does no harm.
    `connect` is for hosts that are no addresses.
    """
    return _Transport(connect or shell.open_connection)


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._idle: dict[tuple[str, int], list[_Connection]] = {}
        self._closed = False
        self._sweeping: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "http":
            message = f"{request.url.scheme}:// is not spoken inside the cluster: give an http:// address"
            raise httpx.UnsupportedProtocol(message, request=request)
        origin = request.url.host, request.url.port or 80
        data = _encode(request, await request.aread())
        timeout = request.extensions.get("timeout", {})
        if kept := await self._kept(origin):
            try:
                return await self._exchange(kept, origin, request.method, data, timeout)
            except httpx.TransportError as error:
                again = request.method in _SAFE or request.extensions.get(AGAIN, False)
                if kept.heard or not again or isinstance(error, httpx.TimeoutException):
                    raise
        opened = _Connection(await self._open(origin, timeout.get("connect")))
        return await self._exchange(opened, origin, request.method, data, timeout)

    async def aclose(self) -> None:
        self._closed = True
        if self._sweeping:
            self._sweeping.cancel()
        for connections in self._idle.values():
            for connection in connections:
                await connection.close()
        self._idle.clear()

    async def _open(self, origin: tuple[str, int], timeout: float | None) -> Streams:
        host, port = origin
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(host, port)
        except TimeoutError as error:  # before OSError, of which it is one
            message = f"{host}:{port}: it took too long"
            raise httpx.ConnectTimeout(message) from error
        except OSError as error:
            message = f"{host}:{port}: {error.strerror or error}"
            raise httpx.ConnectError(message) from error

    async def _exchange(
        self,
        connection: "_Connection",
        origin: tuple[str, int],
        method: str,
        data: bytes,
        timeout: dict[str, float | None],
    ) -> httpx.Response:
        """Send a request and wait for the head of its answer."""
        answer = _Answer(connection, origin, method, self)
        try:
            await connection.write(data, timeout.get("write"))
            await answer.head(timeout.get("read"))
        except BaseException:  # whatever ends the wait, the connection is of no more use
            await connection.close()
            raise
        return httpx.Response(answer.status, headers=answer.headers, stream=answer)

    async def _kept(self, origin: tuple[str, int]) -> "_Connection | None":
        connections = self._idle.get(origin, [])
        while connections:
            connection = connections.pop()
            if connection.usable(monotonic()):
                return connection
            await connection.close()
        return None

    async def keep(self, origin: tuple[str, int], connection: "_Connection") -> None:
        """Take back a connection whose answer is complete; it is let go of when nobody asks for it in time."""
        if self._closed:
            await connection.close()
            return
        connection.idle_since = monotonic()
        self._idle.setdefault(origin, []).append(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = monotonic()
        for origin, connections in tuple(self._idle.items()):
            for stale in [one for one in connections if not one.usable(now)]:
                connections.remove(stale)
                stale.drop()
            if not connections:
                del self._idle[origin]
        if self._idle:
            self._sweeping = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS / 4, self._sweep)


class _Connection:
    """One connection. `heard` is whether anything has come of the present answer."""

    def __init__(self, streams: Streams) -> None:
        self._reader, self._writer = streams
        self.heard = False
        self.idle_since = 0.0

    def usable(self, now: float) -> bool:
        return now - self.idle_since < KEEP_ALIVE_SECONDS and not self._reader.at_eof()

    async def write(self, data: bytes, timeout: float | None) -> None:
        self.heard = False
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError as error:
            message = "writing: it took too long"
            raise httpx.WriteTimeout(message) from error
        except OSError as error:
            message = f"writing: {error.strerror or error}"
            raise httpx.WriteError(message) from error

    async def read(self, timeout: float | None) -> bytes:
        """What there is; nothing at the end."""
        try:
            if timeout is None:
                data = await self._reader.read(_READ_BYTES)
            else:
                async with asyncio.timeout(timeout):
                    data = await self._reader.read(_READ_BYTES)
        except TimeoutError as error:
            message = "reading: it took too long"
            raise httpx.ReadTimeout(message) from error
        except OSError as error:
            message = f"reading: {error.strerror or error}"
            raise httpx.ReadError(message) from error
        self.heard = self.heard or bool(data)
        return data

    def drop(self) -> None:
        """Close it, with nothing left to say."""
        self._writer.close()

    async def close(self) -> None:
        """Close it, and wait a moment for that; a peer that reads nothing must not hold anybody up."""
        self._writer.close()
        with contextlib.suppress(OSError):  # a TimeoutError is one
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()


class _Answer(httpx.AsyncByteStream):
    """The answer to one request: httptools calls the methods that begin with `on_`."""

    def __init__(self, connection: _Connection, origin: tuple[str, int], method: str, pool: _Transport) -> None:
        self._connection, self._origin, self._pool = connection, origin, pool
        self._is_head = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._in_head, self._complete, self._framed, self._reusable = True, False, False, False
        self._timeout: float | None = None
        self._released = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    async def head(self, timeout: float | None) -> None:
        """Read up to the end of the head."""
        self._timeout = timeout
        size = 0
        while self._in_head:
            size += await self._more()
            if size > _MAX_HEAD_BYTES and self._in_head:
                message = f"the answer's head is larger than {_MAX_HEAD_BYTES} bytes"
                raise httpx.RemoteProtocolError(message)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            if self._parts:
                part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                yield part
            elif self._complete:
                break
            else:
                await self._more()
        await self.aclose()

    async def aclose(self) -> None:
        if self._released:
            return
        self._released = True
        if self._complete and self._reusable:
            await self._pool.keep(self._origin, self._connection)
        else:
            await self._connection.close()

    async def _more(self) -> int:
        """Read once. Raises httpx's errors for an answer that is broken, or breaks off."""
        data = await self._connection.read(self._timeout)
        if not data:
            if self._in_head or self._framed:
                message = "the other side closed the connection before the answer was complete"
                raise httpx.RemoteProtocolError(message)
            self._complete = True
            return 0
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not (self._complete and self._is_head):  # of an answer to HEAD nothing after the head is of interest
                message = f"the answer is no HTTP: {error}"
                raise httpx.RemoteProtocolError(message) from error
        return len(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers are dropped
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < _INTERIM:
            self.headers = []
            return
        self._in_head = False
        names = {name.lower() for name, _ in self.headers}
        self._framed = bool(names & {b"content-length", b"transfer-encoding"}) or self.status in _BODILESS
        self._complete = self._is_head

    def on_body(self, body: bytes) -> None:
        if not self._is_head:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        if not self._in_head:
            self._complete = True
            self._reusable = not self._is_head and self._framed and self._parser.should_keep_alive()


def _encode(request: httpx.Request, body: bytes) -> bytes:
    """A request on the wire. Raises httpx.LocalProtocolError for what would be read as more than it is."""
    target = request.extensions.get("target", request.url.raw_path)
    named = [pair for pair in request.headers.raw if pair[0].lower() not in {b"content-length", b"transfer-encoding"}]
    if body or request.method in {"POST", "PUT", "PATCH"}:
        named.append((b"Content-Length", b"%d" % len(body)))
    words = [request.method.encode(), target, *(word for pair in named for word in pair)]
    if any(bad in word for word in words for bad in (b"\r", b"\n", b"\0")) or b" " in target:
        message = "a header or the path holds a line break, or the path a space"
        raise httpx.LocalProtocolError(message, request=request)
    lines = b"".join(b"%b: %b\r\n" % pair for pair in named)
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (words[0], target, lines, body)
