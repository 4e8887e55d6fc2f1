"""The first seam: what the services need from a machine: this one, or a login node behind SSH."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Output:
    """The result of a command."""

    status: int
    stdout: bytes
    stderr: bytes


class Shell(Protocol):
    """Commands, files and connections on one machine. Paths are absolute and belong to that machine.

    Every method raises `Unreachable` when nothing was done, and `Unconfirmed` when the connection broke on the way.
    """

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Output:
        """Run a command to its end, whatever its status. No word of `argv` is ever read as shell text."""
        ...

    async def put(self, path: PurePosixPath, data: bytes, *, mode: int = 0o600) -> None:
        """Write a file, under a temporary name first. Folders that are missing are made, for the user alone."""
        ...

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        """A file's content, or a part of it. Raises FileNotFoundError."""
        ...

    async def list(self, path: PurePosixPath) -> list[str]:
        """The names in a folder, sorted; none if there is no such folder."""
        ...

    async def remove(self, path: PurePosixPath) -> None:
        """Remove a file or a folder with all that is in it, if it is there."""
        ...

    async def open_connection(self, host: str, port: int) -> Streams:
        """Connect to an address as that machine sees it. Raises OSError when nobody listens there."""
        ...

    async def open_unix_connection(self, path: PurePosixPath) -> Streams:
        """The same to a unix socket of that machine."""
        ...

    async def close(self) -> None:
        """Close all connections; commands under way are ended."""
        ...
