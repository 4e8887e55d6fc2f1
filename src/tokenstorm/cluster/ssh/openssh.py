"""A login node behind SSH, by the user's own ssh: the second shell, for sites where only that can log in.

Everything goes through one login (`master`), and files go by commands: sftp's batches read no part of a file.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.ssh.asking import Ask
from tokenstorm.cluster.ssh.backoff import BACK_OFF_SECONDS, BackOff
from tokenstorm.cluster.ssh.master import NO_MASTER, NO_ROOM, Master
from tokenstorm.cluster.ssh.process import ended
from tokenstorm.cluster.ssh.reach import CONNECT_SECONDS, Forbidden
from tokenstorm.cluster.ssh.remote import KEEPALIVE_SECONDS, Remote, Session
from tokenstorm.cluster.ssh.sessions import NoRoom, Place
from tokenstorm.config.profile import Ssh
from tokenstorm.errors import Unreachable
from tokenstorm.hosts import in_url


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
        apart: str = "",
    ) -> None:
        self._master = Master(
            ssh,
            keepalive_seconds=keepalive_seconds,
            back_off=BackOff(back_off_seconds),
            asks=ask is not None,
            apart=apart,
        )
        self._again = partial(OpenSSH, ssh, keepalive_seconds=keepalive_seconds)
        self._back_off_apart = BackOff(back_off_seconds)
        super().__init__(self._master.host, (OSError,), inside)

    async def login(self) -> None:
        await self._master.login()

    async def close(self) -> None:
        await super().close()
        await self._master.close()

    @asynccontextmanager
    async def _session(self, line: str, _place: Place) -> AsyncIterator[Session]:
        process = await self._master.through("--", self.host, line)
        try:
            yield process
        finally:
            await ended(process)

    def _another(self) -> Remote:
        other = self._again(apart=secrets.token_hex(8))
        other._master.back_off = self._back_off_apart  # noqa: SLF001 - of our own kind
        return other

    async def _forward(self, host: str, port: int) -> Streams:
        """With -v ssh prints that it is connected. A refusal does not say whose it was."""
        process = await self._master.through("-v", "-W", f"{in_url(host)}:{port}", "--", self.host)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connected = await _connected(process)
        except BaseException as error:
            await ended(process)
            if isinstance(error, TimeoutError):
                raise Unreachable(self._with_host(f"no connection to {host}:{port} in {CONNECT_SECONDS:g} s")) from None
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
