"""A login node behind SSH, by the user's own ssh: the second shell, for sites where only that can log in.

Everything goes through one login (`master`), and files go by commands: sftp's batches read no part of a file.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from tokenstorm.cluster.backoff import BACK_OFF_SECONDS
from tokenstorm.cluster.master import NO_MASTER, NO_ROOM, Master, ended
from tokenstorm.cluster.reach import CONNECT_SECONDS, Forbidden
from tokenstorm.cluster.remote import NoRoom, Remote, Session
from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.ssh import KEEPALIVE_SECONDS, Ask
from tokenstorm.config import Ssh
from tokenstorm.errors import Unreachable


class OpenSSH(Remote):
    """The same as `SSHManager`, by ssh. Where `ask` tells of a terminal, ssh itself asks there, for the first login alone."""

    def __init__(
        self,
        ssh: Ssh,
        *,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        back_off_seconds: Sequence[float] = BACK_OFF_SECONDS,
        ask: Ask | None = None,
        inside: Sequence[str] | None = None,
    ) -> None:
        self._master = Master(
            ssh, keepalive_seconds=keepalive_seconds, back_off_seconds=back_off_seconds, asks=ask is not None
        )
        super().__init__(self._master.host, (OSError,), inside)

    async def login(self) -> None:
        await self._master.login()

    async def close(self) -> None:
        await super().close()
        await self._master.close()

    @asynccontextmanager
    async def _session(self, line: str) -> AsyncIterator[Session]:
        process = await self._master.through("--", self.host, line)
        try:
            yield process
        finally:
            await ended(process)

    async def _forward(self, host: str, port: int) -> Streams:
        """Ssh tells in what -v prints that it is connected, and of a refusal not whose it was."""
        process = await self._master.through(
            "-v", "-W", f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "--", self.host
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connected = await _connected(process)
        except BaseException as error:
            await ended(process)
            if isinstance(error, TimeoutError):
                raise Unreachable(self._said(f"no connection to {host}:{port} in {CONNECT_SECONDS:g} s")) from None
            raise
        if not connected:
            await ended(process)
            message = f"{self.host} does not connect to {host}:{port}: its SSH server forwards nothing, or nobody listens there"
            raise Forbidden(message)
        return await self._carried(process.stdout, process.stdin, partial(ended, process))

    def _never_begun(self, said: str) -> Exception:
        if NO_ROOM in said:
            return NoRoom()
        return super()._never_begun("" if NO_MASTER in said else said)

    async def _doubt(self) -> None:
        await self._master.doubt()


async def _connected(forwarding: Session) -> bool:
    while line := await forwarding.stderr.readline():
        if b"master session id" in line:
            return True
    return False
