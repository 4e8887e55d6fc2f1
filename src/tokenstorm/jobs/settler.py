"""From rows to jobs: work on each row is repeated until its job is submitted or ruled out.

A row is on disk before its job is submitted, under a name that is the row's own. So a process that finds an
unsettled row, after a restart too, goes on with it, and no job is ever submitted twice.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tokenstorm.errors import ClusterError, RefusedJob, RunError, TokenstormError, Unconfirmed, Unknown, UsageError

UNCONFIRMED = "submission unconfirmed"
"""The connection broke, and nobody knows yet whether the job was submitted."""
REFUSED: tuple[type[TokenstormError], ...] = (RefusedJob, UsageError, Unknown)
"""Errors that no retry mends, for any row."""

Row = TypeVar("Row", int, str)


@dataclass(frozen=True, kw_only=True)
class Steps(Generic[Row]):
    """What is done about rows, which are named by their ids.

    `attempt` does what there is to do, and returns whether the row is settled. Where it raises one of `refused`, `refuse`
    ends the row; where it raises another ClusterError or a RunError, `wait` tells what is waited for. Both attempts and
    refusals are repeated until one succeeds.
    """

    attempt: Callable[[Row], Awaitable[bool]]
    refuse: Callable[[Row, str], Awaitable[None]]
    wait: Callable[[Row, Exception], None]
    pauses: Callable[[], Iterator[float]]
    refused: tuple[type[TokenstormError], ...] = REFUSED
    monotonic: Callable[[], float] = time.monotonic
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = asyncio.create_task


@dataclass
class _Work:
    """What is being done about one row. `trouble` is what went wrong the last time, if it may pass."""

    pauses: Iterator[float]
    task: asyncio.Task[None] | None = None
    not_before: float = 0.0
    trouble: str | None = None


class Settler(Generic[Row]):
    """Works on rows, one task at a time for each."""

    def __init__(self, steps: Steps[Row]) -> None:
        self._steps: Steps[Row] = steps
        self._work: dict[Row, _Work] = {}

    @property
    def trouble(self) -> str | None:
        """The trouble that keeps one of the rows waiting, or None."""
        return next((work.trouble for work in self._work.values() if work.trouble), None)

    def tend(self, row: Row) -> None:
        """Start work on an unsettled row, unless it is under way, ended with a bug, or has to wait for its pause."""
        work = self._work.setdefault(row, _Work(self._steps.pauses()))
        idle = work.task is None or work.task.cancelled()  # an attempt may be cancelled by what it waits for
        if idle and self._steps.monotonic() >= work.not_before:
            work.task = self._steps.spawn(self._try(row, work))

    def check(self) -> None:
        """Raise the bug that ended an attempt, if there was one."""
        for work in self._work.values():
            if work.task and work.task.done() and not work.task.cancelled():
                work.task.result()

    def restart(self, row: Row) -> None:
        """Give up the work on a row, and begin again: it has to be settled in another way now."""
        before = self._work[row].task if row in self._work else None
        work = self._work[row] = _Work(self._steps.pauses())
        if before:
            before.cancel()
        work.task = self._steps.spawn(self._try(row, work, after=before))

    async def idle(self) -> None:
        """Wait until no work is under way."""
        if tasks := [work.task for work in self._work.values() if work.task]:
            await asyncio.wait(tasks)

    async def close(self, *, last: Callable[[Row], bool], seconds: float) -> None:
        """Stop; the next start goes on from the rows. Work on rows for which `last` is true may go on for `seconds`."""
        going = {row: work.task for row, work in self._work.items() if work.task and not work.task.done()}
        for row, task in going.items():
            if not last(row):
                task.cancel()
        if going:
            _, late = await asyncio.wait(going.values(), timeout=seconds)
            for task in late:
                task.cancel()
        await self.idle()

    async def _try(self, row: Row, work: _Work, after: asyncio.Task[None] | None = None) -> None:
        if after:
            await asyncio.wait((after,))
        trouble: str | None = None
        try:
            settled = await self._steps.attempt(row)
        except self._steps.refused as refusal:
            settled, trouble = await self._refuse(row, refusal)
        except (ClusterError, RunError) as error:
            self._steps.wait(row, error)
            settled, trouble = False, str(error)
        if settled:
            self._work.pop(row)
            return
        work.task, work.trouble = None, trouble
        work.not_before = self._steps.monotonic() + next(work.pauses)

    async def _refuse(self, row: Row, refusal: TokenstormError) -> tuple[bool, str | None]:
        """End the row. Returns whether that worked, and if not, why."""
        try:
            await self._steps.refuse(row, str(refusal))
        except (ClusterError, RunError) as error:  # it is tried, and refused, once more
            self._steps.wait(row, refusal)
            return False, str(error)
        return True, None


def waiting_for(error: Exception) -> str:
    """The reason that a row shows while it waits for an error to pass."""
    return f"{UNCONFIRMED}: {error}" if isinstance(error, Unconfirmed) else str(error)
