"""How the wrappers of one engine's parts hold together: a connection from each to the wrapper of the head.

A part tells the head why it ended, the head tells the parts that the engine is over, and a connection that breaks means
that a wrapper or its node is gone. Each message is a line of JSON.
"""

import asyncio
import contextlib
import hmac
import secrets
import socket

import msgspec

from tokenstorm.errors import NOT_JSON
from tokenstorm.node.parts import STOPPED, Failed, Head, Part

JOIN_SECONDS = 10.0
"""How long one side waits for the other at the beginning."""
FAREWELL_SECONDS = 5.0
"""How long a part that ended waits until the head has read its report."""
_QUIET_SECONDS, _PROBES, _PROBE_SECONDS = 10, 6, 5
"""A node that is silent for 40 s is gone."""


class _Hello(msgspec.Struct, frozen=True):
    secret: str
    rank: int
    node: str
    index: int


class _Ended(msgspec.Struct, frozen=True):
    reason: str


class Muster:
    """The head's side: which parts have `joined`, by rank with their node and number there, and what became of them.

    `stopped` is whether one was told to end, as all are when the service is stopped. Only who knows the `secret` may join.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._over = False
        self._broken = asyncio.Event()
        self.secret = secrets.token_urlsafe()
        self.joined: dict[int, tuple[str, int]] = {}
        self.reports: list[str] = []
        self.stopped = False

    async def open(self, host: str) -> int:
        """Listen on an address. Returns the port."""
        self._server = await asyncio.start_server(self._serve, host, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def broken(self) -> None:
        """Wait until a part that had joined has ended or is gone; `reports` says how."""
        await self._broken.wait()

    @property
    def missing(self) -> list[str]:
        """Which parts have not joined, in words."""
        ranks = (rank for rank in range(1, self._part.of) if rank not in self.joined)
        return [f"the part on {self._part.node_of(rank)} has not joined" for rank in ranks]

    def close(self) -> None:
        """Tell all parts that the engine is over, and listen no more."""
        self._over = True
        for writer in self._writers:
            with contextlib.suppress(OSError):
                writer.write(_line(_Ended("the engine is over")))
            writer.close()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _notice_silence(writer)
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                hello = msgspec.json.decode(await reader.readline(), type=_Hello)
        except (OSError, ValueError, *NOT_JSON):
            writer.close()
            return
        known = hmac.compare_digest(hello.secret.encode(), self.secret.encode())
        if not known or hello.rank not in range(1, self._part.of):
            writer.close()
            return
        self._writers.append(writer)
        self.joined[hello.rank] = (hello.node, hello.index)
        node = self._part.node_of(hello.rank)
        ended = await _read(reader)
        if self._over:
            return
        self.stopped |= ended is not None and ended.reason == STOPPED
        gone = "is gone: its node is down, or its wrapper was killed"
        self.reports.append(f"the part on {node} {gone}" if ended is None else f"the part on {node}: {ended.reason}")
        self._broken.set()


class Tie:
    """The connection of a part to the wrapper of its head."""

    def __init__(self, part: Part, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._part = part
        self._writer = writer
        self._end = asyncio.create_task(_read(reader))

    async def over(self) -> None:
        """Wait until the head says that the engine is over. Raises `Failed` when the head is gone without a word."""
        if await asyncio.shield(self._end) is None:
            message = f"the engine's head on {self._part.head} is gone: its node is down, or its wrapper was killed"
            raise Failed(message)

    async def tell(self, reason: str) -> bool:
        """Tell why this part ended, and close. Whether the head has heard it, or needs no telling."""
        with contextlib.suppress(OSError):
            self._writer.write(_line(_Ended(reason)))
        await asyncio.wait((self._end,), timeout=FAREWELL_SECONDS)
        self._writer.close()
        if self._end.done():
            return self._end.result() is not None
        self._end.cancel()
        return False


async def join(head: Head, part: Part, node: str) -> Tie:
    """Connect a part on `node` to the wrapper of its head. Raises OSError."""
    async with asyncio.timeout(JOIN_SECONDS):
        reader, writer = await asyncio.open_connection(head.host, head.wrapper_port)
    _notice_silence(writer)
    writer.write(_line(_Hello(head.secret, part.rank, node, part.index)))
    return Tie(part, reader, writer)


def _notice_silence(writer: asyncio.StreamWriter) -> None:
    """A node that is down closes no connection: ask it now and then."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _QUIET_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


async def _read(reader: asyncio.StreamReader) -> _Ended | None:
    """What the other side says at its end; None when it says nothing."""
    try:
        return msgspec.json.decode(await reader.readline(), type=_Ended)
    except (OSError, ValueError, *NOT_JSON):
        return None


def _line(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"
