"""HTTP handed on: a request as it came, an answer as it comes, byte for byte and chunk by chunk."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

import httpx
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from tokenstorm.cluster.http import AGAIN
from tokenstorm.web import Problem

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The largest request: its body is kept until an engine took it, so that it can go to another one."""
TIMEOUT = httpx.Timeout(None, connect=5.0)
"""No limit on how long an answer takes: the caller decides how long to wait."""

Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_OURS_UP = _HOP_BY_HOP | {b"host", b"authorization", b"content-length", b"expect"}
_OURS_DOWN = _HOP_BY_HOP | {b"date", b"server"}


@dataclass(frozen=True)
class Call:
    """A request to hand on. `target` is path and query as they were sent; hop-by-hop headers are removed."""

    method: str
    target: bytes
    headers: Headers
    body: bytes


async def call_of(request: Request) -> Call:
    """The call of an incoming request. Raises Problem 400 for a path with `..`, 413 for a body that is too large."""
    return Call(request.method, _target(request), _without(request.headers.raw, _OURS_UP), await _body(request))


async def send(
    client: httpx.AsyncClient, base_url: str, call: Call, token: str | None, *, again: bool
) -> httpx.Response:
    """Hand a request on, with this token instead of the caller's; the answer's body is still to be read.

    `again`: the request is idempotent and may be resent if a kept-alive connection breaks.

    Nothing of the client's own is added: no cookie of another caller, no encoding that this one did not ask for.
    Raises httpx.TransportError.
    """
    headers = call.headers if token is None else [*call.headers, (b"authorization", f"Bearer {token}".encode())]
    request = httpx.Request(
        call.method,
        base_url,
        headers=headers,
        content=call.body,
        extensions={"target": call.target, "timeout": TIMEOUT.as_dict(), AGAIN: again},
    )
    return await client.send(request, stream=True)


async def nothing(_result: object) -> None:
    """Does nothing, for a result that needs no closing."""


async def unless_left(
    request: Request, work: Coroutine[None, None, T], drop: Callable[[T], Awaitable[None]] = nothing
) -> T:
    """The result of some work. If the caller goes away, the work is cancelled and Problem is raised, which nobody sees.

    The request's body must have been read. `drop` closes a result that came after the caller had gone.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request.receive))
    taken = False
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            taken = True
            return working.result()
        raise Problem(408, "the caller went away")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
        if not taken and not working.cancelled() and working.exception() is None:
            await drop(working.result())


class Passed(Response):
    """Another server's answer, handed on as it comes.

    When the caller leaves, the other server's answer is dropped. When the other server breaks off, so does this answer,
    without the end of a whole one, and `broke` is called.
    """

    def __init__(self, answer: httpx.Response, broke: Callable[[], None] = lambda: None) -> None:
        self._answer = answer
        self._broke = broke
        self.status_code = answer.status_code
        self.background = None
        self.raw_headers = _without(answer.headers.raw, _OURS_DOWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streaming, leaving = asyncio.create_task(self._stream(send)), asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((streaming, leaving), return_when=asyncio.FIRST_COMPLETED)
            if streaming.done():
                streaming.result()
        finally:
            for task in (streaming, leaving):
                task.cancel()
            await asyncio.gather(streaming, leaving, return_exceptions=True)
            await self._answer.aclose()

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        assert isinstance(self._answer.stream, httpx.AsyncByteStream)
        try:
            async for part in self._answer.stream:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except httpx.TransportError:
            self._broke()
            return  # no end is sent: the server closes the connection, and the caller sees it
        await send({"type": "http.response.body", "body": b""})


def _target(request: Request) -> bytes:
    """Path and query as they were sent. Raises Problem 400 for a path with `..`."""
    raw = bytes(request.scope.get("raw_path") or request.scope["path"].encode())
    path = raw.partition(b"?")[0]
    plain = unquote(unquote(path.decode("latin-1"))).replace("\\", "/")
    if any(part in {"..", "."} for part in plain.split("/")):
        raise Problem(400, "the path may not hold `.` or `..`")
    query: bytes = request.scope["query_string"]
    return b"%b?%b" % (path, query) if query else path


async def _body(request: Request) -> bytes:
    """The whole body. Raises Problem 413 when it is too large; before reading, where Content-Length tells."""
    length = request.headers.get("content-length", "")
    announced = int(length) if length.isdecimal() else 0
    parts: list[bytes] = []
    size = 0
    if announced <= MAX_BODY_BYTES:
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > MAX_BODY_BYTES:
                break
    if max(announced, size) > MAX_BODY_BYTES:
        raise Problem(413, f"the body is larger than {MAX_BODY_BYTES // 2**20} MB: send less at once")
    return b"".join(parts)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _without(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> Headers:
    """The headers without these and without those that Connection names."""
    found = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in found if name == b"connection" for part in value.split(b",")}
    return [(name, value) for name, value in found if name not in names and name not in named]
