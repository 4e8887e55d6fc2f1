"""Running a coroutine of a test to its end, with a deadline far beyond what it takes."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def finish(work: Coroutine[Any, Any, None], seconds: float = 60.0) -> None:
    """Run it; a test that hangs fails."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await work

    asyncio.run(bounded())


async def until(what: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - files and lists of a test tell nobody
            await asyncio.sleep(0.01)
