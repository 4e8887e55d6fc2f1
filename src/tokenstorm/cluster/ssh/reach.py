"""The ways to a compute node through a login node, and which of them works.

From the login node: the SSH server forwards, or where it does not, one command there carries all connections. From inside
the cluster: the same command, beside one of our jobs, for sites whose login node reaches no compute node.
"""

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import PurePosixPath
from typing import Any

from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.ssh import relay
from tokenstorm.cluster.ssh.relay import Relay
from tokenstorm.errors import ClusterError, Unreachable

CONNECT_SECONDS = 20.0
HEAD_START_SECONDS = 2.0
"""How long the first way is tried alone."""
INSIDE_SECONDS = 60.0
"""How long the way from inside a job is tried first, once only it worked. It costs that job CPU time, so not for ever."""
AGAIN_SECONDS = 30.0
"""How long a relay that could not be started is not tried again."""
SOURCE = inspect.getsource(relay)
ON_LOGIN_NODE = ("python3", "-c", SOURCE)


class Forbidden(ConnectionRefusedError):
    """The SSH server forwards nothing, or not to that address, or nobody listens there: it does not tell which."""


class LostEarly(Unreachable):
    """The connection to the login node broke before anything was begun."""


class NoRelay(Unreachable):
    """The relay cannot be started there and said why: trying again would not help."""


Opening = Callable[[str, int], Awaitable[Streams]]
Talk = Callable[[Sequence[str]], AbstractAsyncContextManager[Any]]


