"""The states of a site's jobs: one question at a time asks about all watched jobs, and every watcher gets the answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenstorm.cluster.scheduler import JobId, JobState, Scheduler, Sent


@dataclass(frozen=True)
class _Answer:
    """The answer to question `number`, which asked about the jobs in `asked`."""

    number: int = 0
    asked: frozenset[JobId] = frozenset()
    states: Mapping[JobId, JobState] = field(default_factory=dict)


class Poller:
    """Asks one scheduler. Each keeper of jobs has its own `Watch`; an answer to one of them serves the others too."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._watches: set[Watch] = set()
        self._begun = 0
        self._answer = _Answer()
        self._question: asyncio.Task[None] | None = None

    def watch(self) -> "Watch":
        """A new keeper of jobs, which watches none yet."""
        return Watch(self)

    async def state(self, job: JobId, sent: Sent) -> JobState | None:
        """The present state of one job that nobody watches; None while the scheduler does not know it."""
        watch = self.watch()
        try:
            return (await watch.states({job: sent}, fresh=True)).get(job)
        finally:
            await watch.close()

    async def answer(self, watch: "Watch", seen: int | None) -> _Answer:
        """An answer that covers the watch's jobs, from a question after number `seen`; with None, from one asked after this call."""
        self._watches.add(watch)
        after = self._begun if seen is None else seen
        while self._answer.number <= after or not watch.jobs.keys() <= self._answer.asked:
            question = self._question = self._question or self._ask()
            await asyncio.wait((question,))
            question.result()
        return self._answer

    async def leave(self, watch: "Watch") -> None:
        """Remove a keeper. After the last one has left, no question is asked any more."""
        self._watches.discard(watch)
        question = self._question
        if question and not self._watches:
            self._question = None  # a keeper that comes while the question is being cancelled asks again
            question.cancel()
            await asyncio.wait((question,))

    def _ask(self) -> asyncio.Task[None]:
        """Begin a question. A caller that stops waiting does not cancel it, since others may wait too."""
        self._begun += 1
        jobs = {job: sent for watch in self._watches for job, sent in watch.jobs.items()}
        question = asyncio.create_task(self._put(self._begun, jobs))
        question.add_done_callback(lambda done: done.cancelled() or done.exception())  # there may be nobody to tell
        return question

    async def _put(self, number: int, jobs: Mapping[JobId, Sent]) -> None:
        try:
            states = await self._scheduler.states(jobs.keys(), jobs)
            if number > self._answer.number:  # one that was given up may end late
                self._answer = _Answer(number, frozenset(jobs), states)
        finally:
            if number == self._begun:
                self._question = None


class Watch:
    """The jobs that one keeper watches. It makes one call at a time."""

    def __init__(self, poller: Poller) -> None:
        self.jobs: Mapping[JobId, Sent] = {}
        self._poller = poller
        self._seen = 0

    async def states(self, jobs: Mapping[JobId, Sent], *, fresh: bool = False) -> dict[JobId, JobState]:
        """The states of those jobs, which are the ones watched from now on. Raises what the scheduler raises.

        An answer that came since the last call is used; `fresh` demands a question asked after this call. Jobs that the
        scheduler does not know at the moment are left out.
        """
        self.jobs = dict(jobs)
        if not jobs:
            return {}
        answer = await self._poller.answer(self, None if fresh else self._seen)
        self._seen = answer.number
        return {job: state for job in jobs if (state := answer.states.get(job))}

    async def close(self) -> None:
        """Watch nothing any more."""
        self.jobs = {}
        await self._poller.leave(self)
