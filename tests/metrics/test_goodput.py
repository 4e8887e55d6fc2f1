"""A request is good when it succeeded and met every objective; goodput is a share of all that were scheduled."""

from typing import Any

import pytest
from msgspec.structs import replace

from plans import plan
from running import samples
from tokenstorm.errors import PlanError, UsageError
from tokenstorm.load import Load, make
from tokenstorm.load_parts import Slo
from tokenstorm.metrics.exposition import Gauges, render
from tokenstorm.metrics.goodput import Goodput, is_good
from tokenstorm.metrics.reports import Environment
from tokenstorm.metrics.summarize import Run, summarize
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.result import CENSORED, SCHEMA, Failure, Result, Stretch
from tokenstorm.typed import typed_slo

MS = 1_000_000
SECOND = 1000 * MS
ANSWERED = Result(
    SCHEMA,
    0,
    0,
    "0",
    "measured",
    0,
    10 * MS,
    sent=10 * MS,
    first_token=110 * MS,
    last_token=150 * MS,
    done=160 * MS,
    output_tokens=5,
    token_source="usage",
)
"""Due at 0, sent at 10 ms: TTFT 100 ms, TPOT 40 / 4 = 10 ms, latency 160 ms."""


@pytest.mark.parametrize(
    ("met", "missed"),
    [
        ({"ttft_seconds": 0.1}, {"ttft_seconds": 0.0999}),
        ({"tpot_seconds": 0.01}, {"tpot_seconds": 0.0099}),
        ({"latency_seconds": 0.16}, {"latency_seconds": 0.1599}),
        ({"inter_chunk_p99_seconds": 0.02}, {"inter_chunk_p99_seconds": 0.0199}),
    ],
)
def test_an_objective_is_met_up_to_its_very_value_and_one_that_is_missed_is_enough(
    met: dict[str, float], missed: dict[str, float]
) -> None:
    others = {"ttft_seconds": 9.0, "tpot_seconds": 9.0, "latency_seconds": 9.0, "inter_chunk_p99_seconds": 9.0}
    assert is_good(ANSWERED, Slo(**met), 20 * MS)
    assert is_good(ANSWERED, Slo(**{**others, **met}), 20 * MS)
    assert not is_good(ANSWERED, Slo(**{**others, **missed}), 20 * MS)


@pytest.mark.parametrize(
    ("objective", "without"),
    [
        ({"ttft_seconds": 9.0}, {"first_token": None, "last_token": None}),
        ({"tpot_seconds": 9.0}, {"output_tokens": 1}),
        ({"tpot_seconds": 9.0}, {"last_token": ANSWERED.first_token}),
        ({"inter_chunk_p99_seconds": 9.0}, {}),
        ({"latency_seconds": 9.0}, {"error": Failure("reset", "")}),
        ({"latency_seconds": 9.0}, {"error": Failure(CENSORED, "")}),
        ({"latency_seconds": 9.0}, {"sent": None}),
    ],
)
def test_what_failed_or_has_no_such_time_is_not_good(objective: dict[str, float], without: dict[str, Any]) -> None:
    assert not is_good(replace(ANSWERED, **without), Slo(**objective), None)


def test_the_share_is_of_all_that_were_scheduled_unsent_and_failed_ones_too() -> None:
    """Two good ones of eight: one is slow, one failed, four were never sent. 5 tokens each, over 10 s."""
    lines = [
        replace(ANSWERED, good=True),
        replace(ANSWERED, seq=1, good=True),
        replace(ANSWERED, seq=2, good=False),
        replace(ANSWERED, seq=3, good=False, error=Failure("reset", "")),
        Result(SCHEMA, 4, 0, "0", "measured", SECOND, None, stretch=Stretch(4, 1, 2 * SECOND)),
        replace(ANSWERED, seq=0, phase="warmup", good=True, done=None),
    ]
    tally = Tally()
    tally.add(lines, Window(0, 10 * SECOND))
    assert goodput(tally, share=0.25) == Goodput(2, 0.25, 0.2, 1.0, met=True)
    assert goodput(tally, share=0.26) == Goodput(2, 0.25, 0.2, 1.0, met=False)
    assert goodput(Tally(), share=0.5) == Goodput(0, None, 0.0, None, met=False)


def goodput(tally: Tally, share: float) -> Goodput | None:
    run = Run(
        plan=plan(requests_per_second=1, duration_seconds=10, slo={"latency_seconds": 1, "share": share}),
        outcome="completed",
        window_end=10 * SECOND,
        requested_rps=1.0,
        started_at=None,
        ended_at=None,
        ranks=[],
        waited_below_cap=0,
        unsent_by_lost_ranks=0,
        left_out=[],
        environment=Environment(),
    )
    return summarize(run, tally).goodput


def test_good_requests_are_counted_for_prometheus_only_where_there_are_objectives() -> None:
    gauges = Gauges("measured", 0, None, 0.0, {})
    found = [
        {name for name, _, _ in samples(render("7", Tally(), gauges, has_slo=has).decode())} for has in (False, True)
    ]
    assert found[1] - found[0] == {"client_requests_good_total"}


def test_objectives_are_typed_with_units() -> None:
    assert typed_slo("ttft=500ms, tpot=0.05") == {"ttft_seconds": 0.5, "tpot_seconds": 0.05}
    typed = typed_slo("latency=5s,inter_chunk_p99=0.25,share=95%")
    assert typed == {"latency_seconds": 5.0, "inter_chunk_p99_seconds": 0.25, "share": 0.95}


@pytest.mark.parametrize(
    "text", ["ttft", "ttft=", "ttft=5%", "share=1s", "ttft=1,ttft=2", "p50=1s", "ttft=-1", "ttft=1;"]
)
def test_objectives_that_cannot_be_read_are_refused_with_the_way_to_write_them(text: str) -> None:
    with pytest.raises(UsageError, match="must look like ttft=500ms"):
        typed_slo(text)


@pytest.mark.parametrize(
    ("slo", "field"),
    [({}, "slo"), ({"share": 0.5}, "slo"), ({"ttft_seconds": 0}, "slo.ttft_seconds"), ({"ttft": 1}, "slo.ttft")],
)
def test_objectives_that_make_no_sense_are_refused_with_their_field(slo: dict[str, float], field: str) -> None:
    with pytest.raises(PlanError) as refused:
        make({"num_clients": 1, "slo": slo}, Load)
    assert refused.value.field == field
