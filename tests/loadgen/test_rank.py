"""One rank against a real endpoint: whose fault it is when something was not sent, and what a loop that stood still costs."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns

import pytest
import uvloop

from held import Service
from plans import plan
from tokenstorm.loadgen.arrivals import scheduled_count
from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.loadgen.messages import Live
from tokenstorm.loadgen.openai import Requests
from tokenstorm.loadgen.pool import Pool
from tokenstorm.loadgen.prompts import load_prompts
from tokenstorm.loadgen.rank import Rank
from tokenstorm.loadgen.replicas import Replicas
from tokenstorm.loadgen.schedule import schedule_of
from tokenstorm.loadgen.writer import LineWriter
from tokenstorm.metrics.rebuild import tally_of
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.plan import Plan
from tokenstorm.result import Result
from tokenstorm.written import read_lines

MS = 1_000_000
FIELDS = {"stream": False, "drain_seconds": 5.0, "arrival": {"kind": "constant"}}


@pytest.fixture
def service() -> Iterator[Service]:
    """Answers nothing before it is told to."""
    made = Service(answers=False)
    yield made
    made.close()


@dataclass
class Driven:
    """What a rank did."""

    tally: Tally
    live: Live
    lines: list[Result]
    window: Window
    path: Path
    stood_still: Callable[[int], bool]
    """Whether the loop stood still at a moment: also a busy machine takes a rank off its core."""

    @property
    def unsent(self) -> list[Result]:
        return [line for line in self.lines if line.outcome == "unsent"]


class Standstill:
    """Makes a rank's loop stand still at a moment of its run.

    By default after it has looked at its sockets and before its timers; else the other way round.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self._ours, self._its = os.pipe()
        self._loop = asyncio.get_running_loop()

    def at(self, at: int, work: Callable[[], None], *, timers_first: bool = True) -> None:
        """Do `work`, which may sleep, at `at` nanoseconds from the start."""

        def wake() -> None:
            os.read(self._ours, 1)
            work()

        delay = (self.rank.started_at + at - monotonic_ns()) / 1e9
        if timers_first:
            self._loop.add_reader(self._ours, wake)
            self._loop.call_later(delay, os.write, self._its, b"x")
        else:
            self._loop.call_later(delay, work)

    def when(self, what: Callable[[], object], work: Callable[[], None]) -> None:
        """Do `work` once something is so: its timers come after that."""
        if what():
            work()
        else:
            self._loop.call_later(0.002, self.when, what, work)

    def until(self, at: int) -> None:
        """Sleep until `at` nanoseconds from the start."""
        while (left := self.rank.started_at + at - monotonic_ns()) > 0:
            time.sleep(left / 1e9)


def drive(folder: Path, some: Plan, during: Callable[[Rank, Standstill], None] | None = None) -> Driven:
    """Run the only rank of a plan to its end."""
    path = folder / "results.0.0.jsonl"

    async def main() -> Driven:
        endpoints = [Endpoint.parse(target.url) for target in some.targets]
        pools = [Pool(endpoint) for endpoint in endpoints]
        writer = LineWriter(path)
        writer.start()
        over = asyncio.Event()
        rank = Rank(
            some,
            0,
            1,
            started_at=monotonic_ns() + 50 * MS,
            schedule=schedule_of(some, 0, 1),
            requests=Requests(some, "m", endpoints, load_prompts(some), None),
            replicas=Replicas([target.replica for target in some.targets], pools),
            writer=writer,
            on_window_over=lambda: None,
            on_finished=over.set,
        )
        rank.start()
        if during is not None:
            during(rank, Standstill(rank))
        async with asyncio.timeout(60):
            await over.wait()
        live, _ = rank.take_live()
        assert writer.close(20).lost_lines == 0
        return Driven(
            rank.total, live, list(read_lines(path, Result, pytest.fail)), rank.window, path, rank._standstills.hold
        )

    return uvloop.run(main())


