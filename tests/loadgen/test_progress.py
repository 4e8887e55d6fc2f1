"""What a launcher says of its run at any moment, from what its ranks told and a clock that is moved."""

import pytest
from msgspec.structs import replace

from plans import plan
from tokenstorm.loadgen import progress
from tokenstorm.loadgen.group import Group
from tokenstorm.loadgen.messages import Delta, Live
from tokenstorm.loadgen.progress import Progress
from tokenstorm.loadgen.standing import standing_of
from tokenstorm.metrics.counts import Counts
from tokenstorm.metrics.goodput import Good
from tokenstorm.metrics.reports import DiskReport
from tokenstorm.metrics.tally import Tally

SECOND = 1_000_000_000
PLAN = plan(
    ranks=2, num_clients=4, requests_per_second=10.0, warmup_seconds=1.0, duration_seconds=4.0, request_count=None
)


def news(second: int, phase: str, *, answers: int = 0) -> Delta:
    return Delta(
        second=second,
        phase=phase,
        live=Live(scheduled=answers, sent=answers, succeeded=answers),
        in_flight=0,
        waiting=0,
        cpu=0.1,
        gc_pause=0.0,
        disk=DiskReport(),
        left_out=[],
        tally=Tally(done_in_window=answers),
    )


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100 * SECOND
        monkeypatch.setattr(progress, "monotonic_ns", lambda: self.now)

    def move(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def running(clock: Clock, group: Group, up: dict[int, bool], *, starts_in: float = 0.0) -> Progress:
    some = Progress(PLAN, group, lambda: up, standing_of)
    some.phase = "running"
    some.start_at = clock.now + round(starts_in * SECOND)
    return some


def test_the_phase_of_a_group_is_that_of_its_slowest_rank_and_a_lost_rank_does_not_count(clock: Clock) -> None:
    group, up = Group(PLAN), {0: True, 1: True}
    some = running(clock, group, up)
    assert some.group_phase == "warmup"  # nobody told anything yet
    group.add(0, news(0, "measured"))
    group.add(1, news(0, "warmup"))
    assert some.group_phase == "warmup"
    up[1] = False
    assert some.group_phase == "measured"
    some.phase = "failed"
    assert some.group_phase == "failed"


def test_the_achieved_rate_is_over_the_seconds_of_which_there_is_news(clock: Clock) -> None:
    """Two seconds of the window are told of; that a third has nearly passed lowers no rate."""
    group = Group(PLAN)
    some = running(clock, group, {0: True, 1: True})
    for second, phase in enumerate(["warmup", "measured", "measured"]):
        clock.move(1.0 if second == 0 else 0.999)
        group.add(0, news(second, phase, answers=10 * (second > 0)))
        assert not some.second_is_over()
        clock.move(0.001)
        assert some.second_is_over()
        some.close_second()
    clock.move(0.9)
    status = some.status()
    assert status.achieved_rps == pytest.approx(10.0)
    assert (status.sent, status.succeeded) == (20, 20)
    assert status.fraction == pytest.approx(3.901 / 5.0)


def test_connections_are_being_opened_until_the_start_and_nothing_is_asked_for_before_the_run(clock: Clock) -> None:
    some = running(clock, Group(PLAN), {0: True, 1: True}, starts_in=2.0)
    assert some.status().opening > 0
    assert some.seconds_to_next_line() == pytest.approx(3.1)
    clock.move(2.0)
    assert some.status().opening == 0
    some.phase = "holding"
    assert some.status().requested_rps is None


def test_a_second_with_late_news_has_a_line_although_the_clock_has_not_come_to_its_end(clock: Clock) -> None:
    group = Group(PLAN)
    some = running(clock, group, {0: True, 1: True})
    clock.move(0.5)
    some.close_second()
    assert not some.has_open_second()
    group.add(0, news(0, "warmup", answers=3))
    assert some.has_open_second()
    assert some.close_second().sent == 3
    assert not some.has_open_second()


@pytest.mark.parametrize(("slo", "share", "good"), [(None, None, None), ({"latency_seconds": 1.0}, 0.75, 3)])
def test_the_share_of_good_requests_is_told_while_a_run_with_objectives_goes_on(
    clock: Clock, slo: dict[str, float] | None, share: float | None, good: int | None
) -> None:
    some = plan(ranks=1, requests_per_second=10.0, duration_seconds=4.0, slo=slo)
    group = Group(some)
    progress = Progress(some, group, lambda: {0: True}, standing_of)
    progress.phase, progress.start_at = "running", clock.now
    assert progress.status().goodput is None
    group.add(0, replace(news(0, "measured"), tally=Tally(counts=Counts(scheduled=4, sent=4), good=Good(count=3))))
    assert progress.close_second().good == good
    assert progress.status().goodput == share


def test_the_verdict_so_far_goes_by_the_bounds_of_the_end_and_that_the_run_goes_on_is_no_fault(clock: Clock) -> None:
    group, up = Group(PLAN), {0: True, 1: True}
    some = running(clock, group, up)

    def tell(second: int, *, failed: int = 0) -> None:
        counts = Counts(scheduled=10, sent=10, succeeded=10 - failed, failed=failed, failed_by_kind={"timeout": failed})
        for rank in up:
            tally = Tally(counts=counts, failures={"timeout": "no answer in 5 s"} if failed else {})
            group.add(rank, replace(news(second, "measured"), tally=tally))
        some.close_second()

    some.close_second()
    assert some.status().standing.verdict is None  # nothing that counts has ended
    tell(1)
    standing = some.status().standing
    assert standing.verdict is not None
    assert (standing.verdict.state, standing.verdict.reasons) == ("valid", [])
    tell(2, failed=4)
    standing = some.status().standing
    assert standing.verdict is not None
    assert (standing.verdict.state, [reason.code for reason in standing.verdict.reasons]) == ("invalid", ["failures"])
    assert standing.verdict.reasons[0].text.startswith("8 of 40 requests failed")
    assert standing.failures == {"timeout": "no answer in 5 s"}
    up[1] = False
    some.close_second()
    standing = some.status().standing
    assert standing.verdict is not None
    assert "1 of 2 ranks were lost (1)" in " ".join(reason.text for reason in standing.verdict.reasons)


def test_what_each_replica_got_and_whether_it_was_left_out_is_told_while_a_run_goes_on(clock: Clock) -> None:
    group = Group(PLAN)
    some = running(clock, group, {0: True, 1: True})
    name = PLAN.targets[0].replica
    counts = Counts(scheduled=3, sent=3, succeeded=1, failed=2)
    group.add(0, replace(news(1, "measured"), left_out=[name], tally=Tally(counts=counts, replicas={name: counts})))
    some.close_second()
    some.close_second()
    replica = some.status().standing.replicas[name]
    assert (replica.counts.sent, replica.counts.failed, replica.left_out) == (3, 2, True)
