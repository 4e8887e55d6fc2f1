"""Intervals hold what they claim, by known values (SciPy 1.17, LoadGen) and by seeded simulation."""

from itertools import pairwise
from random import Random

import pytest

from tokenstorm.metrics.distributions import beta_quantile, binomial_at_most, t_quantile, t_two_sided
from tokenstorm.metrics.intervals import (
    Estimate,
    batch_means,
    block_bootstrap,
    difference,
    edges_of,
    holm,
    of_runs,
    samples_beyond,
    share_lower_bound,
)


@pytest.mark.parametrize(
    ("share", "df", "expected"),
    [
        (0.95, 1, 6.313752),
        (0.975, 1, 12.706205),
        (0.975, 4, 2.776445),
        (0.995, 7.5, 3.421423),
        (0.975, 1000, 1.962339),
        (0.025, 4, -2.776445),
    ],
)
def test_quantiles_of_student_s_t_are_those_of_the_tables(share: float, df: float, expected: float) -> None:
    assert t_quantile(share, df) == pytest.approx(expected, abs=1e-6)
    assert t_two_sided(expected, df) == pytest.approx(2 * min(share, 1 - share), abs=1e-6)


@pytest.mark.parametrize(
    ("k", "n", "p", "expected"), [(3, 10, 0.5, 0.171875), (77, 10000, 0.01, 0.009715096837829), (0, 5, 0.2, 0.32768)]
)
def test_binomial_probabilities_are_those_of_the_tables(k: int, n: int, p: float, expected: float) -> None:
    assert binomial_at_most(k, n, p) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("good", "of", "expected"),
    [
        (0, 50, 0.0),
        (1, 20, 0.008869209312),
        (95, 100, 0.904229236500),
        (100, 100, 0.981023112297),
        (9990, 10000, 0.998367029607),
    ],
)
def test_the_lower_bound_of_a_share_is_jeffreys(good: int, of: int, expected: float) -> None:
    assert share_lower_bound(good, of) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("quantile", "least"),
    [
        (0.5, 11),
        (0.75, 24),
        (0.8, 31),
        (0.9, 64),
        (0.95, 130),
        (0.97, 219),
        (0.99, 662),
        (0.999, 6636),
        (0.9999, 66381),
    ],
)
def test_a_percentile_has_a_bound_from_as_many_samples_on_as_loadgen_asks_for(quantile: float, least: int) -> None:
    assert samples_beyond(least - 1, quantile) is None
    assert samples_beyond(least, quantile) == 1


def test_the_bound_of_p99_leaves_out_the_77_longest_of_10_000_as_loadgen_does() -> None:
    assert samples_beyond(10_000, 0.99) == 77


def test_the_bound_of_a_percentile_is_above_it_in_99_of_100_runs() -> None:
    draw, above, runs = Random(5), 0, 600
    beyond = samples_beyond(800, 0.95)
    assert beyond is not None
    for _ in range(runs):
        samples = sorted(draw.random() for _ in range(800))
        above += samples[-beyond] >= 0.95
    assert above / runs == pytest.approx(0.99, abs=0.02)
    assert above / runs >= 0.985


@pytest.mark.parametrize("of", [200, 2000])
def test_the_lower_bound_of_a_share_is_below_it_in_95_of_100_runs(of: int) -> None:
    """Over the shares that a target asks for: at a single one the share of whole numbers jumps."""
    draw, below, runs = Random(7), 0, 0
    bounds = {}
    for share in (0.88, 0.9, 0.92, 0.94, 0.95, 0.96):
        for _ in range(250):
            good = draw_binomial(draw, of, share)
            if good not in bounds:
                bounds[good] = share_lower_bound(good, of)
            below += bounds[good] <= share
            runs += 1
    assert below / runs == pytest.approx(0.95, abs=0.02)


def draw_binomial(draw: Random, n: int, p: float) -> int:
    """By where the n uniform numbers would lie: a beta quantile splits them."""
    count = 0
    while n > 50:
        middle = n // 2
        cut = draw.betavariate(middle, n + 1 - middle)
        if cut <= p:
            count, n, p = count + middle, n - middle, (p - cut) / (1 - cut)
        else:
            n, p = middle - 1, p / cut
    return count + sum(draw.random() < p for _ in range(n))


