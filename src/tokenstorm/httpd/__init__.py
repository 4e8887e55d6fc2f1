"""A small HTTP/1.1 server on asyncio protocols, for endpoints where every microsecond counts.

A handler is a plain function: it gets a whole `Request` and a `Reply` to answer with, now or later.

    def handler(request: Request, reply: Reply) -> None:
        reply.send(200, b'{"ok": true}')

    server = await serve(handler, "127.0.0.1", 0)

Connections are kept alive; pipelined requests are answered one at a time, in order. Other users of this machine are
refused, unless their request carries the server's key.
"""

import asyncio
from functools import partial

from tokenstorm.httpd.connection import MAX_HEAD_BYTES, Connection
from tokenstorm.httpd.messages import Handler, HasKey, Reply, Request

__all__ = ["MAX_HEAD_BYTES", "Handler", "Reply", "Request", "serve"]


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
    connection = partial(Connection, handler, keep_alive, max_body, has_key)
    # The default backlog of 100 would drop connections when a thousand clients start at once.
    if path is not None:
        return await loop.create_unix_server(connection, path, backlog=4096)
    return await loop.create_server(connection, host, port, backlog=4096)
