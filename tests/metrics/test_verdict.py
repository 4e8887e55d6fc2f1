"""Where each bound of the verdict lies: the last value that is still good, and the first that is not."""

from typing import Any

import pytest
from msgspec.structs import replace

from plans import plan
from tokenstorm.metrics.counts import Counts, ReplicaReport
from tokenstorm.metrics.engine import EngineReport, ServerTimes
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.reports import DiskReport, Environment, Outcome, RankReport
from tokenstorm.metrics.summary import ClientReport, Figures, Metric, Rates, Tokens, Windows
from tokenstorm.metrics.verdict import judge

NO_LAG = Metric.of(Histogram())


def figures(
    *,
    scheduled: int = 10_000,
    sent: int = 10_000,
    succeeded: int = 10_000,
    failed: int = 0,
    censored: int = 0,
    internal: int = 0,
    unsent_by_generator: int = 0,
    capped: int = 0,
    unsent: int = 0,
    waited_below_cap: int = 0,
    send_lag_p99: float | None = 0.001,
    cpu: dict[int, float] | None = None,
    stalled: float = 0.0,
    seconds: float = 0.0,
    ranks: int = 8,
    lost: tuple[int, ...] = (),
    chunks: int = 10_000,
    coalesced: int = 0,
    warnings: dict[str, int] | None = None,
    disk: DiskReport = DiskReport(slowest_seconds=0.4),  # noqa: B008 - frozen
    left_out: tuple[str, ...] = (),
    ttft: tuple[int, float] = (1000, 0.150),
    of_the_engine: tuple[int, float] | None = None,
    outcome: Outcome = "completed",
) -> Figures:
    """The figures of a good run, but for what is given."""
    load = {0: 0.2, 1: 0.3} if cpu is None else cpu
    reports = [
        RankReport(
            rank=rank,
            cpu=load.get(rank, 0.0),
            wall_seconds=seconds + 1,
            stalled_seconds=stalled if rank == 0 else 0.0,
            lost="its process ended" if rank in lost else None,
        )
        for rank in range(ranks)
    ]
    client = ClientReport(
        cpu_max=0.0,
        loop_lag_max_seconds=0.0,
        gc_seconds=0.0,
        gc_longest_seconds=0.0,
        disk=disk,
        waited=capped + waited_below_cap,
        waited_below_cap=waited_below_cap,
        not_sent_by_generator=unsent_by_generator,
        chunks=chunks,
        coalesced=coalesced,
    )
    some = plan(ranks=ranks, num_clients=ranks)
    return Figures(
        run_id=some.run_id,
        group_id=None,
        plan=some,
        outcome=outcome,
        started_at=None,
        ended_at=None,
        clock={},
        counts=Counts(
            scheduled=scheduled,
            sent=sent,
            succeeded=succeeded,
            failed=failed,
            censored=censored,
            unsent=unsent,
            failed_by_kind={"internal": internal},
        ),
        windows=Windows(0.0, seconds, Counts()),
        rates=Rates(None, 0.0, None, None),
        metrics={
            "send_lag_seconds": replace(NO_LAG, p99=send_lag_p99),
            "ttft_seconds": replace(NO_LAG, count=ttft[0], mean=ttft[1]),
        },
        tokens=Tokens(None, None, None),
        warnings=warnings or {},
        replicas={name: ReplicaReport("-", Counts(), left_out=name in left_out) for name in "012"},
        ranks=reports,
        client=client,
        environment=Environment(),
        engine=of_the_engine and EngineReport({}, ServerTimes(*of_the_engine, None, None, None), None),
    )


def test_a_good_run_is_valid_and_has_no_reasons() -> None:
    verdict = judge(figures())
    assert (verdict.state, verdict.reasons) == ("valid", [])


