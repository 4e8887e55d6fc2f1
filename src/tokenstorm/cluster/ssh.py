"""A login node behind SSH: the second shell.

One connection is made at the first use, shared by everything, and made again after it was lost. Keepalive is always on:
without it a frozen server would hang every command for ever. Every method has a deadline of its own.

Of the names that the specification uses, `run` is what it calls execute_remote_command, `get` is the step of which its
sync_logs_from_remote is made, and its http_request_via_ssh is `cluster.http` over `open_connection`.
"""

import asyncio
import contextlib
import posixpath
import secrets
import shlex
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import asyncssh

from tokenstorm.cluster import relay
from tokenstorm.cluster.relay import Relay
from tokenstorm.cluster.shell import Output, Streams
from tokenstorm.config import Ssh
from tokenstorm.errors import Unconfirmed, Unreachable, UsageError

SESSIONS = 8
"""Commands and transfers at once. sshd ships with MaxSessions 10; forwarded connections do not count."""
PORT = 22
KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 3
CONNECT_SECONDS, TYPING_SECONDS = 20.0, 180.0
TRANSFER_SECONDS, SLOWEST_BYTES_PER_SECOND = 60.0, 100_000
BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""How long after a failed login the next one is tried, by the number of failures."""
_LOST = (asyncssh.ConnectionLost, asyncssh.DisconnectError, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)


_RELAY = ("python3", "-c", 'import os; exec(b"".join(iter(lambda: os.read(0, 1), b"\\0")))')
"""Runs what comes on standard input up to a NUL; what comes after it is for the program."""
_RELAY_SOURCE = Path(relay.__file__)


class _Forbidden(ConnectionRefusedError):
    """The SSH server forwards nothing, or not to there."""


Ask = Callable[[str, bool], str]
"""Asks the user: the prompt, and whether what is typed is shown. It blocks, and is called in a thread."""


class _Asking(asyncssh.SSHClient):
    """Logs in with what the user types, where keys are not enough."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._left = 3

    def kbdint_auth_requested(self) -> str | None:
        return self._once("")

    async def kbdint_challenge_received(
        self, _name: str, _instructions: str, _lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str]:
        return [await asyncio.to_thread(self._ask, text, echo) for text, echo in prompts]

    async def password_auth_requested(self) -> str | None:
        return None if self._once("") is None else await asyncio.to_thread(self._ask, "Password: ", False)  # noqa: FBT003

    def _once(self, answer: str) -> str | None:
        self._left -= 1
        return answer if self._left >= 0 else None


