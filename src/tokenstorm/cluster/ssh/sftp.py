"""Files of a machine behind SSH by SFTP, as asyncssh speaks it, and what tells that SFTP does not work there.

A server may have no SFTP, a program for it that ends or hangs, or a start-up file of the account that prints in front of
what that program says. Commands move files there (`transfer`).
"""

import asyncio
import contextlib
import posixpath
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import PurePosixPath

import asyncssh
from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED

from tokenstorm.cluster.ssh.transfer import SLOWEST_BYTES_PER_SECOND, TRANSFER_SECONDS, Leftovers
from tokenstorm.errors import ClusterError, Unconfirmed, Unreachable

_ENDED = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)
_LOST = (asyncssh.ConnectionLost, asyncssh.DisconnectError, *_ENDED)

Start = Callable[[], AbstractAsyncContextManager[asyncssh.SFTPClient]]
"""Opens an SFTP session. Raises NoSftp where the connection is there and SFTP is not."""


class NoSftp(ClusterError):
    """SFTP does not do there what was asked; the message says how that is seen. Commands may do it."""


class BySftp:
    """Files by SFTP, each by a session of its own. `said` puts the machine's name in front of a message."""

    def __init__(self, start: Start, said: Callable[[str], str], left: Leftovers) -> None:
        self._start, self._with_host, self._left = start, said, left

    async def put(self, path: PurePosixPath, data: bytes, mode: int) -> None:
        """A transfer that was cut leaves at most a file with a temporary name, which the next one removes."""
        try:
            await self._put(path, data, mode)
        except FileNotFoundError as error:  # a folder of the path is a file
            raise NoSftp(str(error)) from error

    async def _put(self, path: PurePosixPath, data: bytes, mode: int) -> None:
        seconds = TRANSFER_SECONDS + len(data) / SLOWEST_BYTES_PER_SECOND
        async with self._files(f"cannot write {path}", changing=True, seconds=seconds) as files:
            for left in tuple(self._left.paths):
                with contextlib.suppress(asyncssh.SFTPNoSuchFile):
                    await files.remove(str(left))
                self._left.whole(left)
            await _make(files, str(path.parent))
            temporary = self._left.beside(path)
            attributes = asyncssh.SFTPAttrs(permissions=0o600)
            async with files.open(str(temporary), "wb", attributes) as file:
                await file.write(data)
            await files.chmod(str(temporary), mode)
            await files.posix_rename(str(temporary), str(path))
            self._left.whole(temporary)

    async def get(self, path: PurePosixPath, offset: int, limit: int | None) -> bytes:
        async with self._files(f"cannot read {path}") as files, files.open(str(path), "rb") as file:
            return _bytes(await file.read(-1 if limit is None else limit, offset))

    async def list(self, path: PurePosixPath) -> list[str]:
        try:
            async with self._files(f"cannot list {path}") as files:
                return sorted(str(name) for name in await files.listdir(str(path)) if name not in {".", ".."})
        except FileNotFoundError:
            return []

    async def remove(self, path: PurePosixPath) -> None:
        with contextlib.suppress(FileNotFoundError):
            async with self._files(f"cannot remove {path}", changing=True) as files:
                kind = (await files.lstat(str(path))).permissions or 0
                if stat.S_ISDIR(kind):
                    await files.rmtree(str(path))
                else:
                    await files.remove(str(path))

    @asynccontextmanager
    async def _files(
        self, what: str, *, changing: bool = False, seconds: float = TRANSFER_SECONDS
    ) -> AsyncIterator[asyncssh.SFTPClient]:
        """An SFTP session, with its errors as ours. Whether something happened is unknown where it was to change."""
        opened = False
        try:
            async with asyncio.timeout(seconds), self._start() as files:
                opened = changing
                yield files
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise FileNotFoundError(f"{what}: {error.reason}") from error  # noqa: EM102
        except TimeoutError:
            message = self._with_host(f"{what} in {seconds:.0f} s")
            raise (Unconfirmed if opened else Unreachable)(message) from None
        except asyncssh.SFTPError as error:
            if isinstance(error, _LOST):
                raise (Unconfirmed if opened else Unreachable)(self._with_host(f"{what}: {error}")) from error
            message = f"its SFTP server {what.replace('cannot', 'does not', 1)}: {error}"
            raise NoSftp(message) from error
        except (OSError, asyncssh.Error) as error:
            raise (Unconfirmed if opened else Unreachable)(self._with_host(f"{what}: {error}")) from error


@asynccontextmanager
async def told_apart(connection: asyncssh.SSHClientConnection) -> AsyncIterator[None]:
    """Raises NoSftp for what befalls an SFTP session while its connection lives, but no answer about a file."""
    try:
        yield
    except TimeoutError:
        if connection.is_closed():
            raise
        message = "its SFTP server says nothing"
        raise NoSftp(message) from None
    except asyncssh.ChannelOpenError as error:
        if error.code != OPEN_REQUEST_SESSION_FAILED:
            raise
        message = "its SSH server offers no SFTP"
        raise NoSftp(message) from error
    except asyncssh.SFTPBadMessage as error:
        message = "its SFTP server's words are no SFTP, as where a start-up file (~/.bashrc) prints in front of them"
        raise NoSftp(message) from error
    except _ENDED as error:
        await asyncio.sleep(0)  # a connection that breaks ends its sessions first
        if connection.is_closed():
            raise
        message = "its SFTP server ends by itself"
        raise NoSftp(message) from error


async def _make(files: asyncssh.SFTPClient, folder: str) -> None:
    """Make a folder, and those above it that are missing, for this user alone."""
    if await files.isdir(folder):
        return
    if (above := posixpath.dirname(folder)) != folder:
        await _make(files, above)
    with contextlib.suppress(asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):  # another was quicker
        await files.mkdir(folder, asyncssh.SFTPAttrs(permissions=0o700))


def _bytes(data: object) -> bytes:
    assert isinstance(data, bytes)
    return data
