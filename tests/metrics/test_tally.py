"""Tallies add up: whatever way requests are spread over seconds and ranks, the sum is the same."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import TWO_REPLICAS, plan
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.result import CENSORED, SCHEMA, Failure, Result

PLAN = plan(targets=TWO_REPLICAS, warmup_seconds=1, duration_seconds=10, max_tokens=8, ignore_eos=True)
SECOND = 1_000_000_000
WINDOW = Window(1 * SECOND, 11 * SECOND, (4 * SECOND, 8 * SECOND, 11 * SECOND))


def add(results: list[Result]) -> Tally:
    tally = Tally()
    tally.add(results, WINDOW)
    return tally


def merged(*tallies: Tally) -> Tally:
    """A new tally; the given ones stay as they are."""
    total = Tally()
    for tally in tallies:
        total.merge(msgspec.msgpack.decode(msgspec.msgpack.encode(tally), type=Tally))
    return total


def assert_same(one: Tally, other: Tally) -> None:
    """Equal, but for the last digits of a sum of fractions."""
    a, b = (msgspec.to_builtins(tally) for tally in (one, other))
    tokens = [tally.pop("output_tokens_in_window") for tally in (a, b)]
    assert math.isclose(*tokens, rel_tol=1e-9, abs_tol=1e-9)
    tokens = [tally["good"].pop("output_tokens_in_window") for tally in (a, b)]
    assert math.isclose(*tokens, rel_tol=1e-9, abs_tol=1e-9)
    assert a == b


@st.composite
def results(draw: st.DrawFn) -> Result:
    """Any result that a rank can write."""
    gap = st.integers(min_value=0, max_value=5 * SECOND)
    scheduled = draw(st.integers(min_value=0, max_value=11 * SECOND))
    common: dict[str, Any] = {
        "schema": SCHEMA,
        "seq": draw(st.integers(min_value=0, max_value=1000)),
        "rank": 0,
        "replica": draw(st.sampled_from(["0", "1"])),
        "phase": "measured" if scheduled >= WINDOW.start else "warmup",
        "scheduled": scheduled,
    }
    kind = draw(st.sampled_from(["unsent", "overslept", "ok", "empty", "whole", "failed", "cut", "censored"]))
    if kind in {"unsent", "overslept"}:
        return Result(**common, slot_free=scheduled if kind == "overslept" else None)
    slot_free = scheduled + draw(gap)
    sent = slot_free + draw(gap)
    token = sent + draw(gap)
    last = token + draw(gap)
    done = last + draw(gap)
    common |= {"slot_free": slot_free, "sent": sent, "done": done, "resent": draw(st.booleans())}
    if kind in {"failed", "censored", "cut"}:
        error = Failure(CENSORED if kind == "censored" else draw(st.sampled_from(["reset", "http_500"])), "why")
        common |= {"error": error}
    if kind in {"ok", "cut"}:
        common |= {
            "first_chunk": token,
            "first_token": token,
            "first_content": draw(st.sampled_from([None, last])),
            "last_token": last,
            "chunks": draw(st.integers(min_value=1, max_value=9)),
            "coalesced": draw(st.integers(min_value=0, max_value=3)),
        }
    common["good"] = draw(st.sampled_from([None, False, True])) if kind in {"ok", "whole"} else None
    if kind in {"ok", "cut", "whole"}:
        common |= {"prompt_tokens": 5, "output_tokens": draw(st.integers(min_value=1, max_value=9))}
        common |= {"token_source": draw(st.sampled_from(["usage", "chunks"]))}
    return Result(**common)


MANY = st.lists(results(), max_size=25)


@given(MANY, MANY)
def test_merging_is_the_same_as_adding_all_at_once(some: list[Result], others: list[Result]) -> None:
    assert_same(merged(add(some), add(others)), add(some + others))


@given(MANY, MANY)
def test_the_order_of_merging_does_not_matter(some: list[Result], others: list[Result]) -> None:
    assert_same(merged(add(some), add(others)), merged(add(others), add(some)))


@given(MANY, MANY, MANY)
def test_the_grouping_of_merging_does_not_matter(a: list[Result], b: list[Result], c: list[Result]) -> None:
    one = merged(merged(add(a), add(b)), add(c))
    assert_same(one, merged(add(a), merged(add(b), add(c))))


@given(MANY)
def test_nothing_merged_changes_nothing_and_nothing_is_shared(some: list[Result]) -> None:
    tally, total = add(some), Tally()
    total.merge(tally)
    assert_same(total, tally)
    total.add(some, WINDOW)
    assert_same(tally, add(some))


@given(MANY)
def test_the_counts_always_add_up(some: list[Result]) -> None:
    tally = add(some)
    for counts in (tally.counts, tally.warmup, *tally.replicas.values()):
        assert counts.scheduled == counts.sent + counts.unsent
        assert counts.sent == counts.succeeded + counts.failed + counts.censored
        assert counts.failed == sum(counts.failed_by_kind.values())
    assert tally.counts.scheduled + tally.warmup.scheduled == len(some)
    assert tally.counts.scheduled == sum(counts.scheduled for counts in tally.replicas.values())
    histograms = tally.histograms
    assert histograms["latency"].count == tally.counts.succeeded
    assert histograms["send_lag"].count == tally.counts.sent
    assert histograms["schedule_delay"].total == histograms["client_wait"].total + histograms["send_lag"].total
    assert histograms["latency"].total >= histograms["service_time"].total


def ok(scheduled: int, **times: Any) -> Result:
    fields: dict[str, Any] = {
        "slot_free": scheduled,
        "sent": scheduled,
        "first_token": scheduled,
        "last_token": scheduled,
        "done": scheduled,
        "output_tokens": 8,
        "prompt_tokens": 5,
        "token_source": "usage",
        **times,
    }
    phase: Any = "measured" if scheduled >= WINDOW.start else "warmup"
    return Result(SCHEMA, 0, 0, "0", phase, scheduled, **fields)


def test_each_duration_is_what_its_name_says() -> None:
    """Scheduled at 2 s, a client free at 2.1, sent at 2.12, tokens from 2.5 to 3.2, done at 3.3; 8 tokens have 7 gaps."""
    at = {"slot_free": 2.1, "sent": 2.12, "first_token": 2.5, "first_content": 2.6, "last_token": 3.2, "done": 3.3}
    tally = add([ok(2 * SECOND, **{name: round(seconds * SECOND) for name, seconds in at.items()})])
    found = {name: histogram.total / 1e6 for name, histogram in tally.histograms.items() if histogram.count}
    assert found == {
        "latency": 1300,
        "service_time": 1180,
        "ttft": 380,
        "ttft_content": 480,
        "ttft_from_schedule": 500,
        "tpot": 100,
        "schedule_delay": 120,
        "client_wait": 100,
        "send_lag": 20,
    }


@pytest.mark.parametrize(
    ("times", "answers", "tokens", "prompts"),
    [
        ((2, 3, 5, 5), 1, 8, 5),  # all inside
        ((0, 0.5, 1.5, 2), 1, 4, 0),  # from the warm-up: half of its tokens, its prompt was read before
        ((10, 10.5, 11.5, 12), 0, 4, 5),  # into the drain
        ((0, 0.2, 0.8, 0.9), 0, 0, 0),  # all before
        ((10.9, 11, 12, 12), 0, 0, 0),  # all after: the window's end is outside
        ((0, 1, 1, 1), 1, 8, 5),  # in one read, at its very start: inside
    ],
)
def test_rates_count_what_lies_inside_the_window(
    times: tuple[float, float, float, float], answers: int, tokens: float, prompts: int
) -> None:
    """The window is from 1 s to 11 s; 8 tokens are spread evenly from the first to the last. Times are those of
    schedule, first token, last token and end."""
    scheduled, first, last, done = (round(at * SECOND) for at in times)
    tally = add([ok(scheduled, first_token=first, last_token=last, done=done)])
    assert tally.done_in_window == answers
    assert tally.output_tokens_in_window == pytest.approx(tokens)
    assert tally.prompt_tokens_in_window == prompts


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    assert add([ok(2 * SECOND, output_tokens=1)]).histograms["tpot"].count == 0


def test_who_is_to_blame_for_an_arrival_that_was_never_sent() -> None:
    """With a client free it was the generator; with none it was the cap."""
    tally = add([ok(2 * SECOND, sent=None, done=None), ok(2 * SECOND, sent=None, done=None, slot_free=None)])
    assert (tally.counts.unsent, tally.overslept, tally.waited) == (2, 1, 1)


def test_a_wait_of_a_millisecond_is_none() -> None:
    def waited(nanoseconds: int) -> int:
        at = 2 * SECOND + nanoseconds
        return add([ok(2 * SECOND, slot_free=at, sent=at, first_token=at, last_token=at, done=at)]).waited

    assert (waited(1_000_000), waited(1_000_001)) == (0, 1)


def test_what_is_odd_about_a_success_is_counted() -> None:
    odd = ok(2 * SECOND, warnings=["short", "usage"])
    assert add([ok(2 * SECOND), odd, odd, ok(2 * SECOND, warnings=["usage"])]).warnings == {"short": 2, "usage": 3}


def test_tokens_that_were_not_shown_have_no_part_in_the_time_per_token() -> None:
    """Ten tokens in 0.9 s are 100 ms apart, however many were thought before."""
    times = {"first_token": 3 * SECOND, "last_token": 3 * SECOND + 900_000_000, "done": 4 * SECOND}
    found = add([ok(2 * SECOND, output_tokens=500, hidden_tokens=490, **times)]).histograms["tpot"]
    assert (found.count, found.total) == (1, 100_000_000)


def test_tokens_that_share_one_read_have_no_time_between_them() -> None:
    """A time per token of 0 would pass every bound."""
    assert add([ok(2 * SECOND, first_token=3 * SECOND, last_token=3 * SECOND)]).histograms["tpot"].count == 0


def test_a_tally_survives_the_way_to_the_launcher() -> None:
    tally = add([ok(2 * SECOND), ok(0), ok(3 * SECOND, error=Failure("reset", "x"))])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(tally), type=Tally) == tally


@pytest.mark.parametrize(
    ("sent", "done", "seconds"),
    [(0, 1, 0), (0, 3, 2), (2, 5, 3), (9, 99, 2), (0, 99, 10), (11, 12, 0), (10, None, 1), (12, None, 0)],
)
def test_a_request_counts_as_in_flight_while_it_is_and_only_in_the_window(
    sent: int, done: int | None, seconds: int
) -> None:
    """The window is from 1 s to 11 s."""
    assert WINDOW.overlap(sent * SECOND, None if done is None else done * SECOND) == seconds * SECOND


def test_a_moment_belongs_to_the_stage_that_begins_with_it_and_the_end_to_the_last() -> None:
    assert [WINDOW.stage_of(second * SECOND) for second in (1, 3, 4, 7, 8, 11, 12)] == [0, 0, 1, 1, 2, 2, 2]
    staged = plan(
        warmup_seconds=1.0,
        duration_seconds=10.0,
        arrival={"stages": [{"rps": 1, "seconds": 3}, {"rps": 2, "seconds": 7}]},
    )
    assert Window.of(staged, 9 * SECOND) == Window(SECOND, 9 * SECOND, (4 * SECOND, 11 * SECOND))
