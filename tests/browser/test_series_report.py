"""A series in a real browser: its report from a disk, and its group on the page."""

from pathlib import Path

import msgspec
from playwright.sync_api import Browser, expect

from browsing import Stack, create, faults_of
from plans import plan
from pointing import point_at, series_of
from tokenstorm.report.series_page import made_series_page


def test_the_report_of_a_series_draws_its_curves_and_breaks_no_rule(browser: Browser, tmp_path: Path) -> None:
    rates = [2.0, 4.0, 8.0]
    points = [point_at(number, {"requests_per_second": rate}, state="held") for number, rate in enumerate(rates, 1)]
    points.append(point_at(4, {"requests_per_second": 16.0}, state="failed", good=10))
    load = plan(slo={"ttft_seconds": 0.5, "share": 0.9})
    summary = series_of(load, {"search": {"field": "requests_per_second", "start": 2}}, points)
    report = tmp_path / "report.html"
    report.write_bytes(made_series_page(msgspec.convert(msgspec.to_builtins(summary), type(summary))))
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    page.locator("canvas").nth(5).wait_for()
    assert page.locator("canvas").count() == 6
    assert page.locator("h2").all_text_contents() == ["Capacity", "Against the load", "Every run", "What they share"]
    assert faults_of(page) == []
    assert complaints == []
    page.close()


def test_the_page_of_a_group_that_is_a_series_shows_its_runs_as_they_come(stack: Stack, browser: Browser) -> None:
    series = {"sweep": {"num_clients": [1, 2]}}
    group = create(stack.sdk, stack.service, series=series, duration_seconds=1.0, num_clients=2)
    page = browser.new_page()
    page.goto(f"{stack.up.client}/#/groups/{group}")
    runs = page.get_by_role("table", name="Runs of the series")
    expect(runs.get_by_role("row")).to_have_count(3, timeout=60_000)
    expect(runs).to_contain_text("2 clients")
    expect(page.get_by_role("heading", name="Runs: 2 of 2")).to_be_visible()
    assert faults_of(page) == []
    page.close()