def test_an_interval_over_five_runs_holds_the_truth_in_95_of_100_series() -> None:
    draw, held, series = Random(11), 0, 2000
    width = t_quantile(0.975, 4)
    for _ in range(series):
        found = of_runs([draw.gauss(10, 3) for _ in range(5)])
        assert found is not None
        held += abs(found.value - 10) <= width * found.error
    assert held / series == pytest.approx(0.95, abs=0.02)


def related(draw: Random, length: int, rho: float) -> list[float]:
    """A level of 100 with noise of which each second keeps a share `rho` of the last one's."""
    last, found = draw.gauss(0, 1 / (1 - rho**2) ** 0.5), []
    for _ in range(length):
        last = rho * last + draw.gauss(0, 1)
        found.append(100 + last)
    return found


def test_batch_means_hold_the_truth_where_seconds_are_like_their_neighbours() -> None:
    draw, held, naive, runs = Random(13), 0, 0, 600
    width, wide = t_quantile(0.975, 15), t_quantile(0.975, 479)
    for _ in range(runs):
        series = related(draw, 480, 0.6)
        found = batch_means(series, [1] * 480)
        assert found is not None
        held += abs(found.value - 100) <= width * found.error
        mean = sum(series) / 480
        error = (sum((value - mean) ** 2 for value in series) / 479 / 480) ** 0.5
        naive += abs(mean - 100) <= wide * error
    assert held / runs == pytest.approx(0.95, abs=0.02)
    assert naive / runs < 0.75  # what one gets who takes seconds for independent


def test_batch_means_of_a_ratio_take_how_many_samples_each_batch_has() -> None:
    found = batch_means([10.0, 0.0] * 8, [1, 0] * 8)
    assert found is not None
    assert found.value == 10
    assert batch_means([1.0] * 7, [1] * 7) is None
    assert batch_means([0.0] * 9, [0] * 9) is None


def test_a_bootstrap_over_blocks_of_time_holds_the_median_and_the_p90() -> None:
    """Of 80 runs: chance alone moves the share by 0.025 up or down. With 600 runs it is 0.947 and 0.937."""
    assert bootstraps_that_hold(80) == pytest.approx([0.95, 0.95], abs=0.05)


def bootstraps_that_hold(runs: int) -> list[float]:
    """The share of runs of 640 seconds whose intervals hold the true median and p90."""
    draw, held = Random(17), [0, 0]
    values = [94 + place / 10 for place in range(121)]
    truths = (100, 100 + 1.281552 / (1 - 0.5**2) ** 0.5)
    for run in range(runs):
        series, blocks = related(draw, 640, 0.5), []
        for start, end in edges_of(640, 20):
            counts = [0] * len(values)
            for value in series[start:end]:
                counts[round((value - 94) * 10)] += 1
            blocks.append(counts)
        found = block_bootstrap(blocks, values, [0.5, 0.9], seed=run)
        assert found is not None
        for place, truth in enumerate(truths):
            interval = found[place].interval()
            held[place] += interval.low <= truth <= interval.high
    return [share / runs for share in held]


def test_welch_s_test_is_scipy_s() -> None:
    one, other = of_runs([1.1, 1.2, 1.0, 1.3, 1.15]), of_runs([1.25, 1.35, 1.2, 1.6, 1.3])
    assert one
    assert other
    found = difference(one, other)
    assert found.p == pytest.approx(0.060882723)
    assert (found.ci.low, found.ci.high) == pytest.approx((-0.0112723563, 0.3912723562))
    assert found.ratio == pytest.approx(0.19 / 1.15)


def test_a_difference_from_nothing_has_no_ratio_and_one_without_spread_is_certain() -> None:
    nothing, some = Estimate(0.0, 0.0, 4, "t"), Estimate(0.5, 0.0, 4, "t")
    assert difference(nothing, some).ratio is None
    assert difference(nothing, some).p == 0
    assert difference(some, some).p == 1
    assert difference(some, some).ci.high == 0


def test_holm_s_correction_keeps_the_order_and_is_as_in_its_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_beta_quantile_rises_with_its_share() -> None:
    found = [beta_quantile(share / 10, 3, 8) for share in range(1, 10)]
    assert all(low < high for low, high in pairwise(found))
