"""How groups end: what their jobs left is brought home, keys are forgotten, files that nobody wants are removed."""

import asyncio
import time

from msgspec.structs import replace

from tokenstorm.client_api import group as states
from tokenstorm.client_api.archive import Archive
from tokenstorm.client_api.book import Book
from tokenstorm.client_api.group import ClientGroup, Progress
from tokenstorm.client_api.homecoming import Expected
from tokenstorm.client_api.tasks import Tasks
from tokenstorm.cluster.scheduler import JobState, Outcome
from tokenstorm.errors import ClusterError, RunError
from tokenstorm.jobs.pauses import pauses

SEEN_AFTER_SECONDS = 60.0
"""After so long a shared file system shows what another node wrote before."""
LOOK_AGAIN_SECONDS = 3.0
_ENDED_WELL = (0, 3)
"""What the load generator ends with when it wrote a summary."""


class Endings:
    """Ends groups of a book."""

    def __init__(self, book: Book, archive: Archive, tasks: Tasks) -> None:
        self._book = book
        self._archive = archive
        self._tasks = tasks

    async def finish(self, group_id: int, job: JobState) -> None:
        """The job is over: bring home what it left and say how it went, however often that takes."""
        book, archive = self._book, self._archive
        deadline, expected = time.monotonic() + SEEN_AFTER_SECONDS, self._expected(group_id, job)
        for pause in pauses(0.2, 30.0):
            group = book.expect(group_id)
            try:
                missing = await archive.bring(group.run_id, expected)
                if missing and time.monotonic() < deadline:
                    await asyncio.sleep(min(pause, LOOK_AGAIN_SECONDS))
                    continue
                left = await archive.sum_up(group.run_id)
                await archive.forget_secrets(group.run_id)
                group = book.expect(group_id)
                progress = Progress.of(left.status, left.summary) if left.status else None
                late = left.status.late_seconds if left.status else group.late_seconds
                known = replace(group, progress=progress, late_seconds=late)
                group = book.change(states.ended(known, job, left.summary, left.said, missing))
            except (ClusterError, RunError) as error:
                book.trouble = str(error)
                await asyncio.sleep(pause)
                continue
            book.trouble = None
            if group.purge:
                await self.purge(group)
            return

    def _expected(self, group_id: int, job: JobState) -> Expected:
        """What a job that is over must have left."""
        group = self._book.expect(group_id)
        live = self._book.live(group)
        had_nodes = group.started_at is not None or bool(job.nodes)
        never_ran = job.outcome == "cancelled" and not had_nodes  # Slurm says that it ended with 0 all the same
        return Expected(
            ran=job.outcome != "lost" and had_nodes,
            ended_well=(job.exit_code in _ENDED_WELL and not never_ran)
            or job.outcome == "completed"
            or (live is not None and live.progress.phase == "finished"),
            written=live.written if live else {},
        )

    async def give_up(self, group_id: int, outcome: Outcome, reason: str) -> None:
        """End a group that was never submitted, and leave no key of it behind. Raises `ClusterError`, `RunError`."""
        group = self._book.expect(group_id)
        if group.stage != "waiting":
            await self._archive.forget_secrets(group.run_id)  # before it is over: then nobody looks any more
        if current := self._book.current(group_id):
            group = self._book.change(states.stopped(current, outcome, reason))
            if group.purge:
                self._tasks.spawn(self.purge(group))

    async def purge(self, group: ClientGroup) -> None:
        """Remove the files of a group that is over, however often that takes."""
        book = self._book
        for pause in pauses(0.5, 60.0):
            try:
                await self._archive.purge(group.run_id)
                book.store.save(replace(group, purge=False, purged=True))
            except (ClusterError, RunError, OSError) as error:
                book.trouble = f"the files of run {group.run_id} could not be removed: {error}"
                await asyncio.sleep(pause)
            else:
                if book.trouble and group.run_id in book.trouble:
                    book.trouble = None
                return
