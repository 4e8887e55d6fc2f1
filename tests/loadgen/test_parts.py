"""The small parts of a rank: its alarm, its writer, its view of the replicas, its closed loop."""

import asyncio
import os
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns

import pytest
import uvloop

from plans import plan
from tokenstorm.errors import UsageError
from tokenstorm.loadgen import writer
from tokenstorm.loadgen.arrivals import offsets
from tokenstorm.loadgen.clock import Alarm
from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.loadgen.pool import Pool
from tokenstorm.loadgen.replicas import REFUSALS, RETRY_NS, Replicas
from tokenstorm.loadgen.schedule import FAILURE_PAUSE_NS, ClosedLoop, OpenLoop, Schedule
from tokenstorm.loadgen.sizing import bytes_of_lines, fewest_ranks, too_little_room
from tokenstorm.loadgen.standstills import Standstills
from tokenstorm.loadgen.unsent import unsent_lines
from tokenstorm.loadgen.writer import LineWriter
from tokenstorm.metrics.tally import Tally, Window

MS = 1_000_000
_open, _write = os.open, os.write
SECOND = 1_000_000_000


@pytest.fixture(params=["timerfd", "timers"])
def timers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways an alarm can wait; the second is what other systems than Linux have."""
    if request.param == "timers":
        monkeypatch.setattr("tokenstorm.loadgen.clock.sys.platform", "other")


def rings(times: list[int]) -> list[int]:
    """Set the alarm for each offset in turn, from inside its own ring; how late each one rang."""

    async def main() -> list[int]:
        done = asyncio.Event()
        start = monotonic_ns()
        late: list[int] = []

        def ring() -> None:
            late.append(monotonic_ns() - start - times[len(late)])
            if len(late) == len(times):
                done.set()
            else:
                alarm.set(start + times[len(late)])

        alarm = Alarm(asyncio.get_running_loop(), ring)
        alarm.set(start + times[0])
        async with asyncio.timeout(20):
            await done.wait()
        alarm.close()
        return late

    return uvloop.run(main())


@pytest.mark.usefixtures("timers")
def test_an_alarm_never_rings_early_and_rings_for_the_past_at_once() -> None:
    late = rings([0, 3 * MS, 3 * MS + 300_000, 2 * MS, 9 * MS + 700_000, 10 * MS])
    assert len(late) == 6
    assert min(late) >= 0


@pytest.mark.usefixtures("timers")
def test_an_alarm_can_be_set_earlier_and_be_called_off() -> None:
    async def main() -> None:
        rang: list[int] = []
        first = asyncio.Event()

        def ring() -> None:
            rang.append(monotonic_ns())
            first.set()

        alarm = Alarm(asyncio.get_running_loop(), ring)
        alarm.set(monotonic_ns() + 600 * SECOND)
        early = monotonic_ns() + 2 * MS
        alarm.set(early)
        async with asyncio.timeout(20):
            await first.wait()
        assert rang[0] >= early
        alarm.set(monotonic_ns() + MS)
        alarm.set(None)
        await asyncio.sleep(0.01)
        assert len(rang) == 1
        alarm.set(monotonic_ns() + MS)
        alarm.close()
        await asyncio.sleep(0.01)
        assert len(rang) == 1

    uvloop.run(main())


def test_lines_are_in_the_file_when_the_writer_is_closed(tmp_path: Path) -> None:
    lines = LineWriter(tmp_path / "results.jsonl")
    lines.start()
    for number in range(100):
        lines.put(b"%d\n" % number, 1)
    report = lines.close(20)
    assert (tmp_path / "results.jsonl").read_text().split() == [str(number) for number in range(100)]
    assert (report.lost_lines, report.error) == (0, None)


def test_a_full_disk_blocks_nobody_and_is_reported_with_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenstorm.loadgen.writer.os.open", lambda *_: _open("/dev/full", os.O_WRONLY))
    lines = LineWriter(Path("/dev/full"))
    lines.start()
    lines.put(b"1\n2\n", 2)
    report = lines.close(20)
    assert report.lost_lines == 2
    assert report.error is not None
    assert "No space left" in report.error


def test_a_write_that_is_cut_short_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes three bytes, then refuses once, then recovers."""
    turns: Iterator[int | OSError] = iter([3, OSError(28, "No space left on device")])

    def write(fd: int, data: memoryview) -> int:
        turn = next(turns, None)
        if isinstance(turn, OSError):
            raise turn
        return _write(fd, data[:turn] if turn else data)

    monkeypatch.setattr("tokenstorm.loadgen.writer.os.write", write)
    lines = LineWriter(tmp_path / "results.jsonl")
    lines.put(b"first\nsecond\n", 2)
    lines.start()
    while next(turns, None) is not None or lines.report().error:
        threading.Event().wait(0.01)
    lines.put(b"third\n", 1)
    report = lines.close(20)
    assert (tmp_path / "results.jsonl").read_text().split() == ["first", "second", "third"]
    assert (report.lost_lines, report.error) == (0, None)


