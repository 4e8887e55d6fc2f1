"""A login node behind SSH, by asyncssh: the first of two shells that get there.

One connection is made at the first use, shared by everything, and made again after it was lost. Keepalive is always on:
without it a frozen server would hang every command for ever. Every method has a deadline of its own.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

import asyncssh
from asyncssh.constants import OPEN_REQUEST_SESSION_FAILED

from tokenstorm.cluster.backoff import BACK_OFF_SECONDS, BackOff
from tokenstorm.cluster.reach import CONNECT_SECONDS, Forbidden, LostEarly
from tokenstorm.cluster.remote import Remote, Session
from tokenstorm.cluster.sessions import NoRoom, Place
from tokenstorm.cluster.sftp import BySftp, NoSftp, told_apart
from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.transfer import Files
from tokenstorm.config import Ssh
from tokenstorm.errors import Unreachable, UsageError

PORT = 22
KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 3
TYPING_SECONDS = 180.0

T = TypeVar("T")
Ask = Callable[[str, bool], str]
"""Asks the user: the prompt, and whether what is typed is shown. It blocks, and is called in a thread."""


async def typed(ask: Ask, prompt: str, shown: bool) -> str:  # noqa: FBT001 - as SSH servers say it of each prompt
    """What the user answers. A thread of its own, which nobody waits for: one who leaves at the prompt may leave."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def tell(said: str) -> None:
        if not answer.done():
            answer.set_result(said)

    def work() -> None:
        said = ask(prompt, shown)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, said)

    threading.Thread(target=work, daemon=True).start()
    return await answer


