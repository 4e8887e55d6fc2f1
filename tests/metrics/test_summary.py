"""What the figures of a summary mean: percentiles, whether they rest on enough, and what they leave out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plans import TWO_REPLICAS
from plans import plan as made
from tokenstorm.loadgen.arrivals import mean_rate
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.reports import DiskReport, Environment, RankReport
from tokenstorm.metrics.summarize import Run, summarize
from tokenstorm.metrics.summary import QUANTILES, Metric, Summary
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.result import CENSORED, SCHEMA, Failure, Result, Turn

MS = 1_000_000


def of(values: list[int]) -> Histogram:
    histogram = Histogram()
    histogram.record_many(values)
    return histogram


@given(st.lists(st.integers(min_value=0, max_value=10**13), min_size=1, max_size=300))
def test_percentiles_are_within_one_percent_of_the_nearest_rank(values: list[int]) -> None:
    found = Metric.of(of(values))
    ordered = sorted(values)
    for name, q in QUANTILES.items():
        exact = ordered[max(1, math.ceil(q * len(ordered))) - 1] / 1e9
        assert getattr(found, name) == pytest.approx(exact, rel=0.01)
    assert found.min == pytest.approx(ordered[0] / 1e9)
    assert found.max == pytest.approx(ordered[-1] / 1e9)
    assert found.mean == pytest.approx(sum(values) / len(values) / 1e9)


def test_a_metric_without_samples_has_no_figures() -> None:
    found = Metric.of(Histogram())
    assert found.count == 0
    assert {found.mean, found.min, found.max, found.p50, found.p999} == {None}
    assert not any(found.enough.values())


@pytest.mark.parametrize(
    ("samples", "enough"),
    [(10, 0), (11, 1), (63, 1), (64, 2), (129, 2), (130, 3), (661, 3), (662, 4), (6635, 4), (6636, 5)],
)
def test_a_percentile_rests_on_enough_samples_where_loadgen_has_a_bound_of_it(samples: int, enough: int) -> None:
    found = Metric.of(of([MS] * samples))
    assert sum(found.enough.values()) == enough
    assert found.enough["p99"] == (samples >= 662)
    assert found.enough["p999"] == (samples >= 6636)


@pytest.mark.parametrize(
    ("missing", "bounds"), [(0, []), (1, []), (2, ["p999"]), (10, ["p999"]), (11, ["p99", "p999"])]
)
def test_a_percentile_is_a_lower_bound_when_more_is_missing_than_it_leaves(missing: int, bounds: list[str]) -> None:
    """Of 1000 requests p99.9 leaves 1, p99 leaves 10."""
    found = Metric.of(of([MS] * (1000 - missing)), missing / 1000)
    assert [name for name, is_bound in found.lower_bound.items() if is_bound] == bounds


def summary(results: list[Result], **changes: object) -> Summary:
    plan = made(**{"targets": TWO_REPLICAS, "requests_per_second": 2, "duration_seconds": 10, **changes})
    tally = Tally()
    tally.add(results, Window(0, 10**10))
    ranks = [
        RankReport(rank=0, host="a", cpu=0.1, gc_seconds=0.5, disk=DiskReport(slowest_seconds=0.1)),
        RankReport(rank=1, host="b", cpu=0.3, gc_seconds=0.25, loop_lag_max_seconds=0.2),
    ]
    run = Run(
        plan=plan,
        outcome="completed",
        window_end=10**10,
        requested_rps=mean_rate(plan, 10**10),
        started_at=None,
        ended_at=None,
        ranks=ranks,
        waited_below_cap=0,
        unsent_by_lost_ranks=0,
        left_out=["1"],
        environment=Environment(),
    )
    return summarize(run, tally)


def result(seq: int, error: str | None = None, replica: str = "0", source: str = "usage") -> Result:
    at = seq * 500 * MS
    failure = None if error is None else Failure(error, "")
    return Result(
        SCHEMA,
        seq,
        0,
        replica,
        "measured",
        at,
        at,
        sent=at,
        first_token=at + MS,
        last_token=at + 5 * MS,
        done=at + 6 * MS,
        output_tokens=5,
        prompt_tokens=3,
        token_source="chunks" if source == "chunks" else "usage",
        error=failure,
    )


def test_rates_are_per_second_of_the_window() -> None:
    """20 requests in 10 s, 5 tokens each."""
    found = summary([result(seq) for seq in range(20)])
    assert found.rates.requested_rps == found.rates.achieved_rps == 2
    assert found.rates.output_tokens_per_second == pytest.approx(10)
    assert found.rates.prompt_tokens_per_second == 6
    assert (found.tokens.output, found.tokens.prompt, found.tokens.source) == (100, 60, "usage")


def test_sessions_begin_as_often_as_was_asked_although_the_last_ones_go_on_for_long() -> None:
    """20 begin in 5 s, and the last turn of the last one ends after 10."""
    talk = {"turns": 1, "sessions": 20, "sessions_per_second": 4.0}
    turns = [replace(result(seq), conversation=Turn(seq, 1, 1, "measured", "completed")) for seq in range(20)]
    found = summary(turns, requests_per_second=None, conversation=talk)
    assert found.sessions is not None
    assert (found.sessions.started, found.sessions.started_per_second) == (20, 4)


def test_what_a_cache_would_find_of_shared_prefixes_is_not_said_of_conversations_which_share_their_past_too() -> None:
    shared = {"kind": "shared_prefix", "groups": 2, "prefix": 90, "question": 10}
    turns = [result(seq) for seq in range(20)]
    assert summary(turns, prompts=shared).tokens.prefix_ideal == pytest.approx(0.81)
    asked = {"prompts": shared, "requests_per_second": None, "conversation": {"turns": 2}}
    assert summary(turns, **asked).tokens.prefix_ideal is None


def test_failures_lower_the_achieved_rate_and_stay_out_of_the_latencies() -> None:
    found = summary([result(seq, "reset" if seq % 4 == 0 else None) for seq in range(20)])
    assert found.rates.requested_rps == 2
    assert found.rates.achieved_rps == 1.5
    assert found.metrics["latency_seconds"].count == 15
    assert found.metrics["send_lag_seconds"].count == 20
    assert found.metrics["latency_seconds"].lower_bound["p90"]
    assert not found.metrics["send_lag_seconds"].lower_bound["p90"]
    assert found.counts.failed_by_kind == {"reset": 5}


def test_a_censored_request_makes_the_latencies_lower_bounds() -> None:
    found = summary([result(0), result(1, CENSORED)])
    assert (found.counts.censored, found.counts.failed) == (1, 0)
    assert found.metrics["latency_seconds"].lower_bound["p90"]


def test_each_replica_and_whoever_counted_the_tokens_is_named() -> None:
    found = summary([result(0), result(1, replica="1", source="chunks")])
    assert found.tokens.source == "mixed"
    assert {name: report.counts.sent for name, report in found.replicas.items()} == {"0": 1, "1": 1}
    assert {name: report.left_out for name, report in found.replicas.items()} == {"0": False, "1": True}
    assert summary([]).tokens.source is None


def test_the_client_is_as_bad_as_its_worst_rank() -> None:
    client = summary([result(0)]).client
    assert (client.cpu_max, client.loop_lag_max_seconds, client.gc_seconds) == (0.3, 0.2, 0.75)
    assert client.disk.slowest_seconds == 0.1


def test_a_closed_loop_asks_for_no_rate() -> None:
    assert summary([result(0)], requests_per_second=None).rates.requested_rps is None


def test_the_upper_bound_of_p99_is_the_78th_longest_of_10_000() -> None:
    """LoadGen leaves out t = 77 and one: the bound is element n - t of the sorted samples, from 0."""
    found = Metric.of(of([place * MS for place in range(10_000)]))
    assert found.upper_bound_99["p99"] == pytest.approx(9.923, rel=0.008)
    assert found.upper_bound_99["p999"] is not None
    assert Metric.of(of([MS] * 600)).upper_bound_99["p99"] is None
