"""Publishes the latest state of replicas: a write that the file system refuses is repeated each second."""

import asyncio
import contextlib
import os
import time
from pathlib import Path

from msgspec.structs import replace

from tokenstorm.node.service import Published, publish, run_of, unpublish

AGAIN_SECONDS = 1.0
LAST_SECONDS = 10.0
"""How long a wrapper that ends tries to publish its last state; the scheduler waits longer before it kills."""
_began = time.monotonic()
"""As a wrapper starts: it imports this first."""


class Publisher:
    """Tells of one replica. A full disk, a quota or a stale handle is no reason to end an engine that is well."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unsaid: Published | None = None
        self._again: asyncio.Task[None] | None = None

    def publish(self, published: Published) -> None:
        """Make it known now, or as soon as the file system takes it; what was said before and is unsaid is forgotten."""
        self._unsaid = replace(published, run=run_of(os.environ), ran_seconds=round(time.monotonic() - _began, 1))
        if not self._catch_up() and self._again is None:
            self._again = asyncio.create_task(self._try_again())

    def withdraw(self, replica: str) -> None:
        """Take back what was published, if the file system lets us: somebody else tells it now."""
        self._unsaid = None
        with contextlib.suppress(OSError):
            unpublish(self._folder, replica)

    async def finish(self) -> None:
        """Wait until the last state is written, but not for ever."""
        if self._again is not None:
            await asyncio.wait((self._again,), timeout=LAST_SECONDS)

    async def _try_again(self) -> None:
        while not self._catch_up():  # noqa: ASYNC110 - a file system tells nobody
            await asyncio.sleep(AGAIN_SECONDS)
        self._again = None

    def _catch_up(self) -> bool:
        if self._unsaid is not None:
            try:
                publish(self._folder, self._unsaid)
            except OSError:
                return False
            self._unsaid = None
        return True
