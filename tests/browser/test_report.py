"""The report in a real browser, from a disk and without a network."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, Page

from browsing import HOSTILE, NARROW, WIDE, faults_of, keep_picture
from reporting import SECOND, request, run_of, second
from running import wait_for
from tokenstorm.report.page import write_page

STAGES = {"stages": [{"rps": 20, "seconds": 3}, {"rps": 40, "seconds": 3}]}
CHARTS = 12
"""Requests, concurrency, TTFT, latency, failures, tokens, CPU, lag; a spectrum each of latency and TTFT and TPOT; prompts."""
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run in which a server fails with hostile words."""
    failed = {
        "error": {"kind": HOSTILE, "detail": HOSTILE},
        "first_token": None,
        "last_token": None,
        "output_tokens": None,
    }
    results = [request(seq, seq * SECOND // 30, ms=100 + seq, **(failed if seq % 9 == 8 else {})) for seq in range(180)]
    paths, summary = run_of(
        tmp_path_factory.mktemp("report"),
        results,
        model=HOSTILE,
        name=HOSTILE,
        requests_per_second=None,
        arrival=STAGES,
        duration_seconds=6,
    )
    seconds = [second(t, latency_ms=100 + t, failed_by_kind={HOSTILE: t % 3}) for t in range(7)]
    paths.timeline.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in seconds))
    write_page(paths, summary)
    return paths.report


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Open]:
    """Opens the page; whatever it asks the network for, or its console complains of, fails the test."""
    contexts, complaints = [], list[str]()

    def show(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text))
        page.on("request", lambda asked: None if asked.url.startswith("file:") else complaints.append(asked.url))
        page.goto(report.as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []


def test_every_chart_is_drawn_and_says_what_it_shows(opened: Open) -> None:
    page = opened(**WIDE)
    assert page.locator("figure.chart").count() >= CHARTS
    for plot in page.locator(".chart-plot").all():
        assert "no values" not in (plot.get_attribute("aria-label") or "no values")
        assert plot.locator("canvas, svg").count() == 1
    assert page.locator("[data-chart]:empty, #over-time:empty").count() == 0
    keep_picture(page, "report")


def test_a_rate_that_was_asked_for_twice_has_both_of_its_stages_in_the_curve(tmp_path: Path, browser: Browser) -> None:
    """A load that goes up and down again tells whether the service recovered."""
    stages = [{"rps": 20, "seconds": 2}, {"rps": 40, "seconds": 2}, {"rps": 20, "seconds": 2}]
    times = [SECOND * t // 20 for t in range(40)] + [(2 + t / 40) * SECOND for t in range(80)]
    times += [(4 + t / 20) * SECOND for t in range(40)]
    results = [request(seq, round(at), ms=100 if seq < 40 else 500) for seq, at in enumerate(times)]
    paths, summary = run_of(tmp_path, results, requests_per_second=None, arrival={"stages": stages}, duration_seconds=6)
    write_page(paths, summary)
    page = browser.new_page(**WIDE)
    page.goto(paths.report.as_uri())
    curve = page.locator('[data-chart="curve-latency"]')
    curve.locator(".chart-plot").focus()
    page.keyboard.press("Home")
    seen = []
    for _ in stages:
        seen.append(
            [curve.locator("figcaption .chart-value").inner_text(), curve.locator("li .chart-value").first.inner_text()]
        )
        page.keyboard.press("ArrowRight")
    page.close()
    assert seen == [["at 20/s", "100 ms"], ["at 20/s", "500 ms"], ["at 40/s", "500 ms"]]


def test_nothing_of_a_server_runs_or_becomes_markup(opened: Open) -> None:
    page = opened(**WIDE)
    assert page.title() != "owned"
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator("img").count() == 0
    legends = page.locator(".chart-legend").all_inner_texts()
    assert any(HOSTILE in legend for legend in legends)


def test_the_first_screen_has_the_banner_the_verdict_and_the_numbers(opened: Open) -> None:
    page = opened(**WIDE)
    for text in ("SIMULATED ENGINE", "Verdict:", "TTFT", "Succeeded", "160 of 180 scheduled"):
        box = page.get_by_text(text, exact=False).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < WIDE["viewport"]["height"], text
    page.mouse.wheel(0, 3000)
    wait_for(
        lambda: page.evaluate("scrollY") > 1000, "the page never scrolled"
    )  # its rules keep Playwright from polling
    banner = page.get_by_text("SIMULATED ENGINE").bounding_box()
    assert banner is not None
    assert banner["y"] == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_is_read_by_everybody_on_any_screen(opened: Open, size: dict[str, Any], scheme: str) -> None:
    page = opened(**size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    keep_picture(page, f"report-{scheme}-{size['viewport']['width']}")
    assert faults_of(page) == []
