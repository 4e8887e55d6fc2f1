"""httpx over a `Shell`'s connections: any address, as the cluster sees it.

httpcore speaks HTTP/1.1 over each connection; which of them wait to be used again is kept here. httpcore's own pool goes
through all of its connections for each idle one at each request (8 ms of CPU with 100 idle), ends idle connections only when
the next request comes, and does not tell whether one was used before, by which it is decided what may be resent.

HTTP/1.1 answers bear no name: what comes next is taken for the answer to the request before. So a connection on which
anything came that was not asked for, the end included, is never used again.
"""

import asyncio
import contextlib
import re
import select
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import h11
import httpcore
import httpx

from tokenstorm.cluster.shell import Shell, Streams

AGAIN = "tokenstorm.again"
"""A request's extension: it may be sent twice, as requests of safe methods may."""
KEEP_ALIVE_SECONDS = 4.0
"""Engines close idle connections after 5 s. We close ours earlier, so none is found closed on use."""
EACH_ANEW = httpx.Limits(max_keepalive_connections=0)
"""Limits for httpx's own transport: it uses no connection twice, since it would take bytes behind an answer for the next answer."""

_CLOSE_SECONDS = 1.0
_INTERIM = 200
"""Statuses below this one are followed by the true answer."""
_TIMED_OUT = 408
"""Proxies send it on an idle connection, at the same moment as we may send a request."""
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
_BODILESS = frozenset((204, 304))
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_HTTPX_NAME: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
}


Connect = Callable[[str, int], Awaitable[Streams]]
_Address = tuple[str, int]


def transport(shell: Shell, connect: Connect | None = None) -> httpx.AsyncBaseTransport:
    """For `httpx.AsyncClient(transport=…, trust_env=False)`; http only, as many connections as are asked for.

    A connection that cannot be made is httpx's own error; a machine that cannot be reached is the shell's. A request on
    a kept connection that its other side closed before any byte of the answer, or that was answered by 408, is sent once
    more, on a new one, where that does no harm; wherever, when nothing of it was sent yet.
    `connect` is for hosts that are no addresses.
    """
    return _Transport(connect or shell.open_connection)


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._idle: dict[_Address, list[_Connection]] = {}
        self._closed = False
        self._sweeping: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "http":
            message = f"{request.url.scheme}:// is not spoken inside the cluster: give an http:// address"
            raise httpx.UnsupportedProtocol(message, request=request)
        address = request.url.host, request.url.port or 80
        asked = _for_httpcore(request, await request.aread())
        with _as_httpx():
            connection, answer = await self._exchange(address, asked)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(self, connection, asked, answer))

    async def aclose(self) -> None:
        self._closed = True
        if self._sweeping:
            self._sweeping.cancel()
        for connections in self._idle.values():
            for connection in connections:
                await connection.aclose()
        self._idle.clear()

    async def _exchange(self, address: _Address, request: httpcore.Request) -> "tuple[_Connection, httpcore.Response]":
        """Send a request and wait for the head of its answer: on a kept connection where there is one, else on a new one."""
        again = request.method in _SAFE or request.extensions.get(AGAIN, False)
        if kept := self._kept(address):
            try:
                answer = await kept.exchange(request)
                if answer.status != _TIMED_OUT or not again:
                    return kept, answer
                await kept.aclose()
            except httpcore.ConnectionNotAvailable:
                pass  # nothing was sent
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                if kept.wire.heard or not again:
                    raise
        streams = await self._open(address, request.extensions.get("timeout", {}).get("connect"))
        opened = _Connection(address, request.url.origin, streams)
        try:
            return opened, await opened.exchange(request)
        except httpcore.ConnectionNotAvailable as error:
            message = f"{address[0]}:{address[1]}: it closed the connection, or spoke, before anything was asked"
            raise httpcore.ConnectError(message) from error

    async def _open(self, address: _Address, timeout: float | None) -> Streams:
        host, port = address
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(host, port)
        except TimeoutError as error:  # before OSError, of which it is one
            message = f"{host}:{port}: it took too long"
            raise httpcore.ConnectTimeout(message) from error
        except OSError as error:
            message = f"{host}:{port}: {error.strerror or error}"
            raise httpcore.ConnectError(message) from error

    def _kept(self, address: _Address) -> "_Connection | None":
        connections = self._idle.get(address, [])
        while connections:
            connection = connections.pop()
            if connection.reusable():
                return connection
            connection.wire.drop()
        return None

    async def release(self, connection: "_Connection", *, certain: bool) -> None:
        """Take back a connection whose answer was read or given up; it is closed when nobody asks for it in time."""
        if self._closed or not certain or not connection.reusable():
            await connection.aclose()
            return
        self._idle.setdefault(connection.address, []).append(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        for address, connections in tuple(self._idle.items()):
            for stale in [one for one in connections if not one.reusable()]:
                connections.remove(stale)
                stale.wire.drop()
            if not connections:
                del self._idle[address]
        if self._idle:
            self._sweeping = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS / 4, self._sweep)


