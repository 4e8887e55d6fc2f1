"""A login node behind SSH, by asyncssh: the first of two shells that get there.

One connection is made at the first use, shared by everything, and made again after it was lost. Keepalive is always on:
without it a frozen server would hang every command for ever. Every method has a deadline of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

import asyncssh
from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED

from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.ssh.asking import Ask
from tokenstorm.cluster.ssh.backoff import BACK_OFF_SECONDS, BackOff
from tokenstorm.cluster.ssh.login import Login
from tokenstorm.cluster.ssh.reach import CONNECT_SECONDS, Forbidden, LostEarly
from tokenstorm.cluster.ssh.remote import KEEPALIVE_SECONDS, Remote, Session
from tokenstorm.cluster.ssh.sessions import NoRoom, Place
from tokenstorm.cluster.ssh.sftp import BySftp, NoSftp, told_apart
from tokenstorm.cluster.ssh.transfer import Files
from tokenstorm.config.profile import Ssh
from tokenstorm.errors import Unreachable

T = TypeVar("T")


class SSHManager(Remote):
    """Commands, files and connections of the machine that a profile's [ssh] section names.

    What that section leaves out comes from ~/.ssh/config. Keys, certificates and the agent log in; for the first
    login `ask` is asked for passwords and codes, and never again: a service in the background must not surprise anybody.
    """

    def __init__(
        self,
        ssh: Ssh,
        *,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        back_off_seconds: Sequence[float] = BACK_OFF_SECONDS,
        ask: Ask | None = None,
        inside: Sequence[str] | None = None,
    ) -> None:
        self._login = Login(ssh, keepalive_seconds=keepalive_seconds, back_off=BackOff(back_off_seconds), ask=ask)
        super().__init__(self._login.host, (OSError, asyncssh.Error), inside)
        self._again = partial(SSHManager, ssh, keepalive_seconds=keepalive_seconds)
        self._back_off_apart = BackOff(back_off_seconds)
        self._connecting = asyncio.Lock()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._by_sftp = BySftp(partial(self._sessions.open, self._sftp), self._with_host, self._left)

    async def login(self) -> None:
        await self._connected()

    @asynccontextmanager
    async def _session(self, line: str, place: Place) -> AsyncIterator[Session]:
        connection = await self._connected()
        opening = asyncio.ensure_future(connection.create_process(line, encoding=None, request_pty=False))
        place.until(_closed(opening))
        try:
            process: asyncssh.SSHClientProcess[bytes] = await _opened(opening, lambda process: process.close())
        except asyncssh.ChannelOpenError as error:
            raise self._not_opened(connection, error) from error
        try:
            yield process
        finally:
            process.close()

    def _not_opened(self, connection: asyncssh.SSHClientConnection, error: asyncssh.ChannelOpenError) -> Exception:
        """What it means that a session was refused."""
        if connection.is_closed():
            return error
        if error.code == OPEN_REQUEST_SESSION_FAILED:
            return Unreachable(self._with_host("its SSH server runs no commands for this account"))
        return NoRoom()

    def _another(self) -> Remote:
        other = self._again()
        other._login.back_off = self._back_off_apart  # noqa: SLF001 - of our own kind
        return other

    async def _forward(self, host: str, port: int) -> Streams:
        what = f"{host}:{port}"
        connection = await self._connected()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                opening = asyncio.ensure_future(connection.open_connection(host, port, encoding=None))
                reader, writer = await _opened(opening, lambda streams: streams[1].close())
        except TimeoutError:
            raise Unreachable(self._with_host(f"no connection to {what} in {CONNECT_SECONDS:g} s")) from None
        except asyncssh.ChannelOpenError as error:
            if connection.is_closed():  # it was ours that was lost
                raise LostEarly(self._with_host(f"no connection to {what}: {error.reason}")) from error
            message = f"{self.host} cannot connect to {what}: {error.reason}"
            forbidden = error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
            raise (Forbidden if forbidden else ConnectionRefusedError)(message) from error
        except asyncssh.Error as error:
            raise Unreachable(self._with_host(f"no connection to {what}: {error.reason}")) from error

        async def end() -> None:
            writer.close()

        return await self._carried(reader, writer, end)

    async def put(self, path: PurePosixPath, data: bytes, *, mode: int = 0o600) -> None:
        await self._moved(lambda files: files.put(path, data, mode))

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        return await self._moved(lambda files: files.get(path, offset, limit))

    async def list(self, path: PurePosixPath) -> list[str]:
        return await self._moved(lambda files: files.list(path))

    async def remove(self, path: PurePosixPath) -> None:
        await self._moved(lambda files: files.remove(path))

    async def _moved(self, work: Callable[[Files], Awaitable[T]]) -> T:
        """By SFTP, until a command could do what it could not; from then on by commands."""
        if self.no_sftp:
            return await work(self._by_commands)
        try:
            return await work(self._by_sftp)
        except NoSftp as error:
            done = await work(self._by_commands)
            self.no_sftp = str(error)
            return done

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            await connection.wait_closed()
        await self._login.close()
        await super().close()

    async def _doubt(self) -> None:
        """Keepalive sees to that."""

    async def _connected(self) -> asyncssh.SSHClientConnection:
        """The shared connection."""
        async with self._connecting:
            if self._connection is not None and not self._connection.is_closed():
                return self._connection
            self._connection = None
            self._connection = await self._login.connection()
            return self._connection

    @asynccontextmanager
    async def _sftp(self, place: Place) -> AsyncIterator[asyncssh.SFTPClient]:
        connection = await self._connected()
        opening = asyncio.ensure_future(connection.start_sftp_client())
        place.until(_closed(opening))
        async with told_apart(connection):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    files = await _opened(opening, asyncssh.SFTPClient.exit)
            except asyncssh.ChannelOpenError as error:
                if error.code == OPEN_REQUEST_SESSION_FAILED:
                    raise
                raise self._not_opened(connection, error) from error
            async with files:
                yield files


class _Closes(Protocol):
    async def wait_closed(self) -> None: ...


async def _closed(opening: Awaitable[_Closes]) -> None:
    """Until the server has closed what is opened. It is waited for from the start: an SFTP session that ended forgets it."""
    await (await opening).wait_closed()


async def _opened(task: "asyncio.Future[T]", close: Callable[[T], object]) -> T:
    """What is opened. Given up meanwhile, it is opened still, and then closed: asyncssh would leave it open on the server,
    which gives few of them."""

    def let_go(task: "asyncio.Future[T]") -> None:
        if not task.cancelled() and not task.exception():
            close(task.result())

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(let_go)
        raise