class SSHManager:
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
    ) -> None:
        if not ssh.host:
            message = "the profile has no host to log in to: set `host` in its [ssh] section"
            raise UsageError(message)
        self._ssh, self._host = ssh, ssh.host
        self._keepalive, self._back_off = keepalive_seconds, back_off_seconds
        self._ask = ask
        self._sessions = asyncio.Semaphore(SESSIONS)
        self._connecting = asyncio.Lock()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._relay: Relay | None = None
        self._starting_relay = asyncio.Lock()
        self._failures = 0
        self._not_before = 0.0
        self._why = ""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Output:
        """The environment travels on standard input, not on the command line, where others could read it."""
        command, given = _command(argv, environment or {}, stdin)
        opened = False
        process: asyncssh.SSHClientProcess[bytes] | None = None
        try:
            async with asyncio.timeout(timeout), self._sessions:
                connection = await self._connected()
                opened = True  # from here on the machine may have begun
                process = await connection.create_process(command, encoding=None)
                if not given:
                    process.stdin.write_eof()  # communicate() leaves it open
                stdout, stderr = await process.communicate(given)
        except TimeoutError:
            if not opened:
                raise Unreachable(self._said(f"no room for {argv[0]} in {timeout:g} s: nothing was run")) from None
            if process is not None:
                process.kill()
            message = f"{argv[0]} did not end in {timeout:g} s: whether it did its work is not known"
            raise Unconfirmed(self._said(message)) from None
        except asyncssh.ChannelOpenError as error:
            raise self._not_opened(argv[0], error) from error
        except (OSError, asyncssh.Error) as error:
            message = f"the connection was lost while {argv[0]} ran: whether it did its work is not known"
            raise Unconfirmed(self._said(message)) from error
        finally:
            if process is not None:
                process.close()
        if process.exit_signal:
            return Output(-_number(process.exit_signal[0]), _bytes(stdout), _bytes(stderr))
        if process.exit_status is None:
            message = f"the connection was lost while {argv[0]} ran: whether it did its work is not known"
            raise Unconfirmed(self._said(message))
        return Output(process.exit_status, _bytes(stdout), _bytes(stderr))

    async def put(self, path: PurePosixPath, data: bytes, *, mode: int = 0o600) -> None:
        """A transfer that was cut leaves at most a file with a temporary name."""
        temporary = str(path.parent / f".{path.name}.{secrets.token_hex(6)}")
        seconds = TRANSFER_SECONDS + len(data) / SLOWEST_BYTES_PER_SECOND
        async with self._files(f"cannot write {path}", changing=True, seconds=seconds) as files:
            await _make(files, str(path.parent))
            try:
                attributes = asyncssh.SFTPAttrs(permissions=0o600)
                async with files.open(temporary, "wb", attributes) as file:
                    await file.write(data)
                await files.chmod(temporary, mode)
                await files.posix_rename(temporary, str(path))
            except asyncssh.SFTPError:
                with contextlib.suppress(asyncssh.SFTPError):
                    await files.remove(temporary)
                raise

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
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

    async def open_connection(self, host: str, port: int) -> Streams:
        """By forwarding; where the SSH server forbids that, by a relay: one command on the login node for them all."""
        try:
            return await self._forwarded(f"{host}:{port}", lambda to: to.open_connection(host, port, encoding=None))
        except _Forbidden:
            return await self._relayed(host, port)

    async def open_unix_connection(self, path: PurePosixPath) -> Streams:
        return await self._forwarded(str(path), lambda to: to.open_unix_connection(str(path), encoding=None))

    async def _forwarded(self, what: str, opening: Callable[[asyncssh.SSHClientConnection], Awaitable[Any]]) -> Streams:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await self._connected()
                near, far = await _pair()
                try:
                    reader, writer = await opening(connection)
                except BaseException:
                    near[1].close()
                    far[1].close()
                    raise
        except TimeoutError:
            raise Unreachable(self._said(f"no connection to {what} in {CONNECT_SECONDS:g} s")) from None
        except asyncssh.ChannelOpenError as error:
            message = f"{self._host} cannot connect to {what}: {error.reason}"
            forbidden = error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
            raise (_Forbidden if forbidden else ConnectionRefusedError)(message) from error
        except asyncssh.Error as error:
            raise Unreachable(self._said(f"no connection to {what}: {error.reason}")) from error
        copying = asyncio.create_task(_relay((reader, writer), far))
        self._relays.add(copying)
        copying.add_done_callback(self._relays.discard)
        return near

    @property
    def relays(self) -> bool:
        """Whether connections go through the relay."""
        return self._relay is not None and not self._relay.over

    async def _relayed(self, host: str, port: int) -> Streams:
        near, far = await _pair()
        why = "it forwards no TCP, and the relay that is used instead"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await (await self._relay_there()).open(host, port, far)
        except BaseException as error:
            near[1].close()
            far[1].close()
            if isinstance(error, TimeoutError):
                message = self._said(f"{why} did not connect to {host}:{port} in {CONNECT_SECONDS:g} s")
                raise Unreachable(message) from None
            if isinstance(error, ConnectionResetError | BrokenPipeError | asyncssh.Error):
                raise Unreachable(self._said(f"{why} ended: it needs a python3 (3.6 or newer) there")) from error
            raise
        return near

    async def _relay_there(self) -> Relay:
        """The relay on the login node, started with the first connection that needs it."""
        async with self._starting_relay:
            if self._relay is None or self._relay.over:
                connection = await self._connected()
                process = await connection.create_process(f"exec {shlex.join(_RELAY)}", encoding=None)
                process.stdin.write(_RELAY_SOURCE.read_bytes() + b"\0")
                self._relay = Relay(process.stdout, process.stdin, (OSError, asyncssh.Error))
                running = asyncio.create_task(self._relay.run())
                self._relays.add(running)
                running.add_done_callback(self._relays.discard)
            return self._relay

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            await connection.wait_closed()
        relays = tuple(self._relays)
        for task in relays:
            task.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _connected(self) -> asyncssh.SSHClientConnection:
        """The shared connection. After a failed login the next is not tried at once: a site would ban us."""
        async with self._connecting:
            if self._connection is not None and not self._connection.is_closed():
                return self._connection
            self._connection = None
            if time.monotonic() < self._not_before:
                raise Unreachable(self._why)
            try:
                async with asyncio.timeout(TYPING_SECONDS if self._ask else CONNECT_SECONDS):
                    self._connection = await asyncssh.connect(self._host, **self._options())
            except (OSError, ValueError, asyncssh.Error) as error:
                self._not_before = time.monotonic() + self._back_off[min(self._failures, len(self._back_off) - 1)]
                self._failures += 1
                self._why = await self._cause(error)
                raise Unreachable(self._why) from error
            self._failures = 0
            self._ask = None  # nobody may be there when it is made again
            return self._connection

    def _options(self) -> dict[str, object]:
        """What the profile says; asyncssh reads the rest from ~/.ssh/config."""
        said: dict[str, object] = {
            "keepalive_interval": self._keepalive,
            "keepalive_count_max": KEEPALIVE_COUNT,
            "login_timeout": TYPING_SECONDS if self._ask else CONNECT_SECONDS,
        }
        if ask := self._ask:
            said["client_factory"] = lambda: _Asking(ask)
        if self._ssh.port is not None:
            said["port"] = self._ssh.port
        if self._ssh.user is not None:
            said["username"] = self._ssh.user
        if self._ssh.identity_file is not None:
            said["client_keys"] = [str(Path(self._ssh.identity_file).expanduser())]
        if self._ssh.known_hosts is not None:
            said["known_hosts"] = str(Path(self._ssh.known_hosts).expanduser())
        return said

    async def _cause(self, error: Exception) -> str:
        """Why nobody was logged in, and what to do about it."""
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return self._said(await self._about_its_key())
        if isinstance(error, asyncssh.PermissionDenied):
            return self._said(
                "it refused to log in: see that `ssh-add -l` lists your key, or set identity_file; where it wants a password "
                "or a code, start tokenstorm in a terminal, where it asks for them once"
            )
        if isinstance(error, TimeoutError):
            return self._said(f"no login in {CONNECT_SECONDS:g} s")
        return self._said(str(error))

    async def _about_its_key(self) -> str:
        """What to do about a host key that is not in known_hosts: the line to add, and by what to check it before."""
        file = self._ssh.known_hosts or "~/.ssh/known_hosts"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                key = await asyncssh.get_server_host_key(self._host, self._ssh.port or ())
        except (OSError, ValueError, asyncssh.Error):
            key = None
        if key is None:
            return f"its host key is not in {file}, or is another one"
        port = self._ssh.port or PORT
        name = self._host if port == PORT else f"[{self._host}]:{port}"
        line = f"{name} {key.export_public_key('openssh').decode().strip()}"
        return (
            f"its host key is not in {file}, or another one is, which may be an attack. If its fingerprint, "
            f"{key.get_fingerprint()}, is the one that the site publishes, add this line to {file} (and remove another of "
            f"that name): {line}"
        )

    @contextlib.asynccontextmanager
    async def _files(
        self, what: str, *, changing: bool = False, seconds: float = TRANSFER_SECONDS
    ) -> AsyncIterator[asyncssh.SFTPClient]:
        """An SFTP session, with its errors as ours. Whether something happened is unknown where it was to change."""
        opened = False
        try:
            async with asyncio.timeout(seconds), self._sessions:
                connection = await self._connected()
                async with connection.start_sftp_client() as files:
                    opened = changing
                    yield files
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise FileNotFoundError(f"{what}: {error.reason}") from error  # noqa: EM102
        except TimeoutError:
            message = self._said(f"{what} in {seconds:.0f} s")
            raise (Unconfirmed if opened else Unreachable)(message) from None
        except (OSError, asyncssh.Error) as error:
            lost = opened and (isinstance(error, _LOST) or not isinstance(error, asyncssh.SFTPError))
            raise (Unconfirmed if lost else Unreachable)(self._said(f"{what}: {error}")) from error

    def _not_opened(self, what: str, error: asyncssh.ChannelOpenError) -> Unreachable | Unconfirmed:
        """A refusal came from the machine; a channel that broke while it opened may have begun."""
        if self._connection is None or self._connection.is_closed():
            return Unconfirmed(self._said(f"the connection was lost as {what} started: it may have run"))
        return Unreachable(self._said(f"it opened no session for {what}: {error.reason}"))

    def _said(self, message: str) -> str:
        return f"{self._host}: {message}"


