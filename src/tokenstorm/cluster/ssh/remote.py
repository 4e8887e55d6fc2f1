"""A machine behind SSH: what is the same for every program that logs in there.

`SSHManager` and `OpenSSH` say how to log in, how a session is opened, and how a connection is forwarded. Here stands what
they make of it: commands that are run once or not at all, and connections that find their way to a node.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import httpx

from tokenstorm.cluster.http import transport
from tokenstorm.cluster.shell import Output, Streams
from tokenstorm.cluster.ssh.command import Command, once, talking
from tokenstorm.cluster.ssh.files import LOGS, fetch_new
from tokenstorm.cluster.ssh.reach import CONNECT_SECONDS, LostEarly, Reach, pair
from tokenstorm.cluster.ssh.relay import hung_up
from tokenstorm.cluster.ssh.sessions import COUNTED, NoRoom, Place, Sessions
from tokenstorm.cluster.ssh.transfer import ByCommands, Leftovers
from tokenstorm.errors import CommandFailed, Unconfirmed, Unreachable

KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 3
"""After so many silent seconds a keepalive is sent; after so many without an answer the connection is given up."""
OUTPUT_BYTES = 64 * 2**20
"""The most that a command may print."""
_READ = 65536
T = TypeVar("T")


class Session(Protocol):
    """One command on its way, as asyncio's processes and those of asyncssh both have it."""

    @property
    def stdin(self) -> Any: ...

    @property
    def stdout(self) -> Any: ...

    @property
    def stderr(self) -> Any: ...