class _Connection(httpcore.AsyncHTTP11Connection):
    """One connection, with httpcore's framing and state."""

    def __init__(self, address: _Address, origin: httpcore.Origin, streams: Streams) -> None:
        self.address = address
        self.wire = _Stream(streams)
        super().__init__(origin, self.wire, KEEP_ALIVE_SECONDS)

    async def exchange(self, request: httpcore.Request) -> httpcore.Response:
        """Raises `ConnectionNotAvailable` when nothing was sent, because the other side had closed the connection or sent bytes unasked."""
        try:
            answer = await self.handle_async_request(request)
        except BaseException:  # httpcore leaves it open where it is cancelled before it begins
            await self.aclose()
            raise
        if answer.status < _INTERIM:
            await self.aclose()
            message = "the other side switches to a protocol that nobody asked for"
            raise httpcore.RemoteProtocolError(message)
        return answer

    async def _receive_response_body(self, request: httpcore.Request) -> AsyncIterator[bytes]:
        """As httpcore's own, but chunks that arrived together are passed on as one."""
        timeout = request.extensions.get("timeout", {}).get("read")
        parts: list[bytes] = []
        while True:
            try:
                event = self._h11_state.next_event()
            except h11.RemoteProtocolError as error:
                raise httpcore.RemoteProtocolError(str(error)) from error
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                continue
            if parts:
                yield b"".join(parts)
                parts.clear()
            if event is not h11.NEED_DATA:
                break
            self._h11_state.receive_data(await self.wire.read(self.READ_NUM_BYTES, timeout))

    def reusable(self) -> bool:
        """Whether its last answer is complete, nothing came after it, and it has not waited for too long.

        httpcore sees what the stream still holds, but not what it has read together with the answer's end, and would
        begin the next answer with that.
        """
        return self.is_idle() and not self.has_expired() and not self._h11_state.trailing_data[0]


class _Stream(httpcore.AsyncNetworkStream):
    """A shell's connection for httpcore. `heard`: some bytes have come since the last request."""

    def __init__(self, streams: Streams) -> None:
        self._reader, self._writer = streams
        self._unsent: list[bytes] = []
        self._write_timeout: float | None = None
        self.heard = False

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Head, body and end come apart: they are sent as one, before the first read."""
        self._unsent.append(buffer)
        self._write_timeout = timeout

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            await self._send()
        try:
            if timeout is None:
                data = await self._reader.read(max_bytes)
            else:
                async with asyncio.timeout(timeout):
                    data = await self._reader.read(max_bytes)
        except TimeoutError as error:
            message = "reading: it took too long"
            raise httpcore.ReadTimeout(message) from error
        except OSError as error:
            message = f"reading: {error.strerror or error}"
            raise httpcore.ReadError(message) from error
        self.heard = self.heard or bool(data)
        return data

    async def _send(self) -> None:
        """Ignores errors, which the next read reports: an engine may refuse a request in its middle, and answer."""
        if self._is_readable():
            raise httpcore.ConnectionNotAvailable
        data = b"".join(self._unsent)
        self._unsent.clear()
        self.heard = False
        try:
            async with asyncio.timeout(self._write_timeout):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError as error:
            message = "writing: it took too long"
            raise httpcore.WriteTimeout(message) from error
        except OSError:
            pass

    def drop(self) -> None:
        """Close it at once."""
        self._writer.close()

    async def aclose(self) -> None:
        """Close it, and wait for a moment only: a peer that reads nothing must not hold up the caller."""
        self._writer.close()
        with contextlib.suppress(OSError):  # a TimeoutError is one
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()

    def get_extra_info(self, info: str) -> Any:
        return self._is_readable() if info == "is_readable" else None

    def _is_readable(self) -> bool:
        """Whether bytes or the end have come, into the reader's buffer or the kernel's. It may consume a byte."""
        if self._writer.is_closing():
            return True
        reading = self._reader.read(1)
        try:
            reading.send(None)  # one step of it, which ends it unless it has to wait
        except (StopIteration, OSError):
            return True
        reading.close()
        polled = select.poll()
        polled.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(polled.poll(0))


class _Body(httpx.AsyncByteStream):
    """The body of an answer, as it comes; its connection is released after it."""

    def __init__(
        self, pool: _Transport, connection: _Connection, request: httpcore.Request, answer: httpcore.Response
    ) -> None:
        self._pool, self._connection, self._request, self._answer = pool, connection, request, answer
        self._released = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._answer.stream, AsyncIterable)
        with _as_httpx():
            async for part in self._answer.stream:
                yield part
        await self.aclose()

    async def aclose(self) -> None:
        if self._released:
            return
        self._released = True
        try:
            await self._answer.aclose()
        except BaseException:  # cancelled before httpcore knew what became of the connection
            await self._connection.aclose()
            raise
        certain = _is_certain(self._request, self._answer)
        await self._pool.release(self._connection, certain=certain)


def _for_httpcore(request: httpx.Request, body: bytes) -> httpcore.Request:
    """Its length is that of its body, whatever its headers say. Bytes beyond ASCII in the path are percent-encoded."""
    named = [pair for pair in request.headers.raw if pair[0].lower() not in _FRAMING]
    if body or request.method in _WITH_BODY:
        named.append((b"Content-Length", b"%d" % len(body)))
    target = _NOT_ASCII.sub(
        lambda found: b"%%%02X" % found[0][0], request.extensions.get("target", request.url.raw_path)
    )
    url = httpcore.URL(scheme=b"http", host=request.url.raw_host, port=request.url.port or 80, target=target)
    kept = {name: value for name, value in request.extensions.items() if name != "target"}
    return httpcore.Request(request.method, url, headers=named, content=body, extensions=kept)


def _is_certain(request: httpcore.Request, answer: httpcore.Response) -> bool:
    """Whether the head tells for certain where the answer ends, and the answer is no 408 to an idle connection."""
    framing = [name for name, _ in answer.headers if name.lower() in _FRAMING]
    bodiless = request.method == b"HEAD" or answer.status in _BODILESS
    return answer.status != _TIMED_OUT and len(framing) == (0 if bodiless else 1)


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise httpcore's errors as httpx's."""
    try:
        yield
    except tuple(_HTTPX_NAME) as error:
        raise _HTTPX_NAME[type(error)](str(error)) from error