def test_what_a_stalled_disk_cannot_hold_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QUEUE_BYTES", 10)
    lines = LineWriter(tmp_path / "results.jsonl")
    for _ in range(5):
        lines.put(b"0123456\n", 1)
    assert lines.report().lost_lines == 3


def replicas(count: int) -> Replicas:
    names = [str(number) for number in range(count)]
    return Replicas(names, [Pool(Endpoint.parse("http://127.0.0.1:1")) for _ in names])


def test_lines_of_a_write_that_hangs_are_counted_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, released = threading.Event(), threading.Event()

    def write(_fd: int, data: memoryview) -> int:
        hangs.set()
        released.wait(20)
        return len(data)

    monkeypatch.setattr("tokenstorm.loadgen.writer.os.write", write)
    lines = LineWriter(tmp_path / "results.jsonl")
    lines.start()
    lines.put(b"1\n2\n", 2)
    assert hangs.wait(20)
    lines.put(b"3\n", 1)
    assert lines.close(0.0).lost_lines == 3
    released.set()
    lines.close(20)


def test_request_n_goes_to_replica_n_mod_m() -> None:
    assert [replicas(3).pick(seq, 0) for seq in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_replica_that_refuses_three_times_is_left_out_and_tried_again_every_five_seconds() -> None:
    some = replicas(2)
    for _ in range(REFUSALS):
        assert some.pick(1, 0) == 1
        some.refused(1, 0)
    assert some.pick(1, 1) == 0
    assert some.was_left_out == {"1"}
    assert some.pick(1, RETRY_NS) == 1  # one try
    assert some.pick(1, RETRY_NS + 1) == 0  # not two
    some.answered(1)
    assert some.pick(1, RETRY_NS + 2) == 1


@pytest.mark.parametrize(("count", "out"), [(3, {1}), (4, {0}), (4, {1, 2}), (5, {0, 1, 4})])
def test_the_requests_of_those_left_out_are_spread_evenly_over_the_rest(count: int, out: set[int]) -> None:
    some = replicas(count)
    for one in out:
        for _ in range(REFUSALS):
            some.refused(one, 0)
    rest = count - len(out)
    got = Counter(some.pick(seq, 1) for seq in range(12 * count * rest))
    assert got == {one: 12 * count for one in range(count) if one not in out}
    assert all(some.pick(seq, 1) == seq % count for seq in range(99) if seq % count not in out)


def test_each_replica_that_is_left_out_is_tried_again_whatever_stripe_a_rank_has() -> None:
    """Rank 1 of 4 has no request that is replica 0's: those of its own replica, which is out too, try that."""
    some = replicas(4)
    for one in (0, 1):
        for _ in range(REFUSALS):
            some.refused(one, 0)
    got = Counter(some.pick(seq, RETRY_NS) for seq in range(1, 400, 4))
    assert (got[0], got[1], got[2], got[3]) == (1, 1, 49, 49)


def test_refusals_with_an_answer_in_between_leave_nobody_out() -> None:
    some = replicas(2)
    for _ in range(5):
        some.refused(1, 0)
        some.refused(1, 0)
        some.answered(1)
    assert not some.was_left_out


def test_when_every_replica_refuses_requests_still_go_out_and_fail_there() -> None:
    some = replicas(2)
    for replica in (0, 1) * REFUSALS:
        some.refused(replica, 0)
    assert [some.pick(seq, 1) for seq in range(4)] == [0, 1, 0, 1]
    alone = replicas(1)
    for _ in range(9):
        alone.refused(0, 0)
    assert (alone.pick(5, 1), alone.was_left_out) == (0, set())


def take(loop: Schedule) -> tuple[int, int]:
    loop.fall_due()
    return loop.take()


def test_a_closed_loop_asks_again_when_the_answer_ended_plus_think_time() -> None:
    loop = ClosedLoop(plan(num_clients=2, ramp_seconds=1.0, think_time_seconds=0.5), 0, 1)
    assert [take(loop), take(loop)] == [(0, 0), (1, SECOND // 2)]
    assert loop.next_at is None
    loop.answered(700 * MS, failed=False)
    assert take(loop) == (2, 1200 * MS)


def test_a_client_whose_request_failed_does_not_hammer_a_dead_service() -> None:
    loop = ClosedLoop(plan(num_clients=1), 0, 1)
    take(loop)
    loop.answered(5 * MS, failed=True)
    assert loop.next_at == 5 * MS + FAILURE_PAUSE_NS


def test_a_closed_loop_asks_nothing_after_its_window() -> None:
    loop = ClosedLoop(plan(num_clients=1, duration_seconds=1.0), 0, 1)
    take(loop)
    loop.answered(SECOND, failed=False)
    assert loop.next_at is None


def test_request_count_is_shared_out_over_the_ranks_of_a_closed_loop() -> None:
    taken = []
    for rank in range(3):
        loop = ClosedLoop(
            plan(num_clients=3, ranks=3, duration_seconds=None, request_count=7, ramp_seconds=0.0), rank, 3
        )
        while loop.next_at is not None:
            seq, at = take(loop)
            taken.append(seq)
            loop.answered(at + MS, failed=False)
        assert loop.exhausted
    assert sorted(taken) == [0, 1, 2, 3, 4, 5, 6]


def test_an_open_loop_does_not_wait_for_answers() -> None:
    loop = OpenLoop(plan(requests_per_second=2.0, duration_seconds=1.0), 0, 1)
    assert [take(loop), take(loop)] == [(0, 0), (1, SECOND // 2)]
    assert loop.exhausted


def test_a_backlog_is_taken_in_the_order_of_the_schedule_however_long_it_is() -> None:
    loop = OpenLoop(plan(requests_per_second=1000.0, duration_seconds=10.0), 1, 2)
    while not loop.exhausted:
        loop.fall_due()
    assert loop.waiting == 5000
    assert [loop.take() for _ in range(5000)] == [(seq, seq * MS) for seq in range(1, 10_000, 2)]
    assert loop.waiting == 0


def test_a_long_backlog_takes_no_memory() -> None:
    loop = OpenLoop(plan(requests_per_second=1000.0, duration_seconds=200.0), 0, 1)
    tracemalloc.start()
    while not loop.exhausted:
        loop.fall_due()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loop.waiting == 200_000
    assert peak < 100_000  # bytes: less than one for each that waits


@pytest.mark.parametrize("kind", ["constant", "poisson", "gamma"])
@pytest.mark.parametrize("length", [{"duration_seconds": 2.0}, {"duration_seconds": None, "request_count": 17_000}])
@pytest.mark.parametrize(("rank", "ranks", "replicas"), [(0, 1, 1), (1, 2, 3), (2, 4, 2), (1, 3, 3)])
def test_what_was_never_taken_is_told_in_stretches_that_hold_each_arrival_once(
    kind: str, length: dict[str, object], rank: int, ranks: int, replicas: int
) -> None:
    """The number, the replica, the phase, and the first and last times are those of the arrivals that are left."""
    some = plan(
        requests_per_second=10_000.0,
        arrival={"kind": kind},
        warmup_seconds=0.7,
        num_clients=ranks,
        ranks=ranks,
        targets=[{"replica": str(number), "url": "http://h"} for number in range(replicas)],
        **length,
    )
    start, end = some.window_start_ns, some.window_end_ns
    every = dict(offsets(some, rank, ranks))
    loop = OpenLoop(some, rank, ranks)
    taken = [take(loop)[0] for _ in range(50)]
    for _ in range(70):
        loop.fall_due()
    parts = [(part, before) for before in (start, end) for part in loop.rest(before)]
    assert loop.waiting == 0
    told: list[int] = list(taken)
    for part, before in parts:
        seqs = range(part.seq, part.seq + part.stride * part.size, part.stride)
        told += seqs
        assert len({seq % replicas for seq in seqs}) == 1
        assert (part.first, part.last) == (every[seqs[0]], every[seqs[-1]])
        assert (part.last < start) == (part.first < start) == (before == start)
    assert sorted(told) == list(every)
    assert [part.size for part, _ in parts[:1000]] == [1] * min(1000, len(every) - 50)
    assert len(parts) < 1200


def test_a_closed_loop_gives_up_what_is_due_before_a_moment_and_nothing_else() -> None:
    loop = ClosedLoop(plan(num_clients=4, ramp_seconds=1.0), 0, 1)
    take(loop)
    loop.fall_due()
    assert [(part.seq, part.size, part.first) for part in loop.rest(750 * MS)] == [(1, 1, 250 * MS), (2, 1, 500 * MS)]


@pytest.mark.parametrize(
    ("fields", "ranks"),
    [
        ({"requests_per_second": 20.0}, 1),
        ({"num_clients": 1000}, 1),
        ({"requests_per_second": 2000.0, "max_tokens": 100, "num_clients": 1000}, 3),
        ({"requests_per_second": 20000.0, "max_tokens": 100, "num_clients": 1000}, 8),
        ({"requests_per_second": 20000.0, "num_clients": 2}, 2),
    ],
)
def test_ranks_are_the_fewest_that_carry_the_load(fields: dict[str, object], ranks: int) -> None:
    """2000/s of 100 chunks: 2000 (60 + 800) µs = 1.72 cores, at 60 % of a core each: 3; at most 8 cores here."""
    assert fewest_ranks(plan(**fields), 8) == ranks


@pytest.mark.parametrize(
    ("clients", "files", "ranks"),
    [(8000, 20_000, 1), (8000, 8064, 1), (8000, 8063, 2), (8000, 1024, 9), (30, 65, None)],
)
def test_ranks_are_so_many_that_each_may_open_a_connection_for_every_client(
    clients: int, files: int, ranks: int | None
) -> None:
    """64 files are spare: of 1024, 960 are left for clients, and 8000 / 960 is 8.3."""
    some = plan(num_clients=clients, requests_per_second=1.0)
    if ranks is not None:
        assert fewest_ranks(some, 2, files) == ranks
        return
    with pytest.raises(UsageError, match=f"{clients} clients are too many .* {files} open files .*`ulimit -n`"):
        fewest_ranks(some, 2, files)


def test_a_line_for_many_that_were_never_sent_is_of_one_stage() -> None:
    """The first 1000 arrivals have lines of their own, the second stage is cut there, and the third is one line."""
    stages = [{"rps": 900, "seconds": 1}, {"rps": 500, "seconds": 1}, {"rps": 600, "seconds": 1}]
    some = plan(duration_seconds=3.0, arrival={"stages": stages})
    window = Window.of(some, some.window_end_ns)
    lines = list(unsent_lines(OpenLoop(some, 0, 1), Standstills(0), window, rank=0, replicas=["0"], idle_since=None))
    tally = Tally()
    tally.add(lines, window)
    assert {number: stage.counts.unsent for number, stage in tally.stages.items()} == {0: 900, 1: 500, 2: 600}
    assert len(lines) == 1002


def test_a_loop_stood_still_from_when_it_should_have_turned_until_it_did_if_that_was_long() -> None:
    standstills = Standstills(0)
    standstills.look(70 * MS, due=20 * MS)  # 50 ms are no standstill
    standstills.look(200 * MS, due=90 * MS)
    standstills.look(210 * MS, due=90 * MS)  # it looked since then
    standstills.look(300 * MS, due=230 * MS)
    held = [at for at in range(0, 400, 10) if standstills.hold(at * MS)]
    assert held == [*range(90, 200, 10), *range(230, 300, 10)]
    cuts = [(90, False), (100, True), (200, True), (230, False)]
    assert list(standstills.parts((100 * MS,), 250 * MS)) == [
        *((at * MS, asleep) for at, asleep in cuts),
        (250 * MS, True),
    ]
    cut = [(at // MS, asleep) for at, asleep in standstills.parts((100 * MS, 150 * MS, 220 * MS), 250 * MS) if at]
    assert cut == [(90, False), (100, True), (150, True), (200, True), (220, False), (230, False), (250, True)]
    assert list(standstills.parts((100 * MS,), 80 * MS)) == [(80 * MS, False)]
    assert list(standstills.parts((400 * MS,), None))[-2:] == [(400 * MS, False), (None, False)]


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({"requests_per_second": 20.0, "duration_seconds": 10.0, "warmup_seconds": 5.0}, 300),
        ({"requests_per_second": 20.0, "duration_seconds": None, "request_count": 70}, 70),
        ({"duration_seconds": None, "request_count": 70}, 70),
        ({"duration_seconds": 1e6}, 0),  # a closed loop: nobody knows
        ({"requests_per_second": 1e6, "duration_seconds": 3.0, "ranks": 2}, 200_000),  # what two ranks can send at most
    ],
)
def test_the_room_that_lines_need_is_that_of_the_requests_that_can_be_sent(
    fields: dict[str, object], lines: int
) -> None:
    assert bytes_of_lines(plan(**fields)) == pytest.approx(400 * lines)


def test_lines_that_hold_every_chunk_need_more_room() -> None:
    fields = {"requests_per_second": 20.0, "duration_seconds": 10.0, "record_chunks": True, "max_tokens": 100}
    assert bytes_of_lines(plan(**fields)) == 200 * 400  # answers may be short
    assert bytes_of_lines(plan(**fields, ignore_eos=True)) == 200 * (400 + 1000)


def test_a_plan_whose_lines_fit_is_not_complained_about(tmp_path: Path) -> None:
    assert too_little_room(tmp_path, plan(requests_per_second=20.0, duration_seconds=600.0)) is None
