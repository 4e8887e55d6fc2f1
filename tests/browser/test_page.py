"""The page as people use it: a real Chromium, real APIs, the simulator."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from browsing import HOSTILE, NARROW, WIDE, Stack, faults_of, keep_picture

SCREENS = {
    "groups": "#/groups",
    "group": "#/groups/{over}",
    "new-group": "#/groups/new?service={service}",
    "compare": "#/compare?groups={over}",
    "services": "#/services",
    "service": "#/services/{service}",
    "new-service": "#/services/new",
}


def show(page: Page, stack: Stack, screen: str) -> None:
    page.goto("/" + SCREENS[screen].format(over=stack.over, service=stack.service))
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator("main").get_by_text(re.compile("^Asking|^asking"))).to_have_count(0)
    if screen == "group":
        expect(page.get_by_role("heading", name="Results")).to_be_visible()
    if screen in {"group", "compare"}:
        expect(page.locator(".chart").nth(3)).to_be_visible()


@pytest.mark.parametrize("page", [WIDE, {**NARROW, "color_scheme": "dark"}], ids=["wide", "narrow-dark"], indirect=True)
def test_every_screen_fits_its_window_and_is_for_everybody(
    page: Page, stack: Stack, request: pytest.FixtureRequest
) -> None:
    found = {}
    for screen in SCREENS:
        show(page, stack, screen)
        keep_picture(page, f"{screen}-{request.node.callspec.id}")
        found[screen] = faults_of(page)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, screen
    assert not {screen: faults for screen, faults in found.items() if faults}


def test_the_numbers_of_a_group_are_those_of_its_summary_and_what_users_wrote_is_text(page: Page, stack: Stack) -> None:
    show(page, stack, "group")
    results = stack.summary(stack.over)
    expect(page.locator("h1")).to_have_text(f"Group {stack.over} · {HOSTILE}")
    tile = page.locator(".tile", has_text="p99 latency").locator("dd")
    milliseconds = results["metrics"]["latency_seconds"]["p99"] * 1000
    assert float(tile.inner_text().removesuffix(" ms")) == pytest.approx(milliseconds, rel=0.01)
    row = page.get_by_role("row", name=re.compile("^Latency [0-9]"))
    assert row.locator("td").nth(1).inner_text() == str(results["metrics"]["latency_seconds"]["count"])
    expect(page.locator("[aria-label=Verdict]")).to_contain_text(results["verdict"]["state"])
    assert page.title() == "Group · tokenstorm"
    assert page.locator("img").count() == 0


def test_a_late_viewer_gets_the_history_then_events_and_is_told_when_the_api_is_lost(page: Page, stack: Stack) -> None:
    group = stack.create(duration_seconds=30.0, name="live")
    stack.until_second(group, 3)
    lost = False
    page.route("**/api/**", lambda route: route.abort() if lost else route.continue_())
    page.goto(f"/#/groups/{group}")
    rates = page.locator(".chart", has_text="Requests a second").first
    expect(rates.locator(".chart-plot")).to_have_attribute("aria-label", re.compile("answered last"))
    first = page.evaluate(
        "performance.getEntriesByType('resource').filter(({name}) => name.includes('timeline')).length"
    )
    assert first >= 1
    lost = True
    page.evaluate("dispatchEvent(new Event('offline'))")
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    lost = False
    expect(rates).to_be_visible(timeout=15_000)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="Stop").first.click()
    page.get_by_role("button", name="Stop it").click()
    expect(page.locator(".facts .tag").first).to_have_text("cancelled", timeout=30_000)
    expect(page.get_by_role("heading", name="Results")).to_be_visible()


def test_a_group_is_created_held_run_and_deleted_by_clicking(page: Page, stack: Stack) -> None:
    show(page, stack, "new-group")
    page.get_by_label("num_clients").fill("0")
    page.get_by_label("name", exact=True).fill("clicked")
    page.get_by_label("start", exact=True).select_option("manual")
    page.get_by_label("duration_seconds").fill("1")
    expect(page.get_by_label("command")).to_contain_text(f"tokenstorm group create {stack.service} --num-clients 0")
    page.get_by_role("button", name="Create and hold").click()
    expect(page.locator("#field-num_clients-fault")).to_contain_text("1")
    keep_picture(page, "new-group-refused")
    page.get_by_label("num_clients").fill("2")
    page.get_by_role("button", name="Create and hold").click()
    page.get_by_role("button", name="Run", exact=True).click(timeout=30_000)
    expect(page.locator(".facts .tag").first).to_have_text("completed", timeout=30_000)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_role("heading", name="Groups")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("clicked"))).to_have_count(0)


def test_a_prompt_streams_and_logs_follow_and_a_service_starts_and_stops_by_clicking(page: Page, stack: Stack) -> None:
    show(page, stack, "service")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_label("Answer")).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    expect(page.get_by_role("log")).to_contain_text("simulat")
    show(page, stack, "new-service")
    page.get_by_label("Recipe").select_option("inference/sim-single-node")
    expect(page.get_by_label("command")).to_have_text("tokenstorm service create inference/sim-single-node")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop it").click()
    expect(page.locator(".facts .tag").first).to_have_text("cancelled", timeout=30_000)


def test_the_keyboard_reaches_everything_and_moves_the_cursor_of_all_charts(page: Page, stack: Stack) -> None:
    show(page, stack, "groups")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_role("link", name=re.compile(f"^{stack.over} ")).focus()
    page.keyboard.press("Enter")
    plot = page.locator(".chart-plot")
    plot.first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    for chart in (0, 1):
        expect(page.locator(".chart figcaption .chart-value").nth(chart)).to_have_text("at 1s")


def test_downloads_are_the_files_of_the_api(page: Page, stack: Stack, tmp_path: Path) -> None:
    show(page, stack, "group")
    with page.expect_download() as loading:
        page.get_by_role("button", name="Every request (CSV)").click()
    rows = loading.value.path().read_text().splitlines()
    assert len(rows) > stack.summary(stack.over)["counts"]["sent"]
    assert rows[0].startswith("seq,")


def test_no_script_of_others_runs_and_the_page_loads_nothing_from_elsewhere(page: Page, stack: Stack) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    show(page, stack, "group")
    assert asked
    assert not [url for url in asked if not url.startswith((stack.up.client, "data:"))]
    answer = page.request.get("/")
    rules = answer.headers["content-security-policy"]
    assert "script-src 'self';" in rules
    assert "unsafe" not in rules


def test_a_site_that_wants_its_token_is_asked_for_it_once(page: Page, stack: Stack, tmp_path: Path) -> None:
    words = ("client", "--port", "0", "--server-url", stack.up.server)
    process = stack.up.stage.start(*words, TOKENSTORM_TOKEN="right", TOKENSTORM_HOME=str(tmp_path))
    assert process.stdout
    url = process.stdout.readline().split()[2]
    page.goto(url)
    field = page.get_by_label("The token that was printed at the start")
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not taken")
    field.fill("right")
    page.keyboard.press("Enter")
    expect(page.get_by_text("There are no groups yet")).to_be_visible()
    page.reload()
    expect(page.get_by_text("There are no groups yet")).to_be_visible()
    assert page.evaluate("localStorage.length") == 0
    assert "right" not in page.url


def test_runs_lie_over_one_another_and_the_other_apis_point_to_the_page(page: Page, stack: Stack) -> None:
    other = stack.create(name="other")
    stack.sdk.wait_until_stopped(other, seconds=60)
    page.goto("/#/compare")
    page.get_by_label(f"{stack.over} · ").check()
    page.get_by_label(f"{other} · other").check()
    expect(page.get_by_role("table", name="Numbers").locator("tbody tr")).to_have_count(2)
    legend = page.locator(".chart").filter(has_text="p99 latency").locator(".chart-legend li")
    expect(legend).to_have_count(2)
    for url in (stack.up.server, stack.up.orchestrator):
        answer = page.request.get(url, headers={"accept": "text/html"})
        assert "page of the Client API" in answer.text()
        assert page.request.get(url, headers={"accept": "application/json"}).status == 404
