"""One group's live updates for any number of viewers, from memory."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

KEPT = 64
"""How many events a viewer may be behind; a slower one misses the oldest."""
SILENCE_SECONDS = 5.0
"""After so long without an event a comment is sent, since viewers give up a silent connection."""


class Feed:
    """Server-sent events: the last `status` and `progress` for who comes, then each one, and `done` at the end."""

    def __init__(self) -> None:
        self._last: dict[str, bytes] = {}
        self._viewers: set[_Viewer] = set()
        self._over = False

    def publish(self, event: str, data: bytes) -> None:
        """Hand an event to every viewer; never waits for one. Nothing follows `done`."""
        text = b"event: %s\ndata: %s\n\n" % (event.encode(), data)
        self._last[event] = text
        self._over |= event == "done"
        for viewer in self._viewers:
            viewer.give(text)
        if self._over:
            self.close()

    def close(self) -> None:
        """Let the viewers go once they have what was published."""
        self._over = True
        for viewer in self._viewers:
            viewer.end()

    async def follow(self) -> AsyncIterator[bytes]:
        """The events as one viewer gets them."""
        viewer = _Viewer()
        for event in ("status", "progress", "done"):
            if event in self._last:
                viewer.give(self._last[event])
        if self._over:
            viewer.end()
        self._viewers.add(viewer)
        try:
            async for text in viewer.events():
                yield text
        finally:
            self._viewers.discard(viewer)


class _Viewer:
    def __init__(self) -> None:
        self._queue: deque[bytes] = deque(maxlen=KEPT)
        self._news = asyncio.Event()
        self._over = False

    def give(self, text: bytes) -> None:
        self._queue.append(text)
        self._news.set()

    def end(self) -> None:
        self._over = True
        self._news.set()

    async def events(self) -> AsyncIterator[bytes]:
        while True:
            while self._queue:
                yield self._queue.popleft()
            if self._over:
                return
            self._news.clear()
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                yield b": nothing new\n\n"
