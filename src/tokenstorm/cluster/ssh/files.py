"""Files that grow on another machine, brought home piece by piece."""

import asyncio
from pathlib import Path, PurePosixPath

from tokenstorm.cluster.shell import Shell

LOGS = ("stdout.log", "stderr.log")
"""What the scheduler writes of a job, in its folder."""
PART = 2**20
"""Bytes that are read at a time."""


async def fetch_new(shell: Shell, source: PurePosixPath, target: Path) -> None:
    """Append to `target` what `source` has beyond its length. Raises FileNotFoundError; OSError for a disk of ours that is full."""
    offset, last = target.stat().st_size if target.exists() else 0, False
    while not last:
        part = await shell.get(source, offset=offset, limit=PART)
        await asyncio.to_thread(_append, target, part)
        offset, last = offset + len(part), len(part) < PART


def _append(target: Path, part: bytes) -> None:
    with target.open("ab") as file:
        file.write(part)
