"""How the services' jobs stand, asked beside the looks at engines: a scheduler that is silent keeps nobody from looking."""

import asyncio
from collections.abc import Callable, Mapping

from tokenstorm.cluster.scheduler import JobId, JobState, Scheduler, Sent

PATIENCE_SECONDS = 2.0
"""How long a look waits for the scheduler; what it says later is for the next look."""


class Jobs:
    """The last that the scheduler said of each job, and how long it has been silent. One question at a time."""

    def __init__(self, scheduler: Scheduler, monotonic: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._monotonic = monotonic
        self._said: dict[JobId, JobState] = {}
        self._asking: asyncio.Task[dict[JobId, JobState]] | None = None
        self._answered = monotonic()

    @property
    def silent_seconds(self) -> float:
        """How long ago it answered last, or was there nothing to ask."""
        return self._monotonic() - self._answered

    def of(self, job: JobId) -> JobState | None:
        """The last that was said of a job."""
        return self._said.get(job)

    async def ask(self, jobs: Mapping[JobId, Sent]) -> None:
        """Ask about all of them, unless it is being asked, and wait a little. Raises as the scheduler does."""
        self._said = {job: state for job, state in self._said.items() if job in jobs}
        if self._asking is None:
            if not jobs:
                self._answered = self._monotonic()
                return
            self._asking = asyncio.create_task(self._scheduler.states(jobs.keys(), jobs))
        await asyncio.wait((self._asking,), timeout=PATIENCE_SECONDS)
        if self._asking.done():
            answered, self._asking = self._asking, None
            self._said |= answered.result()
            self._answered = self._monotonic()

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))


def silence(seconds: float) -> str:
    """What a user is told of so long a silence, by steps; nothing of a short one."""
    whole = int(seconds // 60 * 60 if seconds >= 60 else seconds // 10 * 10)  # noqa: PLR2004 - a minute
    return f"Slurm has not answered for {whole} s" if whole else ""
