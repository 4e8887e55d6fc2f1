"""What services ask of the scheduler. A scheduler that does not answer does not hold up the looks at the engines."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping

from tokenstorm.cluster.scheduler import JobId, JobState, Sent
from tokenstorm.errors import ClusterError
from tokenstorm.jobs.poller import Watch

PATIENCE_SECONDS = 2.0
"""How long a look waits for the scheduler. A later answer is used by the next look."""
SELDOM_SECONDS = 5.0
"""Between two questions while nothing changes."""
SILENT = "Slurm has not answered for"


class Jobs:
    """The scheduler's last answer about each job, and how long it has been silent. One question at a time."""

    def __init__(self, watch: Watch, monotonic: Callable[[], float]) -> None:
        self._watch = watch
        self._monotonic = monotonic
        self._said: dict[JobId, JobState] = {}
        self._asking: asyncio.Task[dict[JobId, JobState]] | None = None
        self._answered = self._asked = monotonic()
        self.trouble: str | None = None
        """Why the last question got no answer."""

    @property
    def silent_seconds(self) -> float:
        """Seconds since it last answered, or since there was last nothing to ask."""
        return self._monotonic() - self._answered

    def of(self, job: JobId) -> JobState | None:
        """The last answer about a job."""
        return self._said.get(job)

    async def ask(self, jobs: Mapping[JobId, Sent], quiet_seconds: float) -> None:
        """Ask about all of them, unless a question is under way, and wait a little.

        The longer nothing has changed, the less often: every five seconds from 25 s after a change.
        """
        self._said = {job: state for job, state in self._said.items() if job in jobs}
        now = self._monotonic()
        if self._asking is None:
            if jobs and now - self._asked < min(SELDOM_SECONDS, quiet_seconds / 5):
                return
            self._asked = now
            self._asking = asyncio.create_task(self._watch.states(jobs))
        await asyncio.wait((self._asking,), timeout=PATIENCE_SECONDS)
        if self._asking.done():
            answered, self._asking = self._asking, None
            try:
                self._said |= answered.result()
                self._answered, self.trouble = self._monotonic(), None
            except ClusterError as error:
                self.trouble = str(error)

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))
        await self._watch.close()


class Errands:
    """Work still to be done for services, one task at a time for each. Long tasks go on beside the looks."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[list[str]]] = {}

    async def run(self, names: Iterable[str], errand: Callable[[str], Coroutine[None, None, list[str]]]) -> list[str]:
        """Start a task for each service that has none under way, and wait a little. Returns what the finished tasks report."""
        self._tasks |= {name: asyncio.create_task(errand(name)) for name in names if name not in self._tasks}
        if not self._tasks:
            return []
        await asyncio.wait(self._tasks.values(), timeout=PATIENCE_SECONDS)
        done = {name: task for name, task in self._tasks.items() if task.done()}
        for name in done:
            del self._tasks[name]
        return [word for task in done.values() for word in task.result()]

    async def close(self) -> None:
        """Cancel the tasks under way."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())


def silence(seconds: float) -> str:
    """The message about a silence of that many seconds; empty for a short one."""
    whole = int(seconds // 60 * 60 if seconds >= 60 else seconds // 10 * 10)  # noqa: PLR2004 - a minute
    return f"{SILENT} {whole} s" if whole else ""
