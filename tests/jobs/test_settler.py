"""Rows are worked on until they are settled: one thing at a time for each, and none is forgotten for another's sake."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from tokenstorm.errors import RefusedJob, RunError, Unconfirmed, Unreachable
from tokenstorm.jobs.pauses import pauses
from tokenstorm.jobs.settler import UNCONFIRMED, Settler, Steps, waiting_for


@dataclass
class Rows:
    """What a test lets happen at the next attempts and refusals, and what it has seen."""

    at: float = 0.0
    fails: dict[str, list[BaseException]] = field(default_factory=dict)
    full: list[Exception] = field(default_factory=list)
    attempts: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def attempt(self, row: str) -> bool:
        self.attempts.append(row)
        await self.gate.wait()
        if self.fails.get(row):
            raise self.fails[row].pop(0)
        return True

    async def refuse(self, row: str, why: str) -> None:
        if self.full:
            raise self.full.pop(0)
        self.ended.append(f"{row}: {why}")

    def settler(self) -> Settler[str]:
        return Settler(
            Steps(
                attempt=self.attempt,
                refuse=self.refuse,
                wait=lambda row, error: self.said.append(f"{row}: {waiting_for(error)}"),
                pauses=lambda: pauses(1.0, 3.0, 2.0),
                monotonic=lambda: self.at,
            )
        )


def finish(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


async def tend(settler: Settler[str], *rows: str) -> None:
    for row in rows:
        settler.tend(row)
    await settler.idle()


def test_what_fails_and_may_pass_is_tried_again_later_and_later_and_says_what_it_waits_for() -> None:
    async def scenario() -> None:
        rows = Rows(fails={"a": [Unreachable("no way"), Unconfirmed("cut"), Unreachable("no way")]})
        rows.gate.set()
        settler, tried_at = rows.settler(), []
        for second in range(10):
            rows.at = float(second)
            before = len(rows.attempts)
            if before < 4:
                await tend(settler, "a")
            if len(rows.attempts) > before:
                tried_at.append(second)
        assert tried_at == [0, 1, 3, 6]  # after 1, 2 and 3 seconds
        assert rows.said == ["a: no way", f"a: {UNCONFIRMED}: cut", "a: no way"]
        assert settler.trouble is None

    finish(scenario())


def test_a_row_is_worked_on_by_one_at_a_time_and_one_that_is_restarted_waits_for_the_end_of_the_first() -> None:
    async def scenario() -> None:
        rows = Rows()
        settler = rows.settler()
        for _ in range(3):
            settler.tend("a")
            await asyncio.sleep(0)
        assert rows.attempts == ["a"]
        settler.restart("a")
        rows.gate.set()
        await settler.idle()
        assert rows.attempts == ["a", "a"]

    finish(scenario())


def test_a_refusal_that_the_disk_does_not_take_is_repeated_until_the_row_has_ended() -> None:
    async def scenario() -> None:
        no = RefusedJob("no such account")
        rows = Rows(fails={"a": [no, no]}, full=[RunError("the disk is full")])
        rows.gate.set()
        settler = rows.settler()
        await tend(settler, "a")
        assert (rows.said, rows.ended, settler.trouble) == (["a: no such account"], [], "the disk is full")
        rows.at = 1.0
        await tend(settler, "a")
        assert (rows.ended, settler.trouble) == (["a: no such account"], None)

    finish(scenario())


def test_a_bug_in_one_row_is_told_and_keeps_nobody_from_working_on_the_others() -> None:
    async def scenario() -> None:
        rows = Rows(fails={"a": [ZeroDivisionError("a bug")]})
        rows.gate.set()
        settler = rows.settler()
        await tend(settler, "a", "b")
        await tend(settler, "a", "c")
        assert rows.attempts == ["a", "b", "c"]
        with pytest.raises(ZeroDivisionError):
            settler.check()

    finish(scenario())


def test_an_attempt_that_is_cancelled_by_what_it_waits_for_is_made_once_more() -> None:
    async def scenario() -> None:
        rows = Rows(fails={"a": [asyncio.CancelledError()]})
        rows.gate.set()
        settler = rows.settler()
        for _ in range(3):
            await tend(settler, "a")
        settler.check()
        assert rows.attempts == ["a", "a", "a"]  # cancelled, settled, and asked for as a new one

    finish(scenario())
