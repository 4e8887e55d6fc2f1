"""A search for the capacity, over services whose true capacity is known: pure, with no run."""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from reporting import request, run_of
from tokenstorm.load_parts import Slo
from tokenstorm.metrics.attaining import attainment, backlog, fewest_requests, judged
from tokenstorm.metrics.counts import Counts
from tokenstorm.metrics.intervals import share_lower_bound
from tokenstorm.metrics.points import Held, Point, Quantiles
from tokenstorm.metrics.reports import Verdict
from tokenstorm.metrics.searching import answer, next_try, value_of, window_seconds
from tokenstorm.series_parts import Search, Searched

SLO = Slo(ttft_seconds=0.5, share=0.95)
NOTHING = Quantiles(None, None, None)


def point(search: Search, value: float, state: Held, number: int, *, used: float = 0.8) -> Point:
    """A run at that value."""
    return Point(
        number=number,
        repeat=1,
        values={search.field: int(value) if search.field == "num_clients" else value},
        run_id="0" * 32,
        started_at=None,
        ended_at=None,
        pause_seconds=None,
        seconds=10.0,
        outcome="completed",
        verdict=Verdict("valid", []),
        counts=Counts(),
        requested_rps=None,
        achieved_rps=value,
        output_tokens_per_second=value * 10,
        output_tokens_per_second_per_user=None,
        in_flight=None,
        ttft=NOTHING,
        tpot=NOTHING,
        latency=NOTHING,
        attainment=attainment(100 if state == "held" else 50, 100),
        used={"ttft_seconds": used},
        state=state,
        bound_by=["ttft_seconds"] if state == "failed" else [],
    )


def searched(
    search: Search, run: Callable[[float], Held], *, used: Callable[[float], float] = lambda _: 0.8
) -> list[Point]:
    """All runs of a search, whose states `run` tells."""
    points: list[Point] = []
    while trial := next_try(search, points):
        points.append(point(search, trial.value, run(trial.value), len(points) + 1, used=used(trial.value)))
    return points


@pytest.mark.parametrize("field", ["requests_per_second", "num_clients"])
def test_a_search_brackets_the_capacity_within_its_precision_in_12_runs(field: Searched) -> None:
    for seed in range(200):
        truth = random.Random(seed).uniform(2, 64)
        search = Search(field=field)

        def holds(value: float, truth: float = truth) -> Held:
            return "held" if value <= truth else "failed"

        points = searched(search, holds, used=lambda value, truth=truth: value / truth)  # type: ignore[misc]
        found = answer(search, SLO, points)
        assert found.held is not None
        assert found.failed is not None
        assert found.held <= truth < found.failed
        assert found.failed <= max(found.held * 1.05, found.held + 1 if field == "num_clients" else 0)
        assert (found.sure, found.ended) == (True, "found")
        assert len(points) <= 12


@pytest.mark.parametrize("disagree", [False, True])
@pytest.mark.parametrize("field", ["requests_per_second", "num_clients"])
def test_what_runs_could_not_tell_widens_the_bracket_which_still_holds_the_capacity(
    field: Searched, disagree: bool
) -> None:
    for seed in range(25):
        truth = random.Random(seed).uniform(20, 64)
        search, runs = Search(field=field), iter(range(100))

        def holds(value: float, truth: float = truth, runs: Iterator[int] = runs) -> Held:
            if abs(value / truth - 1) < 0.015:
                return ("held", "failed")[next(runs) % 2] if disagree else "short"
            return "held" if value <= truth else "failed"

        points = searched(search, holds, used=lambda value, truth=truth: value / truth)  # type: ignore[misc]
        found = answer(search, SLO, points)
        assert found.held is not None
        assert found.failed is not None
        assert found.held <= truth < found.failed
        assert found.held >= min(truth / 1.07, math.floor(truth) - 2)
        assert (found.sure, found.ended) == (True, "found")
        assert len(points) <= 16


def test_a_run_held_or_failed_only_where_its_bounds_say_so(tmp_path: Path) -> None:
    _, summary = run_of(tmp_path, [request(seq, seq, ms=100) for seq in range(4)])
    clean = msgspec.structs.replace(summary, verdict=Verdict("valid", []))
    states = [judged(clean, SLO, attainment(good, 400), None)[0] for good in (396, 384, 376, 360)]
    assert states == ["held", "short", "short", "failed"]


def test_both_ends_are_seen_twice_before_they_are_believed() -> None:
    search = Search(field="requests_per_second", start=4)
    points = searched(search, lambda value: "held" if value <= 10 else "failed")
    found = answer(search, SLO, points)
    for value, state in ((found.held, "held"), (found.failed, "failed")):
        assert [one.state for one in points if value_of(search, one) == value] == [state, state]


