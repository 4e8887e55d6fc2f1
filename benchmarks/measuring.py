"""What measurements share: processes that are measured, and rows that tell of a bar."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def started(*argv: str) -> AsyncIterator[tuple[str, int]]:
    """A process that prints its address; the address and its pid."""
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    try:
        found = re.search(r"http://\S+", (await process.stdout.readline()).decode())
        assert found, f"{argv} did not start"
        yield found[0], process.pid
    finally:
        process.terminate()
        await process.wait()


def say(what: str, value: float, bar: float) -> None:
    """One row."""
    sys.stdout.write(f"{what:<58} {value / bar:6.2f} of its bar\n")
