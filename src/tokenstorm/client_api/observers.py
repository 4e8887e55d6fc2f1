"""Telling observers: a POST for each message of the outbox, in order for each address, never in anybody's way."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx

from tokenstorm.client_api.store import Message, Store
from tokenstorm.errors import RunError
from tokenstorm.jobs.pauses import pauses

GIVE_UP_SECONDS = 3600.0
"""How old a message gets that is tried again; an older one is tried once, so that an observer that is gone fills no disk."""
POST_SECONDS = 10.0


class Observers:
    """Empties the outbox, which survives restarts: a message may come twice, and does not get lost."""

    def __init__(
        self, store: Store, client: httpx.AsyncClient, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self._store = store
        self._client = client
        self._spawn = spawn
        self._busy: set[str] = set()

    def look(self) -> None:
        """See to it that somebody sends what is in the outbox."""
        for url in self._store.outbox_urls():
            if url not in self._busy:
                self._busy.add(url)
                self._spawn(self._serve(url))

    async def _serve(self, url: str) -> None:
        try:
            while (message := self._store.next_message(url)) is not None:
                await self._deliver(message)
        except RunError:  # the disk: it is looked at again at the next change
            pass
        finally:
            self._busy.discard(url)

    async def _deliver(self, message: Message) -> None:
        for pause in pauses(0.5, 60.0, 2.0):
            try:
                if await self._post(message) or message.age_seconds > GIVE_UP_SECONDS:
                    self._store.delivered(message)
                    return
            except RunError:  # the disk: the message is sent once more
                pass
            await asyncio.sleep(pause)

    async def _post(self, message: Message) -> bool:
        headers = {"content-type": "application/json"}
        try:
            answer = await self._client.post(message.url, content=message.body, headers=headers, timeout=POST_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, OverflowError):
            return False
        return answer.is_success
