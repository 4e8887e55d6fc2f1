"""How many connections a rank may have open, all replicas taken together."""

import asyncio
import math
from typing import Protocol


class Guest(Protocol):
    """A connection, as far as the room knows it."""

    def abandon(self) -> None: ...


class Room:
    """Room for `most` connections, which the pools of a rank share.

    When it is full, a new connection takes the place of the one that was idle for longest, of whichever replica. When none
    is idle, the new one is let in all the same: every client may have one.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._most = most
        self._open: set[Guest] = set()
        self._idle: dict[Guest, None] = {}
        """The one that is idle for longest comes first."""
        self._leaving: dict[Guest, asyncio.Future[None]] = {}

    @property
    def full(self) -> bool:
        return len(self._open) >= self._most

    async def enter(self, connection: Guest) -> None:
        """Wait until the connection may be opened. If another has to close first, wait until its socket is closed."""
        full = self.full
        self._open.add(connection)
        if full and self._idle:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._open.discard(oldest)
            self._leaving[oldest] = gone = asyncio.get_running_loop().create_future()
            oldest.abandon()
            await gone

    def leave(self, connection: Guest) -> None:
        """The connection is closed, or was never made."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        gone = self._leaving.pop(connection, None)
        if gone is not None and not gone.done():
            gone.set_result(None)

    def rest(self, connection: Guest) -> None:
        """The connection is idle from now on."""
        self._idle[connection] = None

    def wake(self, connection: Guest) -> None:
        """The connection is used again."""
        self._idle.pop(connection, None)