def load(service: Service, **fields: object) -> Plan:
    return plan(**{**FIELDS, "targets": [{"replica": "0", "url": service.url}], **fields})


def assert_sums(driven: Driven, some: Plan) -> None:
    """All arrivals of the plan are accounted for, and the lines alone say the same."""
    counts = driven.tally.counts
    end = driven.window.end
    assert end is not None
    assert (driven.tally.warmup.scheduled, counts.scheduled) == scheduled_count(some, 0, 1, end)
    assert counts.scheduled == counts.sent + counts.unsent
    again = tally_of({0: driven.path}, some, end, pytest.fail)
    assert again.counts == counts
    assert (again.warmup, again.replicas) == (driven.tally.warmup, driven.tally.replicas)
    assert (again.overslept, again.waited) == (driven.tally.overslept, driven.tally.waited)


@pytest.mark.parametrize("timers_first", [True, False])
def test_an_answer_that_is_read_just_after_the_end_charges_nothing_to_the_generator(
    tmp_path: Path, service: Service, timers_first: bool
) -> None:
    """10 clients ask and get no answer until the last moment; 40 arrivals wait. The answers are there, and are read late."""

    def during(_rank: Rank, stand: Standstill) -> None:
        def over_the_end() -> None:
            service.release()
            stand.until(505 * MS)

        stand.at(495 * MS, over_the_end, timers_first=timers_first)

    some = load(service, requests_per_second=100.0, num_clients=10, duration_seconds=0.5)
    driven = drive(tmp_path, some, during)
    assert driven.tally.counts.sent == driven.tally.counts.succeeded == 10
    asleep = [line.scheduled for line in driven.unsent if driven.stood_still(line.scheduled)]
    assert all(at < 495 * MS for at in asleep)  # the machine's own, before ours
    assert [line.scheduled for line in driven.unsent if line.slot_free is not None] == asleep
    assert (driven.tally.overslept, driven.tally.waited) == (len(asleep), 40 - len(asleep))
    lag = driven.tally.histograms["send_lag"].maximum
    assert lag is not None
    assert lag < 300 * MS  # the seconds that others waited are nobody's send lag
    assert_sums(driven, some)


def test_a_client_is_free_from_the_moment_its_answer_was_read_however_long_the_arrival_had_waited(
    tmp_path: Path, service: Service
) -> None:
    """Three busy clients, no arrival waits; then the loop stands still, and answers come before the next arrivals do."""

    def during(_rank: Rank, stand: Standstill) -> None:
        def stall() -> None:
            service.release()
            stand.until(270 * MS)
            service.answers = True

        stand.when(lambda: service.asked == 3, stall)

    some = load(service, requests_per_second=20.0, num_clients=3, duration_seconds=0.5)
    driven = drive(tmp_path, some, during)
    first = min(line.done or 0 for line in driven.lines)
    after = [line for line in driven.lines if line.scheduled in (150 * MS, 200 * MS, 250 * MS)]
    assert len(after) == 3
    assert all(line.slot_free is not None and line.slot_free >= first for line in after)
    assert_sums(driven, some)


def test_what_a_rank_did_not_come_to_while_clients_were_idle_is_its_own_fault(tmp_path: Path, service: Service) -> None:
    service.answers = True

    def during(_rank: Rank, stand: Standstill) -> None:
        stand.at(500 * MS, lambda: stand.until(1200 * MS))

    some = load(service, requests_per_second=5.0, num_clients=4, duration_seconds=1.0)
    driven = drive(tmp_path, some, during)
    assert [(line.scheduled, line.slot_free) for line in driven.unsent] == [(at * MS, at * MS) for at in (600, 800)]
    assert (driven.tally.overslept, driven.tally.waited) == (2, 0)
    assert_sums(driven, some)


@dataclass
class Slept:
    """From when to when a rank was made to stand still."""

    began: int = 0
    ended: int = 0

    def through(self, rank: Rank, stand: Standstill, until: int) -> None:
        self.began = monotonic_ns() - rank.started_at
        stand.until(until)
        self.ended = monotonic_ns() - rank.started_at