class _Asking(asyncssh.SSHClient):
    """Logs in with what the user types, where keys are not enough."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._left = 3

    def kbdint_auth_requested(self) -> str | None:
        return self._once("")

    async def kbdint_challenge_received(
        self, name: str, instructions: str, _lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str]:
        said = "".join(f"{text.strip()}\n" for text in (name, instructions) if text.strip())
        answers = []
        for text, shown in prompts:
            answers.append(await typed(self._ask, said + text, shown))
            said = ""
        return answers

    async def password_auth_requested(self) -> str | None:
        return None if self._once("") is None else await typed(self._ask, "Password: ", False)  # noqa: FBT003

    def _once(self, answer: str) -> str | None:
        self._left -= 1
        return answer if self._left >= 0 else None


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
        if not ssh.host:
            message = "the profile has no host to log in to: set `host` in its [ssh] section"
            raise UsageError(message)
        super().__init__(ssh.host, (OSError, asyncssh.Error), inside)
        self._ssh = ssh
        self._keepalive = keepalive_seconds
        self._ask = ask
        self._connecting = asyncio.Lock()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._back_off, self._back_off_apart = BackOff(back_off_seconds), BackOff(back_off_seconds)
        self._by_sftp = BySftp(partial(self._sessions.open, self._sftp), self._said, self._left)
        self.no_sftp = ""

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
            return Unreachable(self._said("its SSH server runs no commands for this account"))
        return NoRoom()

    def _another(self) -> Remote:
        other = SSHManager(self._ssh, keepalive_seconds=self._keepalive)
        other._back_off = self._back_off_apart
        return other

    async def _forward(self, host: str, port: int) -> Streams:
        what = f"{host}:{port}"
        connection = await self._connected()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                opening = asyncio.ensure_future(connection.open_connection(host, port, encoding=None))
                reader, writer = await _opened(opening, lambda streams: streams[1].close())
        except TimeoutError:
            raise Unreachable(self._said(f"no connection to {what} in {CONNECT_SECONDS:g} s")) from None
        except asyncssh.ChannelOpenError as error:
            if connection.is_closed():  # it was ours that was lost
                raise LostEarly(self._said(f"no connection to {what}: {error.reason}")) from error
            message = f"{self.host} cannot connect to {what}: {error.reason}"
            forbidden = error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
            raise (Forbidden if forbidden else ConnectionRefusedError)(message) from error
        except asyncssh.Error as error:
            raise Unreachable(self._said(f"no connection to {what}: {error.reason}")) from error

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
        await super().close()

    async def _doubt(self) -> None:
        """Keepalive sees to that."""

    async def _connected(self) -> asyncssh.SSHClientConnection:
        """The shared connection. After a failed login the next is not tried at once: a site would ban us."""
        async with self._connecting:
            if self._connection is not None and not self._connection.is_closed():
                return self._connection
            self._connection = None
            self._back_off.check()
            try:
                async with asyncio.timeout(TYPING_SECONDS if self._ask else CONNECT_SECONDS):
                    self._connection = await asyncssh.connect(self.host, **await self._options())
            except (OSError, ValueError, asyncssh.Error) as error:
                refused = isinstance(error, asyncssh.PermissionDenied)
                raise self._back_off.failed(await self._cause(error), refused=refused) from error
            self._back_off.succeeded()
            self._ask = None  # nobody may be there when it is made again
            return self._connection

    async def _options(self) -> dict[str, object]:
        """What the profile says; asyncssh reads the rest from ~/.ssh/config. Commands and terminals of there are not ours."""
        said: dict[str, object] = {
            "keepalive_interval": self._keepalive,
            "keepalive_count_max": KEEPALIVE_COUNT,
            "login_timeout": TYPING_SECONDS if self._ask else CONNECT_SECONDS,
            "command": None,
            "request_pty": False,
        }
        if ask := self._ask:
            said["client_factory"] = lambda: _Asking(ask)
        if self._ssh.port is not None:
            said["port"] = self._ssh.port
        if self._ssh.user is not None:
            said["username"] = self._ssh.user
        if self._ssh.known_hosts is not None:
            said["known_hosts"] = str(Path(self._ssh.known_hosts).expanduser())
        if self._ssh.identity_file is not None:
            said |= await self._identity(Path(self._ssh.identity_file).expanduser())
        return said

    async def _identity(self, file: Path) -> dict[str, object]:
        """That key alone, not all that the agent has: servers hear a few and no more. Its passphrase is asked for where
        no agent has it."""
        if not file.exists():
            raise Unreachable(self._said(f"the profile's ssh.identity_file, {file}, is not there"))
        said: dict[str, object] = {"client_keys": [str(file)]}
        try:
            key = asyncssh.read_public_key(Path(f"{file}.pub") if Path(f"{file}.pub").exists() else file)
        except (OSError, ValueError, asyncssh.KeyImportError):
            return said  # an old format, which hides its public part: whatever the agent has is tried too
        said["agent_identities"] = [key.public_data]
        try:
            asyncssh.read_private_key(file)
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):  # it has a passphrase
            if self._ask and not await _agent_has(key.public_data):
                said["passphrase"] = await typed(self._ask, f"Passphrase of {file}: ", False)  # noqa: FBT003
            else:
                said["client_keys"] = []
        return said

    async def _cause(self, error: Exception) -> str:
        """Why nobody was logged in, and what to do about it."""
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return self._said(await self._about_its_key(error))
        if isinstance(error, asyncssh.PermissionDenied):
            return self._said(about_a_refusal(self._ssh, self.host))
        if isinstance(error, TimeoutError):
            return self._said(f"no login in {TYPING_SECONDS if self._ask else CONNECT_SECONDS:g} s")
        if isinstance(error, OSError):
            return self._said(f"{error}: see ssh.host and ssh.port of the profile, and whether the network is there")
        return self._said(str(error))

    async def _about_its_key(self, error: asyncssh.HostKeyNotVerifiable) -> str:
        """What to do about a host key that is not in known_hosts: the line to add, and by what to check it before."""
        file = self._ssh.known_hosts or "~/.ssh/known_hosts"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                key = await asyncssh.get_server_host_key(self.host, self._ssh.port or ())
                there = await asyncssh.SSHClientConnectionOptions.construct(
                    config=(), host=self.host, port=self._ssh.port or ()
                )
        except (OSError, ValueError, asyncssh.Error):
            key = None
        if key is None:  # that of a jump host, perhaps
            return f"its host key, or that of a host on the way, is not in {file}, or is another one: {error.reason}"
        name = there.host_key_alias or there.host  # by which an alias is looked for
        if there.port != PORT and not there.host_key_alias:
            name = f"[{name}]:{there.port}"
        return about_its_key(file, f"{name} {key.export_public_key('openssh').decode().strip()}", key.get_fingerprint())

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


def about_a_refusal(ssh: Ssh, host: str) -> str:
    """What to tell of a login that was refused: who asked, by what, and what to do."""
    who = f"{ssh.user} was" if ssh.user else "you were"
    by = f"by {ssh.identity_file} alone, the profile's ssh.identity_file" if ssh.identity_file else "by your keys"
    see = (
        "see that it is the right one"
        if ssh.identity_file
        else "see that `ssh-add -l` lists the right one, or set ssh.identity_file"
    )
    return (
        f"it refused to log in: {who} not let in {by}; {see}, that ssh.user is, and that `ssh {host}` gets in; where it wants a "
        "password or a code, start tokenstorm in a terminal, where it asks for them once"
    )


def about_its_key(file: str, line: str, fingerprint: str) -> str:
    """What to tell of a host whose key is not known: the line that says it, and what to hold it against."""
    return (
        f"its host key is not in {file}, or another one is, which may be an attack. If its fingerprint, "
        f"{fingerprint}, is the one that the site publishes, add this line to {file} (and remove another of "
        f"that name): {line}"
    )


async def _agent_has(public: bytes) -> bool:
    """Whether the user's agent logs in with that key."""
    try:
        agent = await asyncssh.connect_agent()
        try:
            return bool(await agent.get_keys([public]))
        finally:
            agent.close()
            await agent.wait_closed()
    except (OSError, ValueError, asyncssh.Error):
        return False
