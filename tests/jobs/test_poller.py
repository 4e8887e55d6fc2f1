"""One question for all that a site has: who asks, who shares the answer, and who needs one of his own."""

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from typing import Any

import pytest

from orchestrating import HandScheduler
from tokenstorm.cluster.scheduler import JobId, JobState, Sent
from tokenstorm.errors import Unreachable
from tokenstorm.jobs.poller import Poller

ONE, TWO = {"1": Sent("one")}, {"2": Sent("two")}
RUNNING = JobState("running")


class SlowScheduler(HandScheduler):
    """Answers when it is let, and takes as long as that to give up."""

    def __init__(self) -> None:
        super().__init__()
        self.state = {"1": RUNNING, "2": RUNNING}
        self.answers = asyncio.Event()
        self.answers.set()
        self.ends = asyncio.Event()
        self.ends.set()

    async def states(self, ids: Collection[JobId], sent: Mapping[JobId, Sent] | None = None) -> dict[JobId, JobState]:
        found = await super().states(ids, sent)
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            await self.ends.wait()
            raise
        return found


def finish(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


def test_an_answer_that_one_keeper_asked_for_serves_the_others_and_is_about_the_jobs_of_all() -> None:
    async def scenario() -> None:
        scheduler = SlowScheduler()
        poller = Poller(scheduler)
        groups, services = poller.watch(), poller.watch()
        await groups.states(ONE)
        for _ in range(3):
            assert await services.states(TWO) == {"2": RUNNING}
            assert await groups.states(ONE) == {"1": RUNNING}
        assert scheduler.questions == [{"1"}, {"1", "2"}, {"1", "2"}, {"1", "2"}]
        assert scheduler.known_by == ONE | TWO

    finish(scenario())


def test_what_has_just_been_done_about_a_job_is_asked_for_anew_and_not_read_from_an_answer_that_is_under_way() -> None:
    async def scenario() -> None:
        scheduler = SlowScheduler()
        poller = Poller(scheduler)
        groups, services = poller.watch(), poller.watch()
        scheduler.answers.clear()
        earlier = asyncio.create_task(services.states(TWO))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended = scheduler.state["1"] = JobState("ended", "cancelled")
        fresh = asyncio.create_task(groups.states(ONE, fresh=True))
        await asyncio.sleep(0)
        scheduler.answers.set()
        assert await fresh == {"1": ended}
        assert await earlier == {"2": RUNNING}
        assert scheduler.questions == [{"2"}, {"1", "2"}]

    finish(scenario())


def test_a_scheduler_that_fails_is_told_to_whoever_asked_and_the_next_question_is_a_new_one() -> None:
    async def scenario() -> None:
        scheduler = SlowScheduler()
        poller = Poller(scheduler)
        groups, services = poller.watch(), poller.watch()
        scheduler.trouble = Unreachable("no way")
        both = await asyncio.gather(groups.states(ONE), services.states(TWO), return_exceptions=True)
        assert [str(one) for one in both] == ["no way", "no way"]
        scheduler.trouble = None
        assert await groups.states(ONE) == {"1": RUNNING}

    finish(scenario())


def test_a_keeper_that_gives_up_waiting_or_ends_takes_no_answer_from_the_others() -> None:
    async def scenario() -> None:
        scheduler = SlowScheduler()
        poller = Poller(scheduler)
        groups, services = poller.watch(), poller.watch()
        scheduler.answers.clear()
        impatient = asyncio.create_task(services.states(TWO))
        await asyncio.sleep(0)
        patient = asyncio.create_task(groups.states(ONE))
        await asyncio.sleep(0)
        impatient.cancel()
        await services.close()
        scheduler.answers.set()
        assert await patient == {"1": RUNNING}
        assert scheduler.questions[-1] == {"1"}
        with pytest.raises(asyncio.CancelledError):
            await impatient

    finish(scenario())


def test_after_the_last_keeper_nothing_is_asked_until_one_comes_back() -> None:
    async def scenario() -> None:
        scheduler = SlowScheduler()
        groups = Poller(scheduler).watch()
        scheduler.answers.clear()
        before = asyncio.all_tasks()
        for steps in range(3):  # before the question has begun, and while it is asked
            asking = asyncio.create_task(groups.states(ONE))
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            await groups.close()
            await asyncio.wait((asking,))
            assert asyncio.all_tasks() == before
        scheduler.answers.set()
        assert await groups.states(ONE) == {"1": RUNNING}

    finish(scenario())


def test_a_keeper_that_comes_while_a_question_is_given_up_has_its_own_answered() -> None:
    async def scenario() -> None:
        scheduler = SlowScheduler()
        poller = Poller(scheduler)
        scheduler.answers.clear()
        scheduler.ends.clear()
        left = asyncio.create_task(poller.state("1", ONE["1"]))
        await settle()
        left.cancel()
        await settle()
        groups = asyncio.create_task(poller.watch().states(TWO))
        await settle()
        scheduler.ends.set()
        await asyncio.wait((left,))
        scheduler.answers.set()
        assert await groups == {"2": RUNNING}
        assert scheduler.questions == [{"1"}, {"2"}]

    finish(scenario())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
