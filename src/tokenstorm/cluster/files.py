"""Files that grow on another machine, brought home piece by piece."""

import asyncio
from pathlib import Path, PurePosixPath

from tokenstorm.cluster.shell import Shell

PART = 2**20
"""Bytes that are read at a time."""


async def fetch_new(shell: Shell, source: PurePosixPath, target: Path) -> None:
    """Append to `target` what `source` has beyond its length. Raises FileNotFoundError; OSError for a disk of ours that is full."""
    with target.open("ab") as file:
        while part := await shell.get(source, offset=file.tell(), limit=PART):
            await asyncio.to_thread(file.write, part)
