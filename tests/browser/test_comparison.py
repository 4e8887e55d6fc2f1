"""The page of a comparison in a real browser, from a disk."""

from pathlib import Path

import msgspec
from playwright.sync_api import Browser

from browsing import faults_of
from reporting import SECOND, request, run_of, second
from tokenstorm.report.compare_html import comparison_page
from tokenstorm.report.comparing import compare
from tokenstorm.report.sides import read_side


def test_the_page_of_a_comparison_draws_both_sides_over_one_another_and_breaks_no_rule(
    browser: Browser, tmp_path: Path
) -> None:
    for name, ms in (("before", 100), ("after", 130)):
        root = tmp_path / name
        root.mkdir()
        paths, summary = run_of(root, [request(seq, seq * SECOND // 40, ms=ms + seq) for seq in range(40)])
        paths.summary.write_bytes(msgspec.json.encode(summary))
        lines = [second(t, latency_ms=ms + t, latency={"p50": 0.1, "p90": 0.1, "p99": 0.1}) for t in range(20)]
        paths.timeline.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    sides = [read_side(str(tmp_path / name)) for name in ("before", "after")]
    report = tmp_path / "compare.html"
    report.write_text(comparison_page(compare(sides[0], sides[1:], [], force=False), sides), encoding="utf-8")
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    page.locator("canvas").nth(3).wait_for()
    assert page.locator("canvas").count() >= 5
    assert "Over one another" in page.locator("h2").all_text_contents()
    assert page.get_by_text("latency p50").count() == 1
    page.screenshot(path=str(tmp_path / "compare.png"), full_page=True)
    assert faults_of(page) == []
    assert complaints == []
    page.close()
