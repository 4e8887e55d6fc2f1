"""A server that does what a test says, over real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import uvloop

from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.loadgen.pool import Pool
from tokenstorm.loadgen.room import Room
from tokenstorm.loadgen.wire import Stamps

stamped = True
"""Whether a pool reads with the kernel's stamps, as a rank does."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    uvloop.run(bounded())


Listen = Callable[[Serve], Awaitable[asyncio.AbstractServer]]


@contextlib.asynccontextmanager
async def listening(listen: Listen, serve: Serve) -> AsyncIterator[Any]:
    """A scripted server; in the end it leaves no connection open."""
    writers: list[asyncio.StreamWriter] = []

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await listen(guarded)
    try:
        yield server
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)  # the loop closes them in its next turns


@contextlib.asynccontextmanager
async def server(serve: Serve, room: Room | None = None, **options: Any) -> AsyncIterator[Pool]:
    """A scripted server on 127.0.0.1, and a pool for it."""
    async with listening(lambda guarded: asyncio.start_server(guarded, "127.0.0.1", 0, **options), serve) as made:
        endpoint = Endpoint.parse(f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}")
        with contextlib.closing(Pool(endpoint, room=room, stamps=Stamps() if stamped else None)) as pool:
            yield pool


def saying(*answers: bytes) -> Serve:
    """Answers each request on a connection with the next answer, then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

    return serve
