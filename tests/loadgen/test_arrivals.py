"""When requests are meant to leave."""

from bisect import bisect_left
from fractions import Fraction
from itertools import islice, pairwise
from math import fsum, sqrt
from statistics import mean, pvariance

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import plans
from tokenstorm.loadgen.arrivals import (
    clients_of,
    count_end_ns,
    first_sends,
    mean_rate,
    needed_ahead,
    offsets,
    rate_at,
    rate_in,
    scheduled_count,
    window_end_of,
)
from tokenstorm.plan import Plan

SECOND = 1_000_000_000


def plan(**fields: object) -> Plan:
    return plans.plan(**{"num_clients": 10, "seed": 7, **fields})


def times(some_plan: Plan) -> list[float]:
    return [at / SECOND for _, at in offsets(some_plan, 0, 1)]


def counted(some_plan: Plan, *, begin: float, end: float) -> int:
    return sum(begin <= at < end for at in times(some_plan))


def test_constant_arrivals_are_a_period_apart() -> None:
    assert times(plan(requests_per_second=4.0, duration_seconds=2.0)) == [0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


@pytest.mark.parametrize(
    ("rate", "seconds", "expected"),
    [(20.0, 10.0, 200), (3.0, 7.0, 21), (0.1, 100.0, 10), (333.0, 13.0, 4329), (7.7, 10.0, 77), (0.5, 1.0, 1)],
)
def test_a_constant_rate_sends_rate_times_seconds(rate: float, seconds: float, expected: int) -> None:
    assert len(times(plan(requests_per_second=rate, duration_seconds=seconds))) == expected


@settings(max_examples=100)
@given(st.integers(1, 5000), st.integers(1, 300), st.integers(0, 50))
def test_a_constant_rate_is_exact_for_any_decimal_rate_and_length(rate: int, seconds: int, warmup: int) -> None:
    """Tenths of all three. Arrival i is at i/R, so there are ⌈R·t⌉ before t: R·t of them where that is whole.

    The sums are of integers in hundredths; -(-a // b) is ⌈a/b⌉.
    """
    some = plan(requests_per_second=rate / 10, duration_seconds=seconds / 10, warmup_seconds=warmup / 10)
    before, whole = -(-rate * warmup // 100), -(-rate * (warmup + seconds) // 100)
    assert scheduled_count(some, 0, 1, 10**15) == (before, whole - before)
    assert [at for _, at in offsets(some, 0, 1)][-1:] == [round(Fraction((whole - 1) * 10 * SECOND, rate))][:whole]


def test_an_arrival_that_falls_on_the_end_is_not_in_the_window() -> None:
    """1.1 * 30 is 33.000000000000004 in floats, so that arrival 33 would just fit in; it is at 33 / 1.1 = 30 s."""
    assert len(times(plan(requests_per_second=1.1, duration_seconds=30.0))) == 33


def test_a_schedule_without_an_end_in_time_is_made_as_it_is_asked_for() -> None:
    endless = plan(requests_per_second=10.0, duration_seconds=None, request_count=2**31, warmup_seconds=0.5)
    assert list(islice(offsets(endless, 1, 4), 3)) == [(1, SECOND // 10), (5, SECOND // 2), (9, 9 * SECOND // 10)]
    assert rate_at(endless, 10**18) == 10


@pytest.mark.parametrize(
    "arrival",
    [
        {"ramp": {"from_rps": 0.0, "to_rps": 10.0}},
        {"stages": [{"rps": 0.0, "seconds": 1.0}, {"rps": 10.0, "seconds": 1.0}]},
    ],
)
def test_nothing_is_sent_in_a_warm_up_before_a_rate_of_nothing(arrival: dict[str, object]) -> None:
    """Ramp: 2 s at 5/s on average are 10 arrivals; stages: 1 s at 10/s."""
    some = plan(arrival=arrival, duration_seconds=2.0, warmup_seconds=2.0)
    assert scheduled_count(some, 0, 1, 10**15) == (0, 10)
    assert rate_at(some, SECOND) == 0


def test_warm_up_comes_first_at_the_first_rate_and_is_no_part_of_the_window() -> None:
    warm = plan(requests_per_second=5.0, duration_seconds=2.0, warmup_seconds=1.0)
    assert counted(warm, begin=0, end=1) == 5
    assert counted(warm, begin=1, end=3) == 10


def test_a_ramp_sends_what_the_integral_of_its_rate_says() -> None:
    """From 0 to 50 in 10 s: 2.5 t² arrivals by t: 62.5 by 5 s, 250 by 10 s."""
    ramp = plan(arrival={"ramp": {"from_rps": 0.0, "to_rps": 50.0}}, duration_seconds=10.0)
    assert len(times(ramp)) == 250
    assert counted(ramp, begin=0, end=5) == 63  # arrivals 0 to 62


def test_a_ramp_down_to_nothing_ends_with_its_last_arrival() -> None:
    """From 50 to 0 in 10 s: 50 t - 2.5 t²: 187.5 by 5 s, 250 by 10 s."""
    ramp = plan(arrival={"ramp": {"from_rps": 50.0, "to_rps": 0.0}}, duration_seconds=10.0)
    assert counted(ramp, begin=0, end=5) == 188
    assert len(times(ramp)) == 250


def test_a_stage_without_a_rate_is_a_pause() -> None:
    stages = [{"rps": 5.0, "seconds": 2.0}, {"rps": 0.0, "seconds": 3.0}, {"rps": 10.0, "seconds": 1.0}]
    paused = plan(arrival={"stages": stages}, duration_seconds=6.0)
    assert counted(paused, begin=0, end=2) == 10
    assert counted(paused, begin=2, end=5) == 0
    assert counted(paused, begin=5, end=6) == 10


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), min_size=1, max_size=5))
@example([(196, 250)])
def test_no_arrival_slips_from_one_stage_into_the_next(stages: list[tuple[int, int]]) -> None:
    """Tenths of both, so that sums are of integers in hundredths. Stages before t do ⌈Λ(t)⌉ arrivals, pauses none.

    19.6 * 25 is 490.00000000000006 in floats, so that arrival 490 would still be sent, in the pause that follows.
    """
    stages = [*stages, (0, 50), (10, 10)]
    profile = [{"rps": rate / 10, "seconds": length / 10} for rate, length in stages]
    some = plan(arrival={"stages": profile}, duration_seconds=fsum(length / 10 for _, length in stages))
    ats = [at for _, at in offsets(some, 0, 1)]
    until = work = 0
    for rate, length in stages:
        until, work = until + length, work + rate * length
        assert bisect_left(ats, until * SECOND // 10) == -(-work // 100)


@settings(max_examples=100)
@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 100))
@example(152, 0, 150)
def test_a_ramp_is_exact_for_any_decimal_rates_and_length(first: int, last: int, length: int) -> None:
    """Tenths of all three: (first + last) / 2 * length arrivals, rounded up as the first of them is at 0."""
    assume(first + last)
    some = plan(arrival={"ramp": {"from_rps": first / 10, "to_rps": last / 10}}, duration_seconds=length / 10)
    assert len(times(some)) == -(-(first + last) * length // 200)


@pytest.mark.parametrize("kind", [{"kind": "poisson"}, {"kind": "gamma", "burstiness": 2.0}])
@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ({"ramp": {"from_rps": 0.0, "to_rps": 1000.0}}, [200, 600, 1000, 1400, 1800]),
        ({"ramp": {"from_rps": 1000.0, "to_rps": 500.0}}, [1900, 1700, 1500, 1300, 1100]),
        (
            {"stages": [{"rps": rate, "seconds": 2.0} for rate in (1000.0, 0.0, 250.0, 2000.0, 500.0)]},
            [2000, 0, 500, 4000, 1000],
        ),
    ],
)
def test_random_arrivals_follow_the_integral_of_the_rate(
    kind: dict[str, object], profile: dict[str, object], expected: list[int]
) -> None:
    """Each fifth of 10 s, within five standard deviations of a Poisson count; the first ramp does 50 t² by t."""
    some = plan(arrival={**kind, **profile}, duration_seconds=10.0)
    for fifth, count in enumerate(expected):
        assert abs(counted(some, begin=2 * fifth, end=2 * fifth + 2) - count) <= 5 * sqrt(count)


