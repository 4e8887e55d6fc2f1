"""The sessions of one login: an SSH server gives a few at once (sshd's MaxSessions), and how many is found out by asking.

Commands and transfers take a session each, and so does a relay, which stays. Forwarded connections take none. Work that finds
no room waits for others to end. A relay never takes the last session, since then nothing else would ever run.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any, TypeVar

SESSIONS = 8
"""How many we use at most. sshd ships with MaxSessions 10, and a login may be shared with the user's own terminal."""
COUNTED = 4
"""Up to how many are counted, where one wants to know: beyond, nothing of ours waits long."""
BELIEVED_SECONDS = (0.02, 0.05)
"""The server may count an ended session for a moment longer: only a refusal that lasts beyond these pauses counts."""
AGAIN_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""The pauses before a refused session is asked for again: others may share the login."""
MORE_SECONDS = 60.0
"""After so long, try one more session than was given before: others who share the login may have left."""

T = TypeVar("T")


class NoRoom(Exception):
    """The server refuses a further session for now: it gives no more."""


class Place:
    """Room for one session, from before it is asked for until the server has closed it."""

    def __init__(self) -> None:
        self.opened = False
        self.closing: asyncio.Future[None] | None = None

    def until(self, closed: Coroutine[Any, Any, None]) -> None:
        """Keep the place for as long as the server takes to close the session."""
        if self.closing is not None:  # an attempt that was refused
            self.closing.add_done_callback(_forget_error)
        self.closing = asyncio.ensure_future(closed)


def _forget_error(closing: "asyncio.Future[None]") -> None:
    """Take in the error of a session whose connection broke or that was refused: it is closed too."""
    if not closing.cancelled():
        closing.exception()


Opening = Callable[[Place], AbstractAsyncContextManager[T]]


class Sessions:
    """Who may open a session now."""

    def __init__(self) -> None:
        self._limit, self._taken, self._open = SESSIONS, 0, 0
        self._refused_at: float | None = None
        self._staying = 0
        self._deciding = asyncio.Lock()
        """Two that want to stay at once would each wait for the other to leave room."""
        self._freed = asyncio.Event()
        self._closing: set[asyncio.Future[None]] = set()

    @property
    def given(self) -> int | None:
        """How many the server turned out to give, where it gives fewer than we would use."""
        return self._limit if self._limit < SESSIONS else None

    @asynccontextmanager
    async def open(self, opening: Opening[T], *, wait: bool = True) -> AsyncIterator[T]:
        """A session, as soon as there is room. Without `wait`, raises NoRoom where there is none."""
        for pause in chain(AGAIN_SECONDS, repeat(AGAIN_SECONDS[-1])):
            async with self._place(wait=wait) as place:
                for again in (*BELIEVED_SECONDS, None):
                    async with AsyncExitStack() as stack:
                        try:
                            session = await stack.enter_async_context(opening(place))
                        except NoRoom:
                            pass
                        else:
                            self._opened(place)
                            yield session
                            return
                    if again is not None:
                        await asyncio.sleep(again)
                self._refused()
                if not wait:
                    raise NoRoom
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def stay(self, opening: Opening[T], trial: Opening[object]) -> AsyncIterator[T | None]:
        """A session that stays, or None where it would leave no room for others: `trial` is opened beside it to see."""
        async with AsyncExitStack() as stack:
            session: T | None = None
            async with self._deciding:
                if self._may_stay():
                    session = await stack.enter_async_context(self.open(opening))
                    if await self._leaves_room(trial):
                        self._staying += 1
                        stack.callback(self._stays_no_more)
                    else:
                        session = None
                        await stack.aclose()
            yield session

    def _may_stay(self) -> bool:
        """Whether one more that stays may leave room, by what the server refused so far."""
        return self._staying + 2 <= self._limit

    async def _leaves_room(self, trial: Opening[object]) -> bool:
        """Whether another opens beside the one that was opened just now.

        How many we count as open is no proof: the server may have closed one of them already. One that is still open after
        the pauses is.
        """
        for pause in AGAIN_SECONDS:
            with contextlib.suppress(NoRoom):
                async with self.open(trial, wait=False):
                    return True
            if not self._may_stay():
                return False
            await asyncio.sleep(pause)
        return self._open > self._staying + 1

    def _stays_no_more(self) -> None:
        self._staying -= 1

    async def close(self) -> None:
        """Wait for no session any more."""
        closing = tuple(self._closing)
        for one in closing:
            one.cancel()
        await asyncio.gather(*closing, return_exceptions=True)

    @asynccontextmanager
    async def _place(self, *, wait: bool) -> AsyncIterator[Place]:
        while self._taken >= self._allowed():
            if not wait:
                raise NoRoom
            self._freed.clear()
            await self._freed.wait()
        self._taken += 1
        place = Place()
        try:
            yield place
        finally:
            if place.closing is None:
                self._free(place)
            else:
                self._closing.add(place.closing)
                place.closing.add_done_callback(partial(self._closed, place))

    def _opened(self, place: Place) -> None:
        place.opened = True
        self._open += 1
        self._limit = max(self._limit, min(self._open, SESSIONS))

    def _refused(self) -> None:
        self._limit = max(self._staying + 1, min(self._limit, self._taken - 1))
        self._refused_at = asyncio.get_running_loop().time()

    def _allowed(self) -> int:
        waited = self._refused_at is not None and asyncio.get_running_loop().time() - self._refused_at > MORE_SECONDS
        return min(self._limit + waited, SESSIONS)

    def _closed(self, place: Place, closing: "asyncio.Future[None]") -> None:
        self._closing.discard(closing)
        _forget_error(closing)
        self._free(place)

    def _free(self, place: Place) -> None:
        self._taken -= 1
        self._open -= place.opened
        self._freed.set()
