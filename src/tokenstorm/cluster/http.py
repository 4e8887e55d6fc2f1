"""httpx over a `Shell`'s connections: any address, as the cluster sees it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, cast

import httpcore
import httpx

from tokenstorm.cluster.shell import Shell, Streams

KEEP_ALIVE_SECONDS = 4.0
"""Engines close idle connections after 5 s; one that is retired before is never found closed."""

_HTTPX_NAME = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
}


def transport(shell: Shell) -> httpx.AsyncBaseTransport:
    """For `httpx.AsyncClient(transport=…, trust_env=False)`; http only.

    A connection that cannot be made is httpx's own error; a machine that cannot be reached is the shell's.
    """
    return _Transport(shell)


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, shell: Shell) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=None,
            max_keepalive_connections=None,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=_Backend(shell),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "http":
            message = f"{request.url.scheme}:// is not spoken inside the cluster: give an http:// address"
            raise httpx.UnsupportedProtocol(message, request=request)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        core = httpcore.Request(
            request.method,
            url,
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _translated():
            answer = await self._pool.handle_async_request(core)
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    """An answer's bytes, as they come."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated():
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        with _as(httpcore.ConnectTimeout, httpcore.ConnectError, f"{host}:{port}"):
            async with asyncio.timeout(timeout):
                return _Stream(await self._shell.open_connection(host, port))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, streams: Streams) -> None:
        self._reader, self._writer = streams

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _as(httpcore.ReadTimeout, httpcore.ReadError, "reading"):
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _as(httpcore.WriteTimeout, httpcore.WriteError, "writing"):
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        message = "there is no TLS inside the cluster"
        raise httpcore.UnsupportedProtocol(message)

    def get_extra_info(self, info: str) -> Any:
        # The pool asks this before it uses an idle connection again: readable means closed by the other side.
        return self._reader.at_eof() if info == "is_readable" else None


@contextlib.contextmanager
def _as(late: type[Exception], broken: type[Exception], what: str) -> Iterator[None]:
    """Python's errors as httpcore's."""
    try:
        yield
    except TimeoutError as error:  # before OSError, of which it is one
        message = f"{what}: it took too long"
        raise late(message) from error
    except OSError as error:
        message = f"{what}: {error.strerror or error}"
        raise broken(message) from error


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """What httpcore raises as what httpx does; they are named alike."""
    try:
        yield
    except tuple(_HTTPX_NAME) as error:
        known = cast("type[httpcore.ConnectError]", type(error))
        raise _HTTPX_NAME[known](str(error)) from error
