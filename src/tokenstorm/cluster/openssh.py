"""A login node behind SSH, by the user's own ssh: the second shell, for sites where only that can log in.

Everything goes through one login (`master`), and files go by commands: sftp's batches read no part of a file.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import PurePosixPath

from tokenstorm.cluster.master import NO_MASTER, NO_ROOM, Master, ended, words
from tokenstorm.cluster.reach import CONNECT_SECONDS, Forbidden
from tokenstorm.cluster.remote import NoRoom, Remote, Session
from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.ssh import BACK_OFF_SECONDS, KEEPALIVE_SECONDS, SLOWEST_BYTES_PER_SECOND, TRANSFER_SECONDS, Ask
from tokenstorm.config import Ssh
from tokenstorm.errors import Unconfirmed, Unreachable

_PUT = """umask 077
case $1 in */*) mkdir -p -- "${1%/*}/" || exit ;; esac
if cat > "$2" && [ "$(wc -c < "$2")" -eq "$3" ] && chmod "$4" "$2" && mv -fT -- "$2" "$1"; then exit 0; fi
rm -f -- "$2"; exit 1
"""


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

    async def put(self, path: PurePosixPath, data: bytes, *, mode: int = 0o600) -> None:
        """A transfer that was cut leaves at most a file with a temporary name."""
        temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}"
        argv = ["sh", "-c", _PUT, "sh", str(path), str(temporary), str(len(data)), f"{mode:o}"]
        seconds = TRANSFER_SECONDS + len(data) / SLOWEST_BYTES_PER_SECOND
        done = await self.run(argv, stdin=data, timeout=seconds)
        if done.status:
            raise Unreachable(self._said(f"cannot write {path}: {words(done.stderr)}"))

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        if limit == 0:
            return b""
        argv = ["env", "LC_ALL=C", "dd", f"if={path}", "bs=65536", f"skip={offset}", "status=none"]
        argv += ["iflag=skip_bytes,count_bytes,fullblock", *([] if limit is None else [f"count={limit}"])]
        try:
            done = await self.run(argv, timeout=TRANSFER_SECONDS)
        except Unconfirmed as error:  # nothing was to change
            raise Unreachable(str(error)) from error
        if done.status:
            said = words(done.stderr)
            if re.search(r"No such file|Not a directory|Too many levels", said):
                raise FileNotFoundError(f"cannot read {path}: {said}")  # noqa: EM102
            raise Unreachable(self._said(f"cannot read {path}: {said}"))
        return done.stdout

    async def list(self, path: PurePosixPath) -> list[str]:
        argv = ["find", f"{path}/", "-mindepth", "1", "-maxdepth", "1", "-printf", r"%f\0"]
        try:
            done = await self.run(["env", "LC_ALL=C", *argv], timeout=TRANSFER_SECONDS)
        except Unconfirmed as error:
            raise Unreachable(str(error)) from error
        said = words(done.stderr)
        if done.status and not re.search(r"No such file|Not a directory", said):
            raise Unreachable(self._said(f"cannot list {path}: {said}"))
        return sorted(name.decode(errors="surrogateescape") for name in done.stdout.split(b"\0") if name)

    async def remove(self, path: PurePosixPath) -> None:
        done = await self.run(["rm", "-rf", "--", str(path)], timeout=TRANSFER_SECONDS)
        if done.status:
            raise Unreachable(self._said(f"cannot remove {path}: {words(done.stderr)}"))

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