class Reach:
    """Connections through a login node. `inside` is the command that runs the relay beside a job of ours, where there are jobs."""

    def __init__(
        self,
        login: Callable[[], Awaitable[None]],
        forward: Opening,
        talk: Talk,
        lost: tuple[type[Exception], ...],
        inside: Sequence[str] | None,
    ) -> None:
        self._login, self._forward = login, forward
        self._on_login_node = Through("the relay on the login node", talk, ON_LOGIN_NODE, lost)
        self._inside = Through("the relay inside a job", talk, inside, lost) if inside else None
        self._forwards = True
        self._from_inside_until = 0.0
        self._left: set[asyncio.Task[Streams]] = set()
        """Ways that were not taken: each may still be ending a process of its own."""

    async def open(self, host: str, port: int) -> Streams:
        """Try the way from the login node first, unless only the way from inside a job worked shortly before.

        Raises OSError when nobody listens there or it cannot be reached, and Unreachable.
        """
        await self._login()
        if self._inside is None:
            return await self.from_login_node(host, port)
        now = asyncio.get_running_loop().time()
        ways = [self.from_login_node, self._inside.open]
        streams, way = await self._first(ways if now > self._from_inside_until else ways[::-1], host, port)
        if way == self._inside.open:
            if now > self._from_inside_until:
                self._from_inside_until = now + INSIDE_SECONDS
        else:
            self._from_inside_until = 0.0
        return streams

    async def open_unix(self, path: PurePosixPath) -> Streams:
        """A unix socket of the login node."""
        await self._login()
        return await self._on_login_node.open(str(path), 0)

    async def from_login_node(self, host: str, port: int) -> Streams:
        """By forwarding; where the SSH server forwards nothing, by the relay, which is then kept in use."""
        if self._forwards:
            try:
                return await self._forward(host, port)
            except Forbidden as error:
                try:
                    streams = await self._on_login_node.open(host, port)
                except NoRelay as no_relay:
                    message = f"{error}; {no_relay}; the relay needs a python3 (3.6 or newer) there"
                    raise ConnectionRefusedError(message) from error
                self._forwards = False
                return streams
        return await self._on_login_node.open(host, port)

    async def by_relay(self, host: str, port: int) -> Streams:
        """By the command on the login node, whether or not the SSH server forwards."""
        return await self._on_login_node.open(host, port)

    async def from_inside(self, host: str, port: int) -> Streams:
        """From beside a job of ours."""
        if self._inside is None:
            message = "no jobs run there: it is no cluster with Slurm"
            raise Unreachable(message)
        return await self._inside.open(host, port)

    @property
    def way(self) -> str:
        """By which way connections go now, in words."""
        if self._from_inside_until:
            return "by a relay beside a job"
        return (
            "through the login node"
            if self._forwards
            else "by a relay on the login node, whose SSH server forwards nothing"
        )

    async def close(self) -> None:
        """End the relays, and see the end of the ways that were not taken."""
        await self._on_login_node.close()
        if self._inside:
            await self._inside.close()
        if self._left:
            await asyncio.wait(self._left)

    async def _first(self, ways: Sequence[Opening], host: str, port: int) -> tuple[Streams, Opening]:
        """The first connection that any way gets. Each way is begun when the one before it failed, or had its head start.

        Raises the error of a way that was answered, before that of one that was not.
        """
        trying: dict[asyncio.Task[Streams], Opening] = {}
        try:
            waiting = list(ways)
            while waiting or any(not task.done() for task in trying):
                if waiting:
                    way = waiting.pop(0)
                    trying[asyncio.ensure_future(way(host, port))] = way
                under_way = [task for task in trying if not task.done()]
                limit = HEAD_START_SECONDS if waiting else None
                done, _ = await asyncio.wait(under_way, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not task.exception():
                        return task.result(), trying.pop(task)
            errors = [error for task in trying if (error := task.exception())]
            raise next((error for error in errors if isinstance(error, OSError)), errors[0])
        finally:
            for task in trying:
                task.cancel()
                self._left.add(task)
                task.add_done_callback(self._left.discard)
                task.add_done_callback(_close_unwanted)


class Through:
    """One relay: started for the first connection that needs it, and started again after its end."""

    def __init__(self, name: str, talk: Talk, argv: Sequence[str], lost: tuple[type[Exception], ...]) -> None:
        self._name, self._talk, self._argv, self._lost = name, talk, argv, lost
        self._ended: tuple[type[Exception], ...] = (ClusterError, *lost)
        self._running: asyncio.Task[None] | None = None
        self._relay: asyncio.Future[Relay] | None = None
        self._why, self._not_before = "", 0.0

    async def open(self, host: str, port: int) -> Streams:
        """Port 0 is that of a unix socket, whose path is `host`. Raises OSError when nobody listens there, and Unreachable."""
        near, far = await pair()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                running = await self._running_relay()
                await running.open(host, port, far)
        except BaseException as error:
            near[1].close()
            far[1].close()
            if isinstance(error, TimeoutError):
                message = f"{self._name} did not connect to {host}:{port} in {CONNECT_SECONDS:g} s"
                raise Unreachable(message) from None
            if isinstance(error, ConnectionResetError | BrokenPipeError):
                message = f"{self._name} ended as it connected to {host}:{port}"
                raise LostEarly(message) from error
            raise
        return near

    async def close(self) -> None:
        """End it, and its connections."""
        if self._running:
            self._running.cancel()
            await asyncio.wait((self._running,))

    async def _running_relay(self) -> Relay:
        """The relay, started if need be: in a task of its own, so that a caller that gives up does not end it for others."""
        if self._running is None or self._running.done():
            loop = asyncio.get_running_loop()
            if loop.time() < self._not_before:
                raise NoRelay(self._why)
            self._relay = loop.create_future()
            self._relay.add_done_callback(lambda done: done.exception())  # whether or not anybody still asks
            self._running = asyncio.create_task(self._run(self._relay))
        assert self._relay is not None, "made with the task"
        return await asyncio.shield(self._relay)

    async def _run(self, started: "asyncio.Future[Relay]") -> None:
        why: Unreachable = Unreachable(f"{self._name} was ended")
        try:
            async with self._talk(self._argv) as session:
                try:
                    await session.stdout.readuntil(relay.HELLO)
                except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    said = (await session.stderr.read()).decode(errors="replace").strip()
                    message = f"{self._name} did not start: {said or 'the connection was lost'}"
                    why = LostEarly(message)
                    if said:
                        why = NoRelay(message)
                        self._why, self._not_before = message, asyncio.get_running_loop().time() + AGAIN_SECONDS
                    return
                there = Relay(session.stdout, session.stdin, self._lost)
                started.set_result(there)
                await there.run()
        except self._ended as error:
            lost = isinstance(error, (LostEarly, *self._lost))
            why = (LostEarly if lost else Unreachable)(f"{self._name} did not start: {error}")
        finally:
            if not started.done():
                started.set_exception(why)


def _close_unwanted(task: "asyncio.Task[Streams]") -> None:
    """Close a connection that was made after another way had won."""
    if not task.cancelled() and not task.exception():
        task.result()[1].close()


async def pair() -> tuple[Streams, Streams]:
    """Two connected pairs of asyncio's streams, to stand in for what is no stream of asyncio."""
    one, other = socket.socketpair()
    try:
        near = await asyncio.open_connection(sock=one)
        try:
            return near, await asyncio.open_connection(sock=other)
        except BaseException:
            near[1].close()
            raise
    except BaseException:
        other.close()
        raise
