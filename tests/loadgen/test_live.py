"""What the launcher makes of the news of its ranks."""

import asyncio
import os
import socket
import time
from pathlib import Path
from time import monotonic_ns
from types import SimpleNamespace
from typing import cast

import pytest
import uvloop
from msgspec.structs import replace

from plans import plan
from tokenstorm import __version__
from tokenstorm.loadgen import offset, ranks
from tokenstorm.loadgen.group import Group
from tokenstorm.loadgen.messages import AnyMessage, Delta, Hello, Live, Ready, Tell, send
from tokenstorm.loadgen.offset import EXCHANGES_KEPT, Clock
from tokenstorm.loadgen.ranks import SILENT_SECONDS, Member, Ranks
from tokenstorm.metrics.reports import DiskReport
from tokenstorm.metrics.tally import Tally
from tokenstorm.runs import RunPaths
from waiting import until

PLAN = plan(ranks=2, requests_per_second=10.0)


def second(*, peak: int, waited: int) -> Delta:
    return Delta(
        second=0,
        phase="measured",
        live=Live(peak=peak, waited=waited),
        in_flight=0,
        waiting=0,
        cpu=0.1,
        gc_pause=0.0,
        disk=DiskReport(),
        left_out=[],
        tally=Tally(),
    )


@pytest.mark.parametrize(
    ("other", "below"),
    [(second(peak=0, waited=0), 5), (second(peak=2, waited=0), 0), (None, 0)],
    ids=["free", "busy too", "lost"],
)
def test_arrivals_wait_below_the_cap_when_another_rank_that_is_there_had_free_clients(
    other: Delta | None, below: int
) -> None:
    group = Group(PLAN)
    group.add(0, second(peak=2, waited=5))
    if other is not None:
        group.add(1, other)
    assert group.close(0, "measured", 10.0).waited_below_cap == below


def test_the_peak_of_a_group_adds_up_what_its_ranks_had_in_one_second_and_leaves_out_the_warm_up() -> None:
    group = Group(plan(ranks=2, requests_per_second=10.0, warmup_seconds=2.0))
    for number, peaks in enumerate([(9, 9), (9, 9), (3, 1), (2, 4), (5, 0)]):
        for rank, peak in enumerate(peaks):
            group.add(rank, replace(second(peak=peak, waited=0), second=number))
    assert group.peak == 6


def lost_after(monkeypatch: pytest.MonkeyPatch, steps: list[float]) -> str | None:
    """Whether a rank that says nothing is lost, when the launcher looks after each of these steps of time."""
    now = 1000.0
    times = iter(steps)

    async def main() -> str | None:
        nonlocal now
        everybody = Ranks(PLAN, cast("RunPaths", SimpleNamespace(all_results=dict)), "", Group(PLAN).add)
        link = cast("asyncio.StreamWriter", SimpleNamespace(close=lambda: None))
        member = everybody.members[0] = Member(0, Hello("", 0, "", ""), link)

        def look() -> float | None:
            nonlocal now
            step = next(times, None)
            if step is None and member.lost is None:
                member.lost = "end of the test"
            now += step or 0.0
            return None

        await everybody.done(look)
        return None if member.lost == "end of the test" else member.lost

    monkeypatch.setattr(ranks, "monotonic", lambda: now)
    monkeypatch.setattr(ranks, "LOOK_SECONDS", 0.001)
    return uvloop.run(main())


def test_a_rank_that_says_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [0.001] * 5 + [0.9] * 40
    lost = lost_after(monkeypatch, looks)
    assert lost is None  # each look came almost a second late: it was the launcher that was stopped
    monkeypatch.setattr(ranks, "SILENT_SECONDS", 0.02)
    assert "said nothing" in (lost_after(monkeypatch, [0.001] * 60) or "")


def test_a_launcher_that_was_stopped_does_not_take_its_ranks_for_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lost_after(monkeypatch, [0.001, 10 * SILENT_SECONDS, 0.001]) is None


def test_a_launcher_that_was_stopped_at_the_barrier_hears_who_came_meanwhile(tmp_path: Path) -> None:
    """Both ranks are ready in time; the launcher stands still until long after the deadline, and reads it then."""

    async def main() -> None:
        everybody = Ranks(PLAN, RunPaths(tmp_path), "", Group(PLAN).add)
        server = await asyncio.start_server(everybody.accept, "127.0.0.1", 0)
        links = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(2)]

        def say(message: AnyMessage) -> None:
            for link in links:
                wire = SimpleNamespace(is_closing=lambda: False, write=link.sendall)
                send(cast("asyncio.StreamWriter", wire), message)

        say(Hello("", 0, __version__, ""))
        await until(lambda: len(everybody.members) == 2)
        ours, its = os.pipe()

        def stand_still() -> None:
            os.read(ours, 1)
            say(Ready())
            time.sleep(0.8)

        loop = asyncio.get_running_loop()
        loop.add_reader(ours, stand_still)
        loop.call_later(0.1, os.write, its, b"x")
        async with asyncio.timeout(20):
            await everybody.ready(0.4)
        assert all(member.ready for member in everybody.members.values())
        for link in links:
            link.close()
        server.close()
        await asyncio.sleep(0.05)

    uvloop.run(main())


def test_of_late_comparisons_of_clocks_the_quickest_way_there_and_the_quickest_way_back_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = monotonic_ns()
    monkeypatch.setattr(offset, "monotonic_ns", lambda: now)
    clock = Clock(same_machine=False)
    for there, back in ((90, 10), (10, 300), (50, 50)):  # the launcher's clock is 7000 ahead
        clock.learn(Tell(sent=now - there - back, now=now - back + 7000))
    assert clock.read() == (7000, 20)
    for _ in range(EXCHANGES_KEPT):  # clocks drift, and the old answer is forgotten
        clock.learn(Tell(sent=now - 200, now=now - 100 + 8000))
    assert clock.read() == (8000, 200)
    same = Clock(same_machine=True)
    same.learn(Tell(sent=now - 100, now=now))
    assert same.read() == (0, 0)
