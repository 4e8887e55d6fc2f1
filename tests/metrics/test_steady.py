"""Thirty made runs, and what each is called."""

from collections import Counter
from collections.abc import Callable
from math import exp, pi, sin
from random import Random

import pytest

from tokenstorm.metrics.steady import find_steady, find_step, trend, warm_up

SECONDS = 120
Rows = list[tuple[float, float, float]]


def made(
    seed: int,
    *,
    rate: float,
    capacity: float = 40,
    seconds: int = SECONDS,
    slower: Callable[[int], float] = lambda _second: 1.0,
) -> Rows:
    """Backlog, TTFT and rate of a queue each second: Poisson arrivals, a capacity, and answers that take two seconds.

    `slower` tells how much slower than usual the service is at a time.
    """
    draw, waiting, rows = Random(seed), 0.0, []
    for second in range(seconds):
        factor = slower(second)
        waiting += max(0.0, draw.gauss(rate, rate**0.5))
        served = min(waiting, max(0.0, draw.gauss(capacity / factor, (capacity / factor) ** 0.5)))
        waiting -= served
        flight = served * 2 * factor * (1 - exp(-(second + 1) / 2))
        ttft = (0.05 * factor + waiting / capacity * factor) * (1 + draw.gauss(0, 0.05))
        rows.append((waiting + flight, ttft, served))
    return rows


def warming(share: float) -> Callable[[int], float]:
    return lambda second: 1 + 2 * exp(-second / (share * SECONDS))


def stepping(at: int) -> Callable[[int], float]:
    return lambda second: 1.0 if second < at else 1.8


def swinging(period: int) -> Callable[[int], float]:
    return lambda second: 1.2 + 0.3 * sin(2 * pi * second / period)


MADE = [
    *(("steady", "steady", made(seed, rate=rate)) for seed, rate in enumerate((10, 15, 20, 25, 28))),
    *(("warms up first", "steady", made(seed, rate=15, slower=warming(0.06))) for seed in range(10, 13)),
    *(("warms up all the time", "warming", made(seed, rate=10, slower=warming(0.7))) for seed in range(20, 24)),
    *(("growing", "growing", made(seed, rate=rate)) for seed, rate in enumerate((43, 44, 46, 50, 60, 80), 30)),
    *(("growing late", "growing", made(40, rate=34, slower=lambda second: 1 + second / 150)) for _ in range(1)),
    *(("level shift", "shifted", made(at, rate=12, slower=stepping(at))) for at in (40, 55, 70, 85, 60)),
    *(
        (
            "periodic",
            "steady",
            made(period, rate=15, slower=swinging(period)),
        )
        for period in (8, 12, 20)
    ),
    *(("too short", "short", made(seconds, rate=15, seconds=seconds)) for seconds in (2, 6, 9)),
]


def label(rows: Rows) -> str:
    backlog, ttft, rate = zip(*rows, strict=True)
    return find_steady(backlog, {"ttft": ttft, "rate": rate}).state


def test_of_thirty_made_runs_28_are_called_what_they_are_and_no_growing_one_steady() -> None:
    called = [(what, wanted, label(rows)) for what, wanted, rows in MADE]
    wrong = Counter(one for one in called if one[1] != one[2])
    assert len(called) == 30
    assert wrong.total() <= 2, wrong
    assert not [one for one in called if one[1] == "growing" and one[2] == "steady"]


def test_no_growing_queue_of_a_hundred_is_called_steady() -> None:
    found = Counter(label(made(seed, rate=46)) for seed in range(100))
    assert found["steady"] == 0, found
    assert found["growing"] >= 90, found


def test_of_a_hundred_steady_runs_at_most_ten_are_called_something_else() -> None:
    found = Counter(label(made(seed, rate=20)) for seed in range(100, 200))
    assert found["steady"] >= 90, found


def test_the_steady_part_begins_after_the_warm_up() -> None:
    rows = made(10, rate=15, slower=lambda second: 1 + 2 * exp(-second / 6))
    backlog, ttft, rate = zip(*rows, strict=True)
    found = find_steady(backlog, {"ttft": ttft, "rate": rate})
    assert found.state == "steady"
    assert 6 <= found.start <= SECONDS / 2


def test_a_closed_loop_whose_clients_are_always_busy_is_judged_by_its_times_and_rate() -> None:
    draw = Random(1)
    flat = [0.2 * (1 + draw.gauss(0, 0.05)) for _ in range(60)]
    slower = [value * (1 + second / 60) for second, value in enumerate(flat)]
    assert find_steady([8.0] * 60, {"ttft": flat, "rate": [40.0] * 60}).state == "steady"
    found = find_steady([8.0] * 60, {"ttft": slower, "rate": [40.0] * 60})
    assert (found.state, found.series) == ("warming", "ttft")


def test_a_series_that_never_changes_is_steady() -> None:
    assert find_steady([3.0] * 30, {"ttft": [0.1] * 30}).state == "steady"


@pytest.mark.parametrize(("points", "cut"), [([9, 5, 2, *[1] * 20], 3), ([1] * 20, 0), ([5, 1, 1, 1], 1)])
def test_mser_leaves_out_what_makes_the_mean_less_certain(points: list[float], cut: int) -> None:
    assert warm_up(points) == cut


def test_neighbours_that_are_alike_make_a_trend_less_certain() -> None:
    draw, walk = Random(3), [0.0]
    for _ in range(23):
        walk.append(0.9 * walk[-1] + draw.gauss(0, 1))
    shuffled = trend(sorted(walk)).p
    assert shuffled < trend(walk).p


def test_a_step_is_found_where_it_is_and_a_slope_is_none() -> None:
    draw = Random(4)
    step = [(10.0 if place < 14 else 15.0) + draw.gauss(0, 0.5) for place in range(30)]
    assert find_step(step) == 14
    assert find_step([10 + place / 3 + draw.gauss(0, 0.5) for place in range(30)]) is None
    assert find_step([10.0] * 30) is None
