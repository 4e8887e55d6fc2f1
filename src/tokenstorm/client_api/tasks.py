"""Work that is done beside the rest, and ends with it."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Tasks that run until they are done or `close` is called. `bug` says that one of them failed, which none should."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self.bug: str | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task. A bug in it shows in the log and in `bug`."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    async def close(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        tasks = tuple(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.bug = "this is a bug of tokenstorm: its traceback is in the log of the API"
            context = {"message": "tokenstorm: a bug in the Client API", "exception": error, "task": task}
            asyncio.get_running_loop().call_exception_handler(context)