def overslept_in(driven: Driven) -> list[int]:
    """When each arrival was due that is charged to the generator."""
    found = [line for line in driven.unsent if line.slot_free is not None]
    assert all(line.slot_free == line.scheduled for line in found)
    return [line.scheduled for line in found]


@pytest.mark.parametrize("timers_first", [True, False])
def test_what_fell_due_while_the_rank_stood_still_up_to_the_end_is_its_own_fault(
    tmp_path: Path, service: Service, timers_first: bool
) -> None:
    """10 are sent, 21 find every client busy; then the answers are there, and for 700 ms nobody looks at them."""
    slept = Slept()

    def during(rank: Rank, stand: Standstill) -> None:
        def over_the_end() -> None:
            service.release()
            slept.through(rank, stand, 1005 * MS)

        stand.at(305 * MS, over_the_end, timers_first=timers_first)

    some = load(service, requests_per_second=100.0, num_clients=10, duration_seconds=1.0)
    driven = drive(tmp_path, some, during)
    assert driven.tally.counts.sent == driven.tally.counts.succeeded == 10
    overslept = overslept_in(driven)
    assert slept.began - 50 * MS < overslept[0] < slept.began + 11 * MS
    assert overslept == list(range(overslept[0], 1000 * MS, 10 * MS))
    assert driven.tally.overslept == len(overslept)
    assert driven.tally.waited == driven.live.waited == 90 - len(overslept)
    assert_sums(driven, some)


def test_what_finds_every_client_busy_before_or_after_a_standstill_is_not_charged_to_the_generator(
    tmp_path: Path, service: Service
) -> None:
    """From 305 to 605 ms nobody looks. Then 10 answers are read, and 10 arrivals are sent that waited since before it."""
    slept = Slept()

    def during(rank: Rank, stand: Standstill) -> None:
        def stall() -> None:
            service.release()
            slept.through(rank, stand, 605 * MS)

        stand.at(305 * MS, stall)

    some = load(service, requests_per_second=100.0, num_clients=10, duration_seconds=1.0, drain_seconds=0.0)
    driven = drive(tmp_path, some, during)
    assert driven.tally.counts.sent == 20
    overslept = overslept_in(driven)
    assert slept.began - 50 * MS < overslept[0] < slept.began + 11 * MS
    assert slept.ended - 11 * MS < overslept[-1] < slept.ended + 50 * MS
    assert driven.tally.overslept == len(overslept)
    assert (
        driven.tally.waited == driven.live.waited == 90 - len(overslept)
    )  # the second 10 that were sent had waited, too
    assert_sums(driven, some)


def test_a_standstill_cuts_the_stretches_of_what_was_never_sent(tmp_path: Path, service: Service) -> None:
    slept = Slept()

    def during(rank: Rank, stand: Standstill) -> None:
        stand.at(305 * MS, lambda: slept.through(rank, stand, 1005 * MS))

    some = load(service, requests_per_second=10_000.0, num_clients=10, duration_seconds=1.0, drain_seconds=0.0)
    driven = drive(tmp_path, some, during)
    assert driven.tally.counts.sent == 10
    first, *_ = overslept_in(driven)
    assert slept.began - 50 * MS < first < slept.began + 11 * MS
    assert any(line.stretch is not None for line in driven.unsent if line.scheduled == first)
    assert driven.tally.overslept == (1000 * MS - first) // (MS // 10)
    assert driven.tally.waited == driven.live.waited == 9990 - driven.tally.overslept
    assert_sums(driven, some)


def test_an_abort_charges_nobody_with_the_arrival_that_was_just_due(tmp_path: Path, service: Service) -> None:
    def during(rank: Rank, stand: Standstill) -> None:
        def stop() -> None:
            stand.until(601 * MS)
            rank.abort()

        stand.at(500 * MS, stop)

    driven = drive(tmp_path, load(service, requests_per_second=5.0, num_clients=9, duration_seconds=60.0), during)
    assert driven.tally.counts.scheduled == driven.tally.counts.sent == 3
    assert driven.tally.overslept == 0