def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() -> None:
    """20,000 gaps at 100/s: mean 0.01 and variance 0.0001, each within five standard errors or so."""
    at = times(plan(arrival={"kind": "poisson"}, requests_per_second=100.0, duration_seconds=200.0))
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert mean(gaps) == pytest.approx(0.01, rel=0.04)
    assert pvariance(gaps) == pytest.approx(0.0001, rel=0.1)


@pytest.mark.parametrize("burstiness", [0.25, 4.0])
def test_the_variance_of_gamma_gaps_falls_with_burstiness(burstiness: float) -> None:
    """A gamma gap of mean m and shape k has the variance m²/k."""
    gamma = {"kind": "gamma", "burstiness": burstiness}
    at = times(plan(arrival=gamma, requests_per_second=100.0, duration_seconds=200.0))
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert mean(gaps) == pytest.approx(0.01, rel=0.06)
    assert pvariance(gaps) == pytest.approx(0.0001 / burstiness, rel=0.2)


def test_request_count_ends_the_schedule_after_so_many_measured_arrivals() -> None:
    some = plan(requests_per_second=10.0, duration_seconds=None, request_count=7, warmup_seconds=1.0)
    assert scheduled_count(some, 0, 1, 10**15) == (10, 7)


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 60), st.sampled_from([0.0, 0.05, 0.9]), st.integers(0, 2**48))
def test_the_ranks_agree_on_which_arrival_is_the_last_of_request_count(
    ranks: int, wanted: int, warmup: float, seed: int
) -> None:
    some = plan(
        arrival={"kind": "poisson"},
        requests_per_second=40.0,
        duration_seconds=None,
        request_count=wanted,
        warmup_seconds=warmup,
        num_clients=12,
        seed=seed,
    )
    whole = sorted(arrival for rank in range(ranks) for arrival in offsets(some, rank, ranks))
    assert whole == list(offsets(some, 0, 1))
    assert sum(at >= some.window_start_ns for _, at in whole) == wanted
    counts = [scheduled_count(some, rank, ranks, 10**15) for rank in range(ranks)]
    assert tuple(map(sum, zip(*counts, strict=True))) == (len(whole) - wanted, wanted)


