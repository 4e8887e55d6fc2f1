"""Which way to a node is taken: here both ends are this machine, and the relay is a process of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.ssh.reach import SOURCE, Forbidden, Reach
from tokenstorm.errors import Unreachable
from waiting import finish

pytestmark = pytest.mark.integration


class Roads:
    """A login node whose forwarding raises `trouble`, or waits for ever (`silent`); `relays` are the processes that it started."""

    def __init__(self, trouble: Exception | None = None, *, silent: bool = False) -> None:
        self.trouble, self.silent = trouble, silent
        self.relays: list[asyncio.subprocess.Process] = []
        self.leaves_slowly, self.waits = False, 0
        self.reach = Reach(self.login, self.forward, self.talk, (OSError,), (sys.executable, "-c", SOURCE))

    async def login(self) -> None:
        """It needs none."""

    async def forward(self, host: str, port: int) -> Streams:
        if self.silent:
            self.waits += 1
            try:
                await asyncio.Event().wait()
            finally:
                if self.leaves_slowly:  # as one that ends a process of its own: this ends after the relay
                    await self.relays[0].wait()
                    for _ in range(100):
                        await asyncio.sleep(0)
                self.waits -= 1
        if self.trouble:
            raise self.trouble
        return await asyncio.open_connection(host, port)

    @asynccontextmanager
    async def talk(self, argv: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)
        self.relays.append(process)
        try:
            yield process
        finally:
            if process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
            await process.communicate()


@asynccontextmanager
async def hello() -> AsyncIterator[int]:
    """A server that says one word; its port."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def heard(reach: Reach, port: int) -> bytes:
    reader, writer = await reach.open("127.0.0.1", port)
    said = await reader.read()
    writer.close()
    return said


@pytest.mark.parametrize("trouble", [ConnectionRefusedError("no"), OSError("no route"), Unreachable("no")])
def test_where_the_login_node_does_not_get_through_a_job_does_and_goes_first_from_then_on(trouble: Exception) -> None:
    async def scenario() -> None:
        roads = Roads(trouble)
        async with hello() as port:
            assert await heard(roads.reach, port) == b"hello"
            assert roads.reach.way == "by a relay beside a job"
            roads.silent = True
            assert await heard(roads.reach, port) == b"hello"
            assert len(roads.relays) == 1
            os.kill(roads.relays[0].pid, signal.SIGKILL)  # its job ended, and nodes are reached again
            await roads.relays[0].wait()
            roads.trouble, roads.silent = None, False
            assert await heard(roads.reach, port) == b"hello"
        await roads.reach.close()

    finish(scenario())


def test_a_way_that_is_silent_is_not_waited_for() -> None:
    async def scenario() -> None:
        roads = Roads(silent=True)
        async with hello() as port:
            assert await heard(roads.reach, port) == b"hello"
        await roads.reach.close()

    finish(scenario())


def test_who_closes_it_waits_for_the_end_of_the_way_that_was_not_taken() -> None:
    async def scenario() -> None:
        roads = Roads(silent=True)
        roads.leaves_slowly = True
        async with hello() as port:
            assert await heard(roads.reach, port) == b"hello"
            roads.silent = False
            await roads.reach.close()
            assert roads.waits == 0

    finish(scenario())


def test_where_forwarding_works_nothing_is_started() -> None:
    async def scenario() -> None:
        roads = Roads()
        async with hello() as port:
            assert await heard(roads.reach, port) == b"hello"
            assert (roads.reach.way, roads.relays) == ("through the login node", [])
        await roads.reach.close()

    finish(scenario())


def test_where_nobody_listens_that_is_what_is_said_by_whichever_way() -> None:
    async def scenario() -> None:
        async with hello() as port:
            pass
        for roads in (Roads(), Roads(Forbidden("nothing is forwarded"))):
            with pytest.raises(ConnectionRefusedError):
                await roads.reach.open("127.0.0.1", port)
            await roads.reach.close()

    finish(scenario())
