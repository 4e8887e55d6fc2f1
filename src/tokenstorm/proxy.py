"""HTTP handed on: a request as it came, an answer as it comes, byte for byte and chunk by chunk."""

import asyncio
from collections.abc import Iterable
from urllib.parse import unquote

import httpx
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from tokenstorm.web import Problem

MAX_BODY_BYTES = 64 * 1024 * 1024
"""A request is kept until an engine took it, so that it can go to another one."""

Headers = list[tuple[bytes, bytes]]

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


async def body_of(request: Request) -> bytes:
    """The whole body. Raises Problem 413 when it is too large."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Problem(413, f"the body is larger than {MAX_BODY_BYTES // 2**20} MB: send less at once")
    return b"".join(parts)


def upward(headers: Iterable[tuple[bytes, bytes]], token: str | None) -> Headers:
    """A caller's headers for the next server: without those of this hop, and with its token instead of the caller's."""
    kept = _without(headers, _OURS_UP)
    if token is not None:
        kept.append((b"authorization", f"Bearer {token}".encode()))
    return kept


def path_of(request: Request) -> str:
    """Path and query as they were sent. Raises Problem 400 for a path that climbs."""
    raw = bytes(request.scope.get("raw_path") or request.scope["path"].encode())
    path = raw.partition(b"?")[0].decode("latin-1")
    plain = unquote(unquote(path)).replace("\\", "/")
    if any(part in {"..", "."} for part in plain.split("/")):
        raise Problem(400, "the path may not hold `.` or `..`")
    query = request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


class Passed(Response):
    """An answer of another server, handed on as it comes.

    When the caller goes, the other server's answer is given up; when the other server breaks off, so does this one,
    without the end that a whole answer has.
    """

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self.status_code = answer.status_code
        self.background = None
        self.raw_headers = _without(answer.headers.raw, _OURS_DOWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streaming = asyncio.create_task(self._stream(send))
        leaving = asyncio.create_task(_left(receive))
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
            return  # no end is sent: the server closes the connection, and the caller sees it
        await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _without(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> Headers:
    """Without these, and without those that Connection names."""
    found = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in found if name == b"connection" for part in value.split(b",")}
    return [(name, value) for name, value in found if name not in names and name not in named]
