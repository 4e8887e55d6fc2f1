"""The steady part of a run in its summary: found by the second, told in figures and words."""

from random import Random

import pytest

from plans import plan as made
from tokenstorm.metrics.counts import Work
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.steadiness import steady_report
from tokenstorm.metrics.stretches import MOST, Stretch, Stretches, rate_over_time

MS = 10**6


def second(at: int, *, waiting: int = 0, ttft_ms: float = 50.0, succeeded: int = 20) -> Stretch:
    histogram, times = Histogram(), Histogram()
    histogram.record_many([round(ttft_ms * MS)] * succeeded)
    times.record_many([500 * MS] * succeeded)
    work = Work(succeeded=succeeded, output_tokens=10 * succeeded)
    histograms = {"ttft": histogram, "service_time": times, "latency": times}
    return Stretch.second(at, in_flight=10, waiting=waiting, work=work, histograms=histograms)


def of(seconds: list[Stretch], end: float | None = None) -> list[Stretch]:
    found = Stretches()
    for one in seconds:
        found.add(one)
    return found.until(len(seconds) if end is None else end)


def test_a_steady_run_has_the_figures_of_its_steady_part_beside_the_whole() -> None:
    draw = Random(1)
    warm = [second(at, ttft_ms=300 - 40 * at) for at in range(6)]
    flat = [second(at, ttft_ms=50 + draw.random(), succeeded=draw.randint(18, 22)) for at in range(6, 40)]
    report = steady_report(made(), of(warm + flat))
    assert report is not None
    assert (report.state, report.until_seconds) == ("steady", 40)
    assert report.from_seconds is not None
    assert 6 <= report.from_seconds <= 20
    assert report.metrics["ttft_seconds"].max == pytest.approx(0.051, abs=0.001)
    assert report.rates["achieved_rps"] == pytest.approx(20, abs=1)
    assert report.ci["achieved_rps"].low < report.rates["achieved_rps"] < report.ci["achieved_rps"].high
    assert report.in_flight == 10
    assert report.fault is None


def test_a_queue_that_grew_to_the_end_is_over_saturated() -> None:
    report = steady_report(made(), of([second(at, waiting=3 * at, ttft_ms=50 + 40 * at) for at in range(30)]))
    assert report is not None
    assert (report.state, report.fault, report.metrics) == ("growing", "over_saturated", {})
    assert "the queue grew to the end" in report.text


def test_times_that_changed_to_the_end_and_two_levels_are_not_steady() -> None:
    draw = Random(2)
    slower = steady_report(made(), of([second(at, ttft_ms=50 + at + draw.random()) for at in range(60)]))
    assert slower is not None
    assert (slower.state, slower.fault) == ("warming", "not_steady")
    assert "TTFT went from about" in slower.text
    stepped = steady_report(
        made(), of([second(at, ttft_ms=(50 if at < 30 else 90) + draw.random()) for at in range(60)])
    )
    assert stepped is not None
    assert (stepped.state, stepped.fault) == ("shifted", "not_steady")
    assert "changed at 30 s" in stepped.text


@pytest.mark.parametrize(
    ("seconds", "takes", "word"), [(9, 500, "9 whole seconds"), (12, 6000, "an answer takes 6.0 s")]
)
def test_a_short_run_is_told_to_be_short_and_no_fault(seconds: int, takes: int, word: str) -> None:
    found = [second(at) for at in range(seconds)]
    for one in found:
        one.histograms["service_time"] = Histogram()
        one.histograms["service_time"].record(takes * MS)
    report = steady_report(made(), of(found))
    assert report is not None
    assert (report.state, report.fault) == ("short", None)
    assert word in report.text


def test_a_load_that_changes_by_plan_is_not_judged() -> None:
    plan = made(requests_per_second=None, arrival={"kind": "poisson", "ramp": {"from_rps": 1, "to_rps": 9}})
    assert steady_report(plan, of([second(at) for at in range(30)])) is None
    assert steady_report(made(), []) is None


def test_a_second_that_reaches_beyond_the_window_is_left_out() -> None:
    seconds = [second(at) for at in range(12)]
    assert sum(one.seconds for one in of(seconds, 11.5)) == 11


def test_long_runs_need_no_more_memory_and_keep_every_answer() -> None:
    found = of([second(at) for at in range(1000)])
    assert len(found) <= MOST
    assert {one.seconds for one in found} == {8}
    assert sum(one.succeeded for one in found) == 20_000
    rate = rate_over_time(found, "succeeded")
    assert rate is not None
    assert (rate.value, rate.error) == (20, 0)
