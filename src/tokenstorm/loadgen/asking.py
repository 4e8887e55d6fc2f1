"""Asking somebody the same thing once a second, beside everything else."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic_ns

ANSWER_SECONDS = 5.0
"""What an answer may take."""
LARGEST_ANSWER = 2 * 1024 * 1024
LEAD_SECONDS = 0.02
"""Each question leaves this long before its full second, so that the answer speaks of that second."""

Ask = Callable[[float], Awaitable[int | None]]
"""Asks once, within so many seconds. Returns how many seconds later to ask again; None: never."""


class Asking:
    """Asks several, each at its own pace, until `stop`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped: list[asyncio.Task[None]] = []

    def begin(self, start_at: int, ask: Ask) -> None:
        """Ask one more: at once, and at each full second from `start_at` on."""
        self._tasks.append(asyncio.create_task(_each_second(start_at, ask)))

    async def stop(self) -> None:
        """Give up what is being asked."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._stopped += tasks

    async def close(self) -> None:
        """Stop. A bug in an `ask` shows now, when nothing can be lost by it any more."""
        await self.stop()
        for task in self._stopped:
            if not task.cancelled():
                task.result()


async def _each_second(start_at: int, ask: Ask) -> None:
    """One that takes long skips some seconds."""
    second = min(0, (monotonic_ns() - start_at) // 10**9)
    while True:
        await asyncio.sleep(max(0.0, (start_at - monotonic_ns()) / 1e9 + second - LEAD_SECONDS))
        later = await ask(ANSWER_SECONDS)
        if later is None:
            return
        second = max(second + later, (monotonic_ns() - start_at) // 10**9 + 1)
