"""Percentiles from a histogram that merges."""

import random
from decimal import Decimal
from math import ceil

import msgspec
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from tokenstorm.metrics.histogram import Histogram

VALUES = st.lists(st.integers(0, 2**63), min_size=1, max_size=200)
MSGPACK_SUMS = 2**64
"""Below it, msgpack can hold an integer; as nanoseconds it is 584 years."""
QUANTILES = (0.0, 0.07, 0.5, 0.55, 0.9, 0.95, 0.99, 0.999, 1.0)


def histogram(values: list[int]) -> Histogram:
    made = Histogram()
    made.record_many(values)
    return made


def nearest_rank(q: float, count: int) -> int:
    """⌈q * count⌉ of the decimal that is meant: 55 for 0.55 of 100, where floats say 56."""
    return max(1, ceil(Decimal(str(q)) * count))


@given(VALUES)
def test_any_percentile_is_within_one_per_cent_of_the_sorted_values(values: list[int]) -> None:
    made, ordered = histogram(values), sorted(values)
    for q in QUANTILES:
        exact = ordered[nearest_rank(q, len(ordered)) - 1]
        found = made.quantile(q)
        assert found == pytest.approx(exact, rel=0.01)
        assert ordered[0] <= (found or 0) <= ordered[-1]
    assert (made.count, made.total, made.minimum, made.maximum) == (len(values), sum(values), ordered[0], ordered[-1])


@given(VALUES, VALUES, VALUES)
def test_merging_is_recording_everything_in_one_in_any_order(one: list[int], two: list[int], three: list[int]) -> None:
    whole = histogram(one + two + three)
    left = histogram(one)
    left.merge(histogram(two))
    left.merge(histogram(three))
    right = histogram(three)
    right_tail = histogram(two)
    right_tail.merge(histogram(one))
    right.merge(right_tail)
    assert left == right == whole


@given(VALUES)
def test_one_at_a_time_is_the_same_as_many_at_once(values: list[int]) -> None:
    single = Histogram()
    for value in values:
        single.record(value)
    assert single == histogram(values)


@given(VALUES)
def test_it_survives_the_file_whatever_it_sums_up_to(values: list[int]) -> None:
    made = histogram(values)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Histogram) == made


@given(st.lists(st.integers(0, MSGPACK_SUMS // 200 - 1), max_size=200))
def test_it_survives_the_wire(values: list[int]) -> None:
    made = histogram(values)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Histogram) == made


def test_the_wire_refuses_a_sum_that_it_cannot_hold_instead_of_changing_it() -> None:
    made = histogram([MSGPACK_SUMS - 2, 1])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Histogram).total == MSGPACK_SUMS - 1
    made.record(1)
    with pytest.raises(OverflowError):
        msgspec.msgpack.encode(made)


def test_an_empty_histogram_has_no_figures() -> None:
    empty = Histogram()
    empty.merge(Histogram())
    assert (empty.quantile(0.5), empty.mean(), empty.minimum, empty.count) == (None, None, None, 0)


def test_a_negative_duration_is_a_bug_and_raises() -> None:
    with pytest.raises(ValueError, match="negative"):
        histogram([5, -1])


def test_it_agrees_with_hdrhistogram() -> None:
    """Lognormal times around 20 ms, three significant digits there, 1 % here."""
    source = random.Random(1)
    values = [round(source.lognormvariate(16.8, 0.6)) for _ in range(20_000)]
    other = HdrHistogram(1, 3_600_000_000_000, 3)
    for value in values:
        other.record_value(value)
    made = histogram(values)
    for percent in (50, 90, 95, 99, 99.9):
        assert made.quantile(percent / 100) == pytest.approx(other.get_value_at_percentile(percent), rel=0.011)


@pytest.mark.parametrize(
    ("q", "expected"),
    [(0, 0), (0.01, 0), (0.07, 6), (0.29, 28), (0.5, 49), (0.55, 54), (0.99, 98), (0.991, 99), (1, 99)],
)
def test_the_rank_is_exact_at_any_share(q: float, expected: int) -> None:
    """The values 0 to 99 have a bin each, and the n-th of them is n - 1; in floats 0.29 * 100 is 28.999999999999996."""
    assert histogram(list(range(100))).quantile(q) == expected


@given(VALUES, st.floats(0, 1))
def test_quantiles_rise_and_stay_within_the_extremes(values: list[int], q: float) -> None:
    made = histogram(values)
    found = made.quantile(q)
    assert found is not None
    assert min(values) <= found <= (made.quantile(min(1.0, q + 0.1)) or 0) <= max(values)


def test_buckets_count_what_lies_below_their_bound() -> None:
    made = histogram([10, 1_000, 1_000_000, 50_000_000])
    assert made.counts_at_most((5, 100, 2_000, 2_000_000, 10**9)) == [0, 1, 2, 3, 4]
