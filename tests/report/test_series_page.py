"""A series as one page, and its charts as values."""

import pytest

from plans import plan
from pointing import point_at, series_of
from tokenstorm.metrics.points import SeriesSummary
from tokenstorm.report.assets import Assets
from tokenstorm.report.series_charts import charts_of
from tokenstorm.report.series_page import series_page
from tokenstorm.report.series_text import series_text

ASSETS = Assets("p{}", "library()", "draw()")
HOSTILE = "<script>alert('x')</script>"
SLO = {"ttft_seconds": 0.5, "share": 0.9}


@pytest.fixture
def searched() -> SeriesSummary:
    """A search that found its answer, of a plan with a hostile name."""
    values = [4, 8, 6, 7, 6, 7]
    points = [
        point_at(
            number,
            {"num_clients": value},
            good=100 if value <= 6 else 20,
            state="held" if value <= 6 else "failed",
            ms=value,
        )
        for number, value in enumerate(values, 1)
    ]
    return series_of(plan(slo=SLO, name=HOSTILE), {"search": {"field": "num_clients", "start": 4}}, points)


def test_the_page_has_the_answer_every_run_and_what_they_share_and_nothing_of_it_is_markup(
    searched: SeriesSummary,
) -> None:
    page = series_page(searched, ASSETS)
    assert "capacity: 6 clients held, 7 clients failed at 90% of requests within the objectives" in page
    assert "bound by TTFT, a cliff" in page
    assert HOSTILE not in page
    assert page.count("<td>held</td>") + page.count(">held</td>") >= 3
    assert "6 clients, repeat 1" not in page
    assert "TTFT ≤ 500 ms, 90% of all requests" in page
    assert "each run follows from those before it" in page
    assert "SIMULATED ENGINE" in page


def test_a_page_without_the_files_that_draw_says_so_and_has_all_else(searched: SeriesSummary) -> None:
    page = series_page(searched, Assets("", "", ""))
    assert "Charts are left out" in page
    assert "<script" not in page
    assert "capacity: 6 clients held" in page


def test_the_charts_show_the_mean_at_each_load_with_the_objective_and_the_highest_that_held(
    searched: SeriesSummary,
) -> None:
    charts = {chart.id: chart for chart in charts_of(searched)}
    assert list(charts) == ["good", "ttft", "tpot", "latency", "rate", "throughput"]
    ttft = {curve.name: curve for curve in charts["ttft"].series}
    assert ttft["p50"].points == [(4, 0.004), (6, 0.006), (7, 0.007), (8, 0.008)]
    assert {bound for _, bound in ttft["objective"].points} == {0.5}
    assert [round(place, 3) for place, _ in ttft["held"].points] == [6, 6]
    assert charts["ttft"].x.label == "num clients"
    by_user = charts["throughput"].series[0].points
    assert by_user == sorted(by_user)


def test_a_sweep_over_several_fields_is_drawn_against_the_rate_that_was_answered() -> None:
    points = [point_at(n, {"num_clients": n, "max_tokens": m}) for n, m in ((1, 10), (2, 10), (3, 20))]
    swept = series_of(plan(), {"sweep": {"num_clients": [1, 2, 3], "max_tokens": [10, 20]}}, points)
    charts = {chart.id: chart for chart in charts_of(swept)}
    assert charts["ttft"].x.label == "requests a second answered"
    assert "good" not in charts
    assert "1 clients, max_tokens 10" in series_text(swept)


def test_a_series_of_one_run_has_no_curve() -> None:
    one = series_of(plan(), {"repeats": 2}, [point_at(1, {})])
    assert charts_of(one) == []
    assert "too few runs for a curve" in series_page(one, ASSETS)