def test_a_lost_rank_is_asked_only_up_to_a_moment() -> None:
    """At 10/s rank 1 of 4 has 0.1, 0.5, 0.9 and 1.3 s; the first two of them in a warm-up of 0.9 s."""
    some = plan(requests_per_second=10.0, duration_seconds=10.0, warmup_seconds=0.9)
    assert scheduled_count(some, 1, 4, 1_300_000_000) == (2, 1)
    assert scheduled_count(some, 1, 4, 1_300_000_001) == (2, 2)
    assert scheduled_count(some, 1, 4, 0) == (0, 0)


def test_the_seed_decides_and_nothing_else() -> None:
    poisson = {"arrival": {"kind": "poisson"}, "requests_per_second": 50.0, "duration_seconds": 2.0}
    assert times(plan(**poisson)) == times(plan(**poisson))
    assert times(plan(**poisson)) != times(plan(**poisson, seed=8))


def test_a_seed_means_the_same_schedule_in_every_version_of_this_package() -> None:
    """The first gaps at 1/s: a change here is a change of every recorded run."""
    poisson = plan(arrival={"kind": "poisson"}, requests_per_second=1.0, duration_seconds=60.0)
    assert [at for _, at in islice(offsets(poisson, 0, 1), 3)] == pytest.approx(
        [697_059_387, 3_185_962_231, 3_435_798_939], abs=2
    )


ARRIVALS = st.sampled_from(
    [
        {"kind": "constant"},
        {"kind": "poisson"},
        {"kind": "gamma", "burstiness": 0.3},
        {"kind": "poisson", "ramp": {"from_rps": 0.0, "to_rps": 40.0}},
        {"kind": "constant", "ramp": {"from_rps": 30.0, "to_rps": 0.0}},
        {"kind": "gamma", "burstiness": 3.0, "stages": [{"rps": 0.0, "seconds": 1.5}, {"rps": 20.0, "seconds": 1.5}]},
    ]
)


