"""How sessions are shared out, against a server that gives so many and refuses the rest."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tokenstorm.cluster.ssh import sessions
from tokenstorm.cluster.ssh.sessions import BELIEVED_SECONDS, SESSIONS, NoRoom, Opening, Place, Sessions
from waiting import finish, until

TRIES = len(BELIEVED_SECONDS) + 1


class Server:
    """Gives `most` at once; `refused` counts those who asked in vain. What is closed is free a moment later."""

    def __init__(self, most: int) -> None:
        self.most, self.open, self.refused, self.peak = most, 0, 0, 0

    @asynccontextmanager
    async def session(self, place: Place) -> AsyncIterator[int]:
        await asyncio.sleep(0)
        if self.open >= self.most:
            self.refused += 1
            raise NoRoom
        self.open += 1
        self.peak = max(self.peak, self.open)
        over = asyncio.Event()
        place.until(self._close(over))
        try:
            yield self.open
        finally:
            over.set()

    async def _close(self, over: asyncio.Event) -> None:
        await over.wait()
        await asyncio.sleep(0.001)
        self.open -= 1


async def work(shared: Sessions, server: Server) -> None:
    await work_in(shared, server.session)


async def work_in(shared: Sessions, opening: Opening[int]) -> None:
    async with shared.open(opening):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("most", [1, 2, 3, 10])
def test_all_get_their_turn_and_once_it_is_known_how_many_there_are_nobody_asks_in_vain(most: int) -> None:
    async def scenario() -> None:
        shared, server = Sessions(), Server(most)
        in_vain = TRIES * max(0, SESSIONS - most)

        async def until_it_is_known() -> None:
            async with shared.open(server.session):
                await until(lambda: server.refused >= in_vain)

        await asyncio.gather(*(until_it_is_known() for _ in range(50)))
        assert server.peak == min(most, SESSIONS)
        assert shared.given == (most if most < SESSIONS else None)
        assert server.refused == in_vain
        before = server.refused
        await asyncio.gather(*(work(shared, server) for _ in range(50)))
        assert server.refused == before

    finish(scenario())


def test_what_gives_more_room_later_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another, who shares the login, has gone."""

    async def scenario() -> None:
        shared, server = Sessions(), Server(1)
        await asyncio.gather(*(work(shared, server) for _ in range(10)))
        server.most = 10
        monkeypatch.setattr(sessions, "MORE_SECONDS", 0.0)
        await asyncio.gather(*(work(shared, server) for _ in range(100)))
        assert shared.given is None

    finish(scenario())


def test_one_that_stays_leaves_room_or_is_told_that_there_is_none() -> None:
    async def scenario() -> None:
        shared, server = Sessions(), Server(2)
        async with shared.stay(server.session, server.session) as stays:
            assert stays
            async with shared.stay(server.session, server.session) as another:
                assert another is None
            await asyncio.gather(*(work(shared, server) for _ in range(5)))
        async with shared.stay(server.session, server.session) as stays:
            assert stays

    finish(scenario())


@pytest.mark.parametrize("most", [1, 2])
def test_one_that_ended_unseen_is_no_proof_that_there_is_room_beside_one_that_stays(most: int) -> None:
    """As on a busy machine: the next one is open before we hear that the one before is closed."""

    async def scenario() -> None:
        shared, server, unseen = Sessions(), Server(most), asyncio.Event()

        @asynccontextmanager
        async def ends_unseen(place: Place) -> AsyncIterator[int]:
            async with server.session(Place()) as number:
                yield number
            await until(lambda: not server.open)
            unseen.set()
            await asyncio.sleep(0.3)

        ending = asyncio.create_task(work_in(shared, ends_unseen))
        await unseen.wait()
        async with shared.stay(server.session, server.session) as stays:
            assert (stays is not None) == (most > 1)
            await work(shared, server)
        await ending

    finish(scenario())


def test_one_stays_beside_a_long_command_that_takes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "AGAIN_SECONDS", (0.01, 0.02))

    async def scenario() -> None:
        shared, server = Sessions(), Server(2)
        async with shared.open(server.session), shared.stay(server.session, server.session) as stays:
            assert stays

    finish(scenario())


def test_who_waits_and_gives_up_takes_no_place() -> None:
    async def scenario() -> None:
        shared, server = Sessions(), Server(1)
        async with shared.open(server.session):
            waiting = [asyncio.create_task(work(shared, server)) for _ in range(20)]
            await until(lambda: server.refused >= TRIES)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
        await asyncio.gather(*(work(shared, server) for _ in range(5)))
        assert server.peak == 1

    finish(scenario())