def test_answers_that_lie_in_the_sockets_are_read_before_a_request_has_timed_out(
    tmp_path: Path, service: Service
) -> None:
    def during(_rank: Rank, stand: Standstill) -> None:
        def stall() -> None:
            service.release()
            service.answers = True
            stand.until(1500 * MS)

        stand.at(250 * MS, stall)

    some = load(service, requests_per_second=10.0, num_clients=20, duration_seconds=2.0, request_timeout_seconds=0.8)
    driven = drive(tmp_path, some, during)
    assert driven.tally.counts.failed_by_kind == {}
    assert driven.tally.counts.succeeded == 20


def test_answers_that_lie_in_the_sockets_are_read_before_the_drain_is_over(tmp_path: Path, service: Service) -> None:
    def during(_rank: Rank, stand: Standstill) -> None:
        def stall() -> None:
            service.release()
            stand.until(1000 * MS)

        stand.at(350 * MS, stall)

    some = load(service, requests_per_second=20.0, num_clients=20, duration_seconds=0.3, drain_seconds=0.2)
    counts = drive(tmp_path, some, during).tally.counts
    assert (counts.succeeded, counts.censored) == (6, 0)


def test_a_connection_that_was_made_while_the_loop_stood_still_has_its_time_to_answer(tmp_path: Path) -> None:
    """The kernel connects; the request can only leave when the loop goes on, which is after its time was over."""
    service = Service(answers=True, accepts=False)

    def during(_rank: Rank, stand: Standstill) -> None:
        def stall() -> None:
            service.accept()
            stand.until(3000 * MS)

        stand.at(500 * MS, stall)

    some = load(service, requests_per_second=1.0, num_clients=1, duration_seconds=1.0, request_timeout_seconds=2.0)
    counts = drive(tmp_path, some, during).tally.counts
    service.close()
    assert (counts.succeeded, counts.failed_by_kind) == (1, {})


def test_a_request_that_gets_no_answer_still_times_out(tmp_path: Path, service: Service) -> None:
    some = load(service, requests_per_second=20.0, num_clients=9, duration_seconds=0.2, request_timeout_seconds=0.3)
    driven = drive(tmp_path, some)
    assert driven.tally.counts.failed_by_kind == {"timeout": 4}
    assert all((line.done or 0) - (line.sent or 0) >= 300 * MS for line in driven.lines)


@pytest.mark.parametrize(
    ("arrival", "rate"), [("constant", 1_000_000.0), ("poisson", 100_000.0)], ids=["constant", "poisson"]
)
def test_a_rate_that_cannot_be_sent_leaves_a_small_file_in_which_every_arrival_is_counted(
    tmp_path: Path, service: Service, arrival: str, rate: float
) -> None:
    other = Service(answers=False)
    try:
        some = load(
            service,
            targets=[{"replica": "0", "url": service.url}, {"replica": "1", "url": other.url}],
            requests_per_second=rate,
            arrival={"kind": arrival},
            num_clients=4,
            warmup_seconds=0.1,
            duration_seconds=1.0,
            drain_seconds=0.0,
        )
        driven = drive(tmp_path, some)
    finally:
        other.close()
    assert driven.tally.counts.scheduled == pytest.approx(rate, rel=0.05)
    assert driven.tally.counts.unsent + driven.tally.warmup.unsent > rate
    assert driven.path.stat().st_size < 1_000_000
    assert_sums(driven, some)


def test_a_few_arrivals_that_were_not_sent_have_a_line_each(tmp_path: Path, service: Service) -> None:
    some = load(service, requests_per_second=500.0, num_clients=2, duration_seconds=0.5, drain_seconds=0.0)
    driven = drive(tmp_path, some)
    assert [line.seq for line in driven.unsent] == list(range(2, 250))
    assert all(line.stretch is None for line in driven.lines)