@settings(max_examples=60)
@given(ARRIVALS, st.integers(1, 12), st.integers(0, 2**48), st.sampled_from([0.0, 0.7]))
def test_the_stripes_of_any_number_of_ranks_rejoin_to_the_one_schedule(
    arrival: dict[str, object], ranks: int, seed: int, warmup: float
) -> None:
    shaped = "ramp" in arrival or "stages" in arrival
    some = plan(
        arrival=arrival,
        requests_per_second=None if shaped else 25.0,
        duration_seconds=3.0,
        warmup_seconds=warmup,
        num_clients=12,
        seed=seed,
    )
    whole = list(offsets(some, 0, 1))
    assert [seq for seq, _ in whole] == list(range(len(whole)))
    assert all(earlier <= later for (_, earlier), (_, later) in pairwise(whole))
    assert all(0 <= at < (some.window_end_ns or 0) for _, at in whole)
    stripes = [list(offsets(some, rank, ranks)) for rank in range(ranks)]
    assert sorted(arrival for stripe in stripes for arrival in stripe) == whole
    assert all(seq % ranks == rank for rank, stripe in enumerate(stripes) for seq, _ in stripe)


@given(st.integers(1, 2000), st.integers(1, 50))
def test_every_client_belongs_to_one_rank_and_starts_once(clients: int, ranks: int) -> None:
    ranks = min(ranks, clients)
    some = plan(num_clients=clients, ramp_seconds=2.0, ranks=ranks)
    shares = [clients_of(some, rank, ranks) for rank in range(ranks)]
    assert sum(shares) == clients
    assert max(shares) - min(shares) <= 1
    starts = [first_sends(some, rank, ranks) for rank in range(ranks)]
    assert [len(start) for start in starts] == shares
    assert sorted(at for start in starts for at in start) == [
        round(number * 2 * SECOND / clients) for number in range(clients)
    ]


def test_the_target_rate_follows_the_profile_and_is_nothing_in_a_closed_loop() -> None:
    ramp = plan(arrival={"ramp": {"from_rps": 10.0, "to_rps": 20.0}}, duration_seconds=10.0, warmup_seconds=1.0)
    assert rate_at(ramp, 0) == 10
    assert rate_at(ramp, 6 * SECOND) == pytest.approx(15)
    assert rate_at(ramp, 12 * SECOND) == 0
    assert rate_at(plan(), 0) is None


def test_the_target_rate_steps_with_the_stages() -> None:
    stages = [{"rps": 5.0, "seconds": 0.1}, {"rps": 0.0, "seconds": 0.2}, {"rps": 10.0, "seconds": 1.0}]
    some = plan(arrival={"stages": stages}, duration_seconds=1.3)
    moments = (-1, 0, 99_999_999, 100_000_000, 299_999_999, 300_000_000, 1_299_999_999, 1_300_000_000)
    assert [rate_at(some, at) for at in moments] == [0, 5, 5, 0, 0, 10, 10, 0]


@pytest.mark.parametrize(
    ("fields", "count", "end"),
    [
        ({"requests_per_second": 10.0}, 10, 1.0),
        ({"requests_per_second": 10.0, "warmup_seconds": 2.0}, 10, 3.0),
        ({"requests_per_second": 10.0, "arrival": {"kind": "poisson"}}, 25, 2.5),
        ({"arrival": {"ramp": {"from_rps": 0, "to_rps": 20}}, "duration_seconds": 10.0}, 25, 5.0),  # t² = 25
        (
            {"arrival": {"stages": [{"rps": 5, "seconds": 2}, {"rps": 20, "seconds": 8}]}, "duration_seconds": 10.0},
            50,
            4.0,
        ),
    ],
)
def test_a_count_takes_the_time_in_which_the_rate_adds_up_to_it(
    fields: dict[str, object], count: int, end: float
) -> None:
    counted_plan = plan(**{"duration_seconds": None, **fields}, request_count=count)
    assert count_end_ns(counted_plan) == pytest.approx(end * SECOND)
    seconds = end - counted_plan.warmup_seconds
    for answered_at in (end, end + 3):  # answers that come later ask for no more
        assert mean_rate(counted_plan, round(answered_at * SECOND)) == pytest.approx(count / seconds)


def test_the_asked_rate_of_a_window_that_was_cut_short_is_that_of_its_part() -> None:
    ramp = plan(arrival={"ramp": {"from_rps": 0, "to_rps": 20}}, duration_seconds=10.0)
    assert mean_rate(ramp, 10 * SECOND) == 10
    assert mean_rate(ramp, 5 * SECOND) == 5
    assert mean_rate(plan(), 5 * SECOND) is None