def _command(argv: Sequence[str], environment: Mapping[str, str], stdin: bytes) -> tuple[str, bytes]:
    """A command as text for the login shell, whatever shell that is, and its standard input."""
    if any("\0" in word for word in [*argv, *environment, *environment.values()]):
        message = f"{argv[0]!r} cannot be run with these arguments: embedded null byte"
        raise UsageError(message)
    for name in environment:
        if not (name.isascii() and name.isidentifier()):
            message = f"{name!r} cannot be the name of an environment variable"
            raise UsageError(message)
    if not environment:
        return "exec " + shlex.join(argv), stdin
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()).encode()
    script = 'eval "$(dd bs=1 count="$1" 2>/dev/null)"; shift; exec "$@"'
    return "exec " + shlex.join(["sh", "-c", script, "sh", str(len(exports)), *argv]), exports + stdin


async def _make(files: asyncssh.SFTPClient, folder: str) -> None:
    """Make a folder, and those above it that are missing, for this user alone."""
    if await files.isdir(folder):
        return
    if (above := posixpath.dirname(folder)) != folder:
        await _make(files, above)
    with contextlib.suppress(asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):  # another was quicker
        await files.mkdir(folder, asyncssh.SFTPAttrs(permissions=0o700))


async def _pair() -> tuple[Streams, Streams]:
    """Two ends of one pipe: what asyncssh opens is not an asyncio stream, and our callers want one."""
    one, other = socket.socketpair()
    return await asyncio.open_connection(sock=one), await asyncio.open_connection(sock=other)


async def _relay(tunnel: tuple[object, object], end: Streams) -> None:
    try:
        await asyncio.gather(_copy(tunnel[0], end[1]), _copy(end[0], tunnel[1]))
    finally:
        tunnel[1].close()  # type: ignore[attr-defined]
        end[1].close()
        with contextlib.suppress(OSError):
            await end[1].wait_closed()


async def _copy(source: object, target: object) -> None:
    try:
        while data := await source.read(65536):  # type: ignore[attr-defined]
            target.write(data)  # type: ignore[attr-defined]
            await target.drain()  # type: ignore[attr-defined]
        target.write_eof()  # type: ignore[attr-defined]
    except (OSError, asyncssh.Error):
        target.close()  # type: ignore[attr-defined]


def _number(name: str) -> int:
    return int(getattr(signal, f"SIG{name}", signal.SIGKILL))


def _bytes(data: object) -> bytes:
    assert isinstance(data, bytes)
    return data