def test_one_run_that_was_wrong_about_an_end_is_outvoted() -> None:
    for wrong in range(3, 10):
        search = Search(field="requests_per_second", start=4)
        runs = iter(range(1, 100))

        def holds(value: float, runs: Iterator[int] = runs, wrong: int = wrong) -> Held:
            right = value <= 23
            return "held" if right != (next(runs) == wrong) else "failed"

        found = answer(search, SLO, points := searched(search, holds))
        assert len(points) <= 20
        if found.sure:
            assert found.held is not None
            assert found.failed is not None
            assert found.held <= 23 * 1.05, wrong


def test_a_service_that_fails_at_the_first_value_is_tried_below_it() -> None:
    search = Search(field="requests_per_second", start=8)
    found = answer(search, SLO, searched(search, lambda value: "held" if value <= 1.5 else "failed"))
    assert found.held is not None
    assert found.failed is not None
    assert found.held <= 1.5 < found.failed


def test_a_service_that_never_holds_is_given_up() -> None:
    search = Search(field="num_clients", start=8)
    found = answer(search, SLO, searched(search, lambda _: "failed"))
    assert (found.held, found.ended, found.failed) == (None, "nothing_held", 1)


def test_the_highest_value_that_is_allowed_ends_a_search_that_never_fails() -> None:
    search = Search(field="requests_per_second", most=30)
    points = searched(search, lambda _: "held")
    found = answer(search, SLO, points)
    assert (found.held, found.failed, found.ended, found.sure) == (30, None, "most", True)


def test_a_load_generator_at_its_limit_ends_a_search_and_is_told() -> None:
    search = Search(field="requests_per_second")
    points = searched(search, lambda value: "held" if value < 8 else "unfit")
    found = answer(search, SLO, points)
    assert (found.held, found.failed, found.ended, found.sure) == (4, None, "generator", False)
    assert [one.state for one in points[-3:]] == ["unfit", "unfit", "unfit"]
    assert "load generator" in found.reason


def test_a_run_whose_load_generator_was_disturbed_once_is_run_again() -> None:
    search, states = Search(field="requests_per_second"), iter(["held", "unfit"])
    points = searched(search, lambda value: next(states, "held" if value <= 10 else "failed"))  # type: ignore[arg-type]
    assert answer(search, SLO, points).ended == "found"


def test_runs_that_are_used_up_end_a_search_with_what_is_known() -> None:
    search = Search(field="requests_per_second", most_runs=5)
    points = searched(search, lambda value: "held" if value <= 10 else "failed")
    found = answer(search, SLO, points)
    assert (len(points), found.ended, found.sure) == (5, "runs", False)
    assert found.held == 8
    assert found.failed is not None


def test_a_search_goes_up_faster_far_from_the_objectives() -> None:
    search = Search(field="requests_per_second")
    points = searched(search, lambda value: "held" if value <= 60 else "failed", used=lambda value: value / 60)
    assert [value_of(search, one) for one in points[:5]] == [1, 4, 16, 64, 32]


def test_windows_hold_the_requests_that_the_share_needs_and_are_longer_near_the_edge() -> None:
    search = Search(field="requests_per_second", start=1)
    points: list[Point] = []
    first = next_try(search, points)
    assert first is not None
    assert window_seconds(search, points, first, 10, 0.95) == pytest.approx(2 * fewest_requests(0.95))
    points = searched(search, lambda value: "held" if value <= 100 else "failed")
    before = points[:-1]
    last = next_try(search, before)
    assert last is not None
    assert window_seconds(search, before, last, 10, 0.95) == 20


def test_fewest_requests_are_those_that_all_must_be_good() -> None:
    for share in (0.5, 0.9, 0.95, 0.99, 0.999):
        fewest = fewest_requests(share)
        assert share_lower_bound(fewest, fewest) >= share > share_lower_bound(fewest - 1, fewest - 1)


def test_a_backlog_that_takes_up_arrivals_grows_and_one_that_sways_does_not() -> None:
    rate, noise = 50.0, random.Random(1)
    growing = [20 + 0.05 * rate * second + noise.gauss(0, 4) for second in range(30)]
    swaying = [20 + 8 * ((second // 5) % 2) + noise.gauss(0, 3) for second in range(30)]
    assert (found := backlog(growing, rate)) is not None
    assert found.grows
    assert found.slope == pytest.approx(0.05 * rate, rel=0.2)
    assert (found := backlog(swaying, rate)) is not None
    assert not found.grows
    assert backlog([1, 2, 3], rate) is None
    assert backlog(growing, None) is None