@pytest.mark.parametrize(
    ("fields", "latest", "scheduled", "last_event", "end"),
    [
        ({"duration_seconds": 60.0, "requests_per_second": 10.0}, 60, 600, 61, 60),  # by time
        ({"duration_seconds": 60.0, "requests_per_second": 10.0}, 7, 70, 8, 7),  # stopped
        ({"request_count": 10, "requests_per_second": 10.0}, None, 10, 0.95, 1),  # the count, quickly answered
        ({"request_count": 10, "requests_per_second": 10.0}, None, 10, 4, 4 + 1e-9),  # the count, slowly answered
        ({"request_count": 10, "requests_per_second": 10.0}, 0.5, 5, 0.9, 0.5),  # stopped before the count
        ({"request_count": 10, "requests_per_second": 10.0, "duration_seconds": 60.0}, 60, 10, 4, 4 + 1e-9),
        ({"request_count": 1000, "requests_per_second": 10.0, "duration_seconds": 60.0}, 60, 600, 61, 60),
        ({"request_count": 10, "duration_seconds": 60.0}, 60, 10, 4, 4 + 1e-9),  # closed loop
        ({"request_count": 10, "duration_seconds": 60.0}, 60, 9, 61, 60),
        ({"duration_seconds": 60.0, "warmup_seconds": 5.0}, 2, 0, 2, 5),  # stopped in the warm-up
    ],
)
def test_a_window_ends_with_its_time_or_with_the_last_answer_of_its_count(
    fields: dict[str, object], latest: float | None, scheduled: int, last_event: float, end: float
) -> None:
    some_plan = plan(**{"duration_seconds": None, **fields})
    latest_ns = None if latest is None else round(latest * SECOND)
    found = window_end_of(some_plan, latest_ns, scheduled=scheduled, last_event=round(last_event * SECOND))
    assert found == round(end * SECOND)


@pytest.mark.parametrize(
    ("start", "end", "rate"),
    [
        (0.0, 1.0, 7.7),  # the warm-up, at the first rate
        (1.0, 2.0, 7.7),
        (2.0, 3.0, 0.0),
        (3.0, 4.0, 20.0),
        (1.5, 3.5, (0.5 * 7.7 + 0.5 * 20.0) / 2),
        (3.5, 3.7, 20.0),
        (4.0, 5.0, 0.0),
        (3.0, 3.0, 0.0),
    ],
)
def test_the_asked_rate_of_a_second_is_its_mean_and_exact_where_it_does_not_change(
    start: float, end: float, rate: float
) -> None:
    stages = [{"rps": 7.7, "seconds": 1.0}, {"rps": 0.0, "seconds": 1.0}, {"rps": 20.0, "seconds": 1.0}]
    some = plan(arrival={"stages": stages}, duration_seconds=3.0, warmup_seconds=1.0)
    asked = rate_in(some, round(start * SECOND), round(end * SECOND))
    assert asked == (rate if start != 1.5 else pytest.approx(rate))


def test_the_asked_rate_of_a_second_of_a_ramp_is_that_of_its_middle() -> None:
    """From 10 to 20 in 5 s: 2 a second more."""
    some = plan(arrival={"ramp": {"from_rps": 10.0, "to_rps": 20.0}}, duration_seconds=5.0)
    assert [rate_in(some, at * SECOND, (at + 1) * SECOND) for at in range(6)] == [11, 13, 15, 17, 19, 0]
    assert rate_in(plan(), 0, SECOND) is None


@pytest.mark.parametrize(
    ("fields", "ranks", "each"),
    [
        ({"requests_per_second": 100.0}, 1, 101),
        ({"requests_per_second": 100.0}, 2, 51),
        ({"requests_per_second": 1e6}, 2, 4000),
        ({"arrival": {"ramp": {"from_rps": 0.0, "to_rps": 100.0}}, "duration_seconds": 10.0}, 1, 6),
        ({"arrival": {"stages": [{"rps": 7.0, "seconds": 9.0}, {"rps": 900.0, "seconds": 9.0}]}}, 1, 8),
        ({}, 2, 4000),
        ({"ramp_seconds": 10.0}, 2, 400),
    ],
)
def test_as_many_connections_are_opened_ahead_as_the_first_second_needs(
    fields: dict[str, object], ranks: int, each: int
) -> None:
    """The ramp has 5/s on average in its first second; a closed loop of 8000 clients that start over 10 s has 800."""
    length = {"duration_seconds": 18.0} if "arrival" in fields else {}
    assert needed_ahead(plan(num_clients=8000, **{**length, **fields}), 0, ranks) == each