class Remote(ABC):
    """The shell of a machine behind SSH. `host` names it in what is said; `lost` are the errors of a connection that broke."""

    def __init__(self, host: str, lost: tuple[type[Exception], ...], inside: Sequence[str] | None) -> None:
        self.host = host
        self._lost = lost
        self._closed: tuple[type[Exception], ...] = (*lost, RuntimeError)  # uvloop's, for a pipe that is closed
        self._sessions = Sessions()
        self._left = Leftovers()
        self._by_commands = ByCommands(self.run, host, self._left)
        self.no_sftp = ""
        """Why files go by commands where they might go by SFTP; empty where they do, or may yet."""
        self._carrying: set[asyncio.Task[None]] = set()
        self.reach = Reach(self.login, self._forward, self._talk, lost, inside)

    @abstractmethod
    async def login(self) -> None:
        """See that there is a connection. Raises `Unreachable`, and says what to do."""

    @abstractmethod
    def _session(self, line: str, place: Place) -> AbstractAsyncContextManager[Session]:
        """A session in which the login shell runs that line. Raises NoRoom, Unreachable, and what is in `lost`."""

    @abstractmethod
    def _another(self) -> "Remote":
        """The same machine, by another login, for which the user is not asked."""

    @abstractmethod
    async def _forward(self, host: str, port: int) -> Streams:
        """A connection forwarded by the SSH server. Raises `Forbidden` when the server may be forwarding nothing."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Output:
        """A command that a signal ended has the status 128 plus the signal's number. The deadline starts after the login."""
        command = once(argv, environment or {}, timeout)
        return await self._retry_once(lambda: self._run(argv, command, stdin, timeout))

    async def _retry_once(self, work: Callable[[], Awaitable[T]]) -> T:
        """Retry once if the connection broke before the command started; a dead connection often shows only on use."""
        try:
            return await work()
        except LostEarly:
            await self._doubt()
            return await work()

    async def _run(self, argv: Sequence[str], command: Command, stdin: bytes, timeout: float) -> Output:
        begun = False
        await self.login()
        try:
            async with asyncio.timeout(timeout), self._begun(command) as session:
                begun = True
                stdout, stderr = await self._exchange(session, command.script + stdin)
        except TimeoutError:
            await self._doubt()
            if not begun:
                message = f"{argv[0]} was not begun in {timeout:g} s{self._few(': its SSH server gives')}"
                raise Unreachable(self._with_host(message)) from None
            message = f"{argv[0]} did not end in {timeout:g} s: whether it did its work is not known"
            raise Unconfirmed(self._with_host(message)) from None
        except self._lost as error:
            if not begun:
                raise self._lost_early() from error
            raise self._broke_off(argv) from error
        answer = command.answer(stdout, stderr)
        if answer is None:
            raise self._broke_off(argv)
        return answer

    async def execute_remote_command(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> bytes:
        """A command's output. Raises CommandFailed when it fails."""
        done = await self.run(argv, stdin=stdin, timeout=timeout)
        if done.status:
            raise CommandFailed(argv, done.status, done.stdout, done.stderr)
        return done.stdout

    async def http_request_via_ssh(
        self,
        method: str,
        url: str,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> httpx.Response:
        """One request to an address as the cluster sees it, and its whole answer. Raises httpx's errors, and the shell's."""
        async with httpx.AsyncClient(transport=transport(self), trust_env=False, timeout=timeout) as client:
            return await client.request(method, url, content=content, headers=headers)

    async def sync_logs_from_remote(self, folder: PurePosixPath, home: Path, names: Sequence[str] = LOGS) -> None:
        """Fetch what is new in growing files; files that do not exist yet are left out."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                await fetch_new(self, folder / name, home / name)

    async def open_connection(self, host: str, port: int) -> Streams:
        return await self._retry_once(lambda: self.reach.open(host, port))

    async def open_unix_connection(self, path: PurePosixPath) -> Streams:
        return await self._retry_once(lambda: self.reach.open_unix(path))

    async def put(self, path: PurePosixPath, data: bytes, *, mode: int = 0o600) -> None:
        await self._by_commands.put(path, data, mode)

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        return await self._by_commands.get(path, offset, limit)

    async def list(self, path: PurePosixPath) -> list[str]:
        return await self._by_commands.list(path)

    async def remove(self, path: PurePosixPath) -> None:
        await self._by_commands.remove(path)

    async def close(self) -> None:
        await self.reach.close()
        carrying = tuple(self._carrying)
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
        await self._sessions.close()

    @abstractmethod
    async def _doubt(self) -> None:
        """A command got no answer in time: check that the connection still works."""

    def _never_begun(self, said: str) -> Exception:
        """The error for a session that ended before its shell asked for the command; `said` is what it printed instead."""
        if not said:
            return self._lost_early()
        return Unreachable(self._with_host(f"its login shell runs no commands: {said}"))

    @asynccontextmanager
    async def _talk(self, argv: Sequence[str]) -> AsyncIterator[Session]:
        """A command that stays open, to exchange data with."""
        command = talking(argv)
        async with self._staying(command) as session:
            session.stdin.write(command.script)
            await session.stdin.drain()
            yield session

    @asynccontextmanager
    async def _staying(self, command: Command) -> AsyncIterator[Session]:
        """A session that stays. Where it would leave no room for others, it gets a login of its own."""
        trial = once(["true"], {}, CONNECT_SECONDS)
        async with self._sessions.stay(partial(self._tried, command), partial(self._tried, trial)) as session:
            if session is not None:
                yield session
                return
        other = self._another()
        try:
            try:
                await other.login()
            except Unreachable as error:
                message = f"what stays needs a login of its own{self._few(', since its SSH server gives')}: {error}"
                raise Unreachable(self._with_host(message)) from error
            async with other._begun(command) as session:  # noqa: SLF001 - of our own kind
                yield session
        finally:
            await other.close()

    async def count_sessions(self) -> int:
        """How many sessions the server gives at once, up to COUNTED. Raises `Unreachable`."""
        command = once(["true"], {}, CONNECT_SECONDS)
        await self.login()
        try:
            async with contextlib.AsyncExitStack() as stack:
                for there in range(COUNTED):
                    try:
                        await stack.enter_async_context(self._begun(command, wait=False))
                    except NoRoom:
                        return max(there, 1)
        except self._lost as error:
            raise self._lost_early() from error
        return COUNTED

    def _begun(self, command: Command, *, wait: bool = True) -> AbstractAsyncContextManager[Session]:
        """A session in which a shell waits for the command's script, once there is room for one."""
        return self._sessions.open(partial(self._tried, command), wait=wait)

    @asynccontextmanager
    async def _tried(self, command: Command, place: Place) -> AsyncIterator[Session]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    session = await stack.enter_async_context(self._session(command.line, place))
                    await self._skip_greeting(session, command.mark)
            except TimeoutError:
                raise LostEarly(self._with_host(f"no session in {CONNECT_SECONDS:g} s")) from None
            yield session

    async def _skip_greeting(self, session: Session, mark: bytes) -> None:
        """Skip what a site's start-up files print, up to the mark."""
        try:
            await session.stdout.readuntil(mark + b"\n")
        except asyncio.IncompleteReadError as end:
            said = end.partial + await session.stderr.read()
            raise self._never_begun(" ".join(said.decode(errors="replace").split())) from None
        except asyncio.LimitOverrunError:
            raise Unreachable(self._with_host("its login shell talks without end, and runs no command")) from None

    async def _exchange(self, session: Session, given: bytes) -> tuple[bytes, bytes]:
        """Give a command its input, and take all that it says."""

        async def give() -> None:
            with contextlib.suppress(OSError, RuntimeError):  # it ended before it read all; uvloop's is a RuntimeError
                session.stdin.write(given)
                await session.stdin.drain()
                session.stdin.write_eof()

        giving = asyncio.create_task(give())
        hearing = [asyncio.create_task(self._all_of(stream)) for stream in (session.stdout, session.stderr)]
        try:
            await asyncio.gather(giving, *hearing)
        finally:
            for task in (giving, *hearing):
                task.cancel()
            await asyncio.wait((giving, *hearing))  # they read the streams of the session until it ends
        return hearing[0].result(), hearing[1].result()

    async def _all_of(self, stream: Any) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := await stream.read(_READ):
            parts.append(part)
            size += len(part)
            if size > OUTPUT_BYTES:
                message = f"a command said more than {OUTPUT_BYTES // 2**20} MB and was given up: whether it did its work is not known"
                raise Unconfirmed(self._with_host(message))
        return b"".join(parts)

    async def _carried(self, reader: Any, writer: Any, end: Callable[[], Awaitable[None]]) -> Streams:
        """Asyncio's streams for a reader and a writer of another kind. `end` is called when both sides are done, or our side has hung up."""
        try:
            near, far = await pair()
        except BaseException:
            await end()
            raise

        async def carry() -> None:
            down = asyncio.create_task(self._copy(reader, far[1]))
            try:
                await self._copy(far[0], writer)
                if not hung_up(far[1]):
                    await down
            finally:
                down.cancel()
                far[1].close()
                try:
                    await asyncio.wait((down,))
                finally:
                    ending = asyncio.ensure_future(end())
                    try:
                        await asyncio.wait((ending,))
                    finally:  # also when the shell is closed meanwhile: else a process is left to nobody
                        await ending
                with contextlib.suppress(OSError):
                    await far[1].wait_closed()

        carrying = asyncio.create_task(carry())
        self._carrying.add(carrying)
        carrying.add_done_callback(self._carrying.discard)
        return near

    async def _copy(self, source: Any, target: Any) -> None:
        try:
            while data := await source.read(_READ):
                target.write(data)
                await target.drain()
            target.write_eof()
        except self._closed:
            target.close()

    def _few(self, lead: str) -> str:
        """In words, how few sessions the server gives; empty where it gives enough."""
        given = self._sessions.given
        return "" if given is None else f"{lead} {given} session{'s' * (given > 1)} at a time (MaxSessions)"

    def _lost_early(self) -> LostEarly:
        return LostEarly(self._with_host("the connection was lost before the command was begun"))

    def _broke_off(self, argv: Sequence[str]) -> Unconfirmed:
        return Unconfirmed(
            self._with_host(f"the connection was lost while {argv[0]} ran: whether it did its work is not known")
        )

    def _with_host(self, message: str) -> str:
        return f"{self.host}: {message}"
