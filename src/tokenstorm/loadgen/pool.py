"""The connections to one replica: made, kept while they are idle, retired before the server closes them."""

import asyncio
import errno
import os
import socket
import ssl
from time import monotonic_ns
from typing import cast

from tokenstorm.loadgen import wire
from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.loadgen.http import Connection, Exchange
from tokenstorm.loadgen.room import Room
from tokenstorm.loadgen.wire import Stamps
from tokenstorm.result import EXHAUSTED

RETIRE_NS = 4_000_000_000
"""Engines close a connection that was idle for 5 s; ours go a second earlier."""

OPENED_AT_ONCE = 64


class Pool:
    """The connections to one replica. The last one used is the first one used again.

    Pools that share a `room` close each other's idle connections when it is full. `tls` is needed where the endpoint has TLS.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        tls: ssl.SSLContext | None = None,
        room: Room | None = None,
        stamps: Stamps | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._room = Room() if room is None else room
        if endpoint.tls and tls is None:
            message = f"a pool to {endpoint.authority} needs a TLS context"
            raise ValueError(message)
        self._tls = tls if endpoint.tls else None
        self._stamps = stamps
        self._addresses: list[str] = []
        self._resolving = asyncio.Lock()
        self._idle: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def send(self, exchange: Exchange) -> None:
        """Start the exchange on an idle connection, or on a new one. `exchange.sent` is set by the caller."""
        oldest = exchange.sent - RETIRE_NS
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if connection.idle_since < oldest:
                connection.abandon()
                continue
            connection.idle_since = 0
            self._room.wake(connection)
            connection.send(exchange)
            return
        self._send_fresh(exchange)

    def resend(self, exchange: Exchange) -> None:
        """Send again, on a new connection, after a reused one turned out to be closed."""
        exchange.resent = True
        exchange.connected = None
        self._send_fresh(exchange)

    def release(self, connection: Connection) -> None:
        """Take back a connection whose answer is complete."""
        connection.fresh = False
        self._idle.append(connection)
        self._room.rest(connection)

    def lost(self, connection: Connection) -> None:
        """Learn that a connection is closed."""
        self._room.leave(connection)

    async def resolve(self) -> None:
        """Look the host up once, so that no request waits for a name server. Raises OSError."""
        if self.endpoint.unix is None:
            async with self._resolving:
                if not self._addresses:
                    found = await asyncio.get_running_loop().getaddrinfo(
                        self.endpoint.host, self.endpoint.port, type=socket.SOCK_STREAM
                    )
                    self._addresses = [cast("str", address[0]) for *_, address in found]

    async def open(self, count: int, start: int | None = None) -> None:
        """Open `count` idle connections, by `start` if given; their idle time begins then. Raises OSError.

        Those that cannot be begun by then, or find no room, are left out. Engines count idle time from the end of an answer, so
        waiting for a first request makes no connection old.
        """
        gate = asyncio.Semaphore(OPENED_AT_ONCE)

        async def one() -> None:
            async with gate:
                await self.resolve()
                if self._room.full or (start is not None and monotonic_ns() > start):
                    return
                connection = await self._connect()
            if self._closed:
                connection.abandon()
            else:
                connection.idle_since = max(connection.idle_since, start or 0)
                self.release(connection)

        opened = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
        for trouble in opened:
            if isinstance(trouble, BaseException):
                raise trouble

    def retire(self) -> None:
        """Close the connections that were idle too long."""
        oldest = monotonic_ns() - RETIRE_NS
        keep = 0
        while keep < len(self._idle) and self._idle[keep].idle_since < oldest:
            self._idle[keep].abandon()
            keep += 1
        del self._idle[:keep]

    def close(self) -> None:
        """Close the idle connections and stop connecting."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for connection in self._idle:
            connection.abandon()
        self._idle.clear()

    def _send_fresh(self, exchange: Exchange) -> None:
        task = asyncio.get_running_loop().create_task(self._connect_and_send(exchange))
        exchange.carrier = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_and_send(self, exchange: Exchange) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            exchange.carrier = None
            exchange.fail(*connect_failure(error))
        else:
            connection.idle_since = 0
            connection.send(exchange)

    async def _connect(self) -> Connection:
        if self.endpoint.unix is not None:
            return await self._connect_to(self.endpoint.unix)
        if not self._addresses:
            await self.resolve()
        trouble = OSError("the host has no address")
        for address in tuple(self._addresses):
            try:
                made = await self._connect_to(address)
            except ssl.SSLError:
                raise
            except OSError as error:
                trouble = error
            else:
                if address != self._addresses[0]:  # as with localhost, when only 127.0.0.1 listens
                    self._addresses.sort(key=address.__ne__)
                return made
        raise trouble

    async def _connect_to(self, address: str) -> Connection:
        """One attempt: an address of the host, or the path of its socket. Raises OSError."""
        loop, connection = asyncio.get_running_loop(), Connection(self)
        try:
            await self._room.enter(connection)
            if self.endpoint.unix is not None:
                await loop.create_unix_connection(lambda: connection, address)
            elif self._stamps is not None and self._tls is None:
                await wire.connect(address, self.endpoint.port, connection, self._stamps)
            else:
                host = self.endpoint.host if self._tls else None
                await loop.create_connection(
                    lambda: connection, address, self.endpoint.port, ssl=self._tls, server_hostname=host
                )
        except BaseException:
            self._room.leave(connection)
            raise
        return connection


_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.ENOBUFS, errno.ENOMEM))


def pools_of(endpoints: list[Endpoint], room: Room | None = None, stamps: Stamps | None = None) -> list[Pool]:
    """A pool for each replica. They share one TLS context; this machine's certificates are read for it here, once."""
    tls = ssl.create_default_context() if any(endpoint.tls for endpoint in endpoints) else None
    return [Pool(endpoint, tls, room, stamps) for endpoint in endpoints]


def connect_failure(error: OSError) -> tuple[str, str]:
    """Kind and detail of a connection that could not be made."""
    if isinstance(error, ConnectionRefusedError):
        return "refused", "connection refused"
    if isinstance(error, ssl.SSLError):
        return "tls", str(error)
    if isinstance(error, socket.gaierror):
        return "dns", str(error)
    if isinstance(error, FileNotFoundError):
        return "refused", "there is no such socket"
    if error.errno in _OURS:
        return EXHAUSTED, f"{os.strerror(error.errno)}, on this machine"
    return "unreachable", str(error)