@pytest.mark.parametrize(
    ("change", "state", "code"),
    [
        ({"unsent_by_generator": 100}, "valid", None),
        ({"unsent_by_generator": 101}, "suspect", "not_sent"),
        ({"unsent_by_generator": 500}, "suspect", "not_sent"),
        ({"unsent_by_generator": 501}, "invalid", "not_sent"),
        ({"send_lag_p99": 0.005}, "valid", None),
        ({"send_lag_p99": 0.0051}, "suspect", "send_lag"),
        ({"send_lag_p99": 0.050}, "suspect", "send_lag"),
        ({"send_lag_p99": 0.0501}, "invalid", "send_lag"),
        ({"send_lag_p99": None}, "valid", None),
        ({"cpu": {0: 0.1, 1: 0.80}}, "valid", None),
        ({"cpu": {0: 0.1, 1: 0.81}}, "suspect", "rank_cpu"),
        ({"cpu": {0: 0.95, 1: 0.1}}, "suspect", "rank_cpu"),
        ({"cpu": {0: 0.96, 1: 0.1}}, "invalid", "rank_cpu"),
        ({"failed": 100, "succeeded": 9900}, "valid", None),
        ({"failed": 101, "succeeded": 9899}, "suspect", "failures"),
        ({"failed": 1000, "succeeded": 9000}, "suspect", "failures"),
        ({"failed": 1001, "succeeded": 8999}, "invalid", "failures"),
        ({"failed": 10_000, "succeeded": 0}, "invalid", "nothing_succeeded"),
        ({"scheduled": 0, "sent": 0, "succeeded": 0}, "invalid", "nothing_succeeded"),
        ({"lost": (3,)}, "suspect", "ranks_lost"),
        ({"lost": (3, 5)}, "suspect", "ranks_lost"),
        ({"lost": (1, 3, 5)}, "invalid", "ranks_lost"),
        ({"ranks": 1, "lost": (0,)}, "invalid", "ranks_lost"),
        ({"waited_below_cap": 100}, "valid", None),
        ({"waited_below_cap": 101}, "suspect", "rank_cap"),
        ({"outcome": "cut off"}, "suspect", "cut_off"),
        ({"stalled": 0.1, "seconds": 10.0}, "valid", None),
        ({"stalled": 0.11, "seconds": 10.0}, "suspect", "stalled"),
        ({"stalled": 1.0, "seconds": 10.0}, "suspect", "stalled"),
        ({"stalled": 1.1, "seconds": 10.0}, "invalid", "stalled"),
        ({"capped": 100}, "valid", None),
        ({"capped": 101}, "suspect", "client_cap"),
        ({"capped": 10_000}, "suspect", "client_cap"),
        ({"capped": 10_000, "unsent": 1000}, "suspect", "client_cap"),
        ({"capped": 10_000, "unsent": 1001}, "invalid", "client_cap"),
        ({"coalesced": 500}, "valid", None),
        ({"coalesced": 501}, "suspect", "coalesced"),
        ({"chunks": 0, "coalesced": 0}, "valid", None),
        ({"censored": 100}, "valid", None),
        ({"censored": 101}, "suspect", "censored"),
        ({"warnings": {"short": 1}}, "suspect", "short_output"),
        ({"warnings": {"no_token": 99}}, "valid", None),
        ({"warnings": {"no_token": 101}}, "suspect", "no_tokens"),
        ({"warnings": {"no_token": 10_000}}, "invalid", "no_tokens"),
        ({"warnings": {"not_streamed": 101}}, "suspect", "not_streamed"),
        ({"warnings": {"usage": 101}}, "suspect", "usage"),
        ({"warnings": {"skipped": 10_000}}, "valid", None),
        ({"warnings": {"unknown": 101}}, "suspect", "unknown"),
        ({"internal": 1}, "suspect", "internal"),
        ({"disk": DiskReport(slowest_seconds=0.6, stalls=1)}, "suspect", "disk"),
        ({"disk": DiskReport(lost_lines=1)}, "suspect", "disk"),
        ({"disk": DiskReport(error="No space left on device")}, "suspect", "disk"),
        ({"left_out": ("2",)}, "suspect", "replica_left_out"),
        ({"of_the_engine": (1000, 0.121)}, "valid", None),  # 29 ms are less than 20% of 150
        ({"of_the_engine": (1000, 0.119)}, "suspect", "server_ttft"),
        ({"of_the_engine": (1000, 0.200)}, "valid", None),
        ({"ttft": (1000, 0.030), "of_the_engine": (1000, 0.0101)}, "valid", None),  # 66%, but less than 20 ms
        ({"of_the_engine": (1101, 0.05)}, "valid", None),  # it served somebody else too
        ({"of_the_engine": (1100, 0.05)}, "suspect", "server_ttft"),
        ({"ttft": (99, 0.15), "of_the_engine": (99, 0.05)}, "valid", None),
        ({"ttft": (100, 0.15), "of_the_engine": (100, 0.05)}, "suspect", "server_ttft"),
    ],
)
def test_each_bound_lies_where_the_design_says(change: dict[str, Any], state: str, code: str | None) -> None:
    verdict = judge(figures(**change))
    assert verdict.state == state
    assert [reason.code for reason in verdict.reasons] == ([code] if code else [])


def test_too_few_clients_are_told_with_the_number_that_could() -> None:
    few = figures(capped=5000, unsent=4400)
    few.metrics["service_time_seconds"] = replace(NO_LAG, count=1, mean=1.3)
    told = judge(replace(few, rates=Rates(15.0, 0.0, None, None))).reasons[0].text
    assert told == (
        "5000 of 10000 arrivals found every client busy, and 4400 of them were never sent: "
        "15/s × 1.3 s needs about 20 clients; num_clients is 8"  # noqa: RUF001 - it multiplies
    )


def test_the_worst_of_several_reasons_decides_and_all_are_told() -> None:
    verdict = judge(figures(warnings={"short": 1}, lost=(1, 2, 3), send_lag_p99=0.02))
    assert verdict.state == "invalid"
    assert {reason.code for reason in verdict.reasons} == {"short_output", "ranks_lost", "send_lag"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unsent_by_generator": 600}, ["600", "10000", "more ranks"]),
        ({"send_lag_p99": 0.25}, ["250.0 ms"]),
        ({"cpu": {0: 0.1, 4: 0.99}}, ["rank 4", "99%"]),
        ({"lost": (6, 7)}, ["2 of 8", "6, 7"]),
        ({"failed": 2000, "succeeded": 8000}, ["2000 of 10000"]),
        ({"disk": DiskReport(error="No space left on device", lost_lines=5)}, ["No space left", "5 result lines"]),
        ({"left_out": ("1", "2")}, ["1, 2"]),
        ({"capped": 5000}, ["5000", "num_clients"]),
        ({"of_the_engine": (1000, 0.05)}, ["150 ms here", "50 ms by the engine", "100 ms", "network"]),
    ],
)
def test_reasons_say_how_much_and_what_to_do(change: dict[str, Any], words: list[str]) -> None:
    (reason,) = judge(figures(**change)).reasons
    for word in words:
        assert word in reason.text


def test_two_disks_taken_together_have_the_worst_of_both() -> None:
    one, other = DiskReport(slowest_seconds=1, stalls=1), DiskReport(slowest_seconds=0.1, lost_lines=3, error="full")
    both = DiskReport(slowest_seconds=1, stalls=1, lost_lines=3, error="full")
    assert one.merge(other) == other.merge(one) == both
