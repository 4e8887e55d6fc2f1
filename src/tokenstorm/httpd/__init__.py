"""A small HTTP/1.1 server on asyncio protocols, for endpoints where every microsecond counts.

A handler is a plain function: it gets a whole `Request` and a `Reply` to answer with, now or later.

    def handler(request: Request, reply: Reply) -> None:
        reply.send(200, b'{"ok": true}')

    server = await serve(handler, "127.0.0.1", 0)

Connections are kept alive. Pipelined requests are answered one at a time, in order. Requests of other users of this machine
are refused, unless they carry the server's key.
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

    A client on this machine must be the user of this process, or root. Any other one is answered 403, unless `has_key`
    accepts its headers. A client over loopback whose user cannot be found out is answered 401 if there is no `has_key`;
    with one, the handler decides, as for clients over a network.

    A connection is closed when it is idle for `keep_alive` seconds after an answer, as uvicorn does it, or when nothing
    more of a request arrives for a minute. A body of more than `max_body` bytes is answered 413.
    """
    loop = asyncio.get_running_loop()
    connection = partial(Connection, handler, keep_alive, max_body, has_key)
    # The default backlog of 100 would drop connections when a thousand clients start at once.
    if path is not None:
        return await loop.create_unix_server(connection, path, backlog=4096)
    return await loop.create_server(connection, host, port, backlog=4096)
