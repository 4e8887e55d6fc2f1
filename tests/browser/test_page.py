"""The page as people use it: a real Chromium, real APIs, the simulator."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from browsing import HOSTILE, NARROW, WIDE, Stack, faults_of, frozen_at_will, keep_picture
from tokenstorm.client_api.feed import SILENCE_SECONDS as SPOKEN_EVERY

SILENCE_SECONDS = 12
"""As page/api.js has it."""
assert SPOKEN_EVERY * 2 < SILENCE_SECONDS

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


def test_a_run_that_goes_on_shows_its_verdict_failures_and_replicas_and_asks_for_the_group_rarely(
    page: Page, stack: Stack
) -> None:
    group = stack.create(duration_seconds=60.0, name="so far", request_timeout_seconds=0.001)
    stack.until_second(group, 2)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition("/api/v1/client-groups")[2]))
    page.goto(f"/#/groups/{group}")
    expect(page.locator("[aria-label=Verdict]")).to_contain_text("Verdict so far: invalid.")
    expect(page.get_by_role("table", name="Failures")).to_contain_text("timeout")
    expect(page.get_by_role("table", name="Replicas").locator("tbody tr")).to_have_count(4)
    seconds = page.locator(".facts")
    before = seconds.inner_text()
    expect(seconds).not_to_have_text(before)  # events alone move it on
    keep_picture(page, "group-live")
    assert asked.count(f"/{group}/events") == 1
    assert asked.count(f"/{group}") <= 2  # at first, and for the status with which events begin
    stack.sdk.delete_group(group)


def test_live_updates_that_fall_silent_are_noticed_told_and_asked_for_anew(browser: Browser, stack: Stack) -> None:
    group = stack.create(duration_seconds=120.0, name="silent")
    stack.until_second(group, 1)
    with frozen_at_will(int(stack.up.client.rpartition(":")[2])) as cable:
        page = browser.new_context(base_url=f"http://127.0.0.1:{cable.port}").new_page()
        page.clock.install()
        page.goto(f"/#/groups/{group}")
        plot = page.locator(".chart", has_text="Requests a second").first.locator(".chart-plot")
        expect(plot).to_be_visible()
        cable.freeze()
        page.clock.fast_forward(SILENCE_SECONDS * 1000 + 1000)
        expect(page.get_by_role("alert")).to_contain_text("The live updates fell silent. What you see is")
        expect(page.get_by_role("alert")).to_contain_text("s old. Trying again.")
        cable.thaw()
        expect(page.get_by_role("alert")).to_have_count(0, timeout=15_000)
        before = page.locator(".facts").inner_text()
        expect(page.locator(".facts")).not_to_have_text(before)
        page.context.close()
    stack.sdk.delete_group(group)


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


def test_a_number_that_is_none_is_marked_instead_of_left_out(page: Page, stack: Stack) -> None:
    """Left out, `requests_per_second` would mean a closed loop, as fast as the service can."""
    show(page, stack, "new-group")
    field = page.get_by_label("requests_per_second", exact=True)
    field.fill("")
    field.press_sequentially("2e")
    expect(page.locator("#field-requests_per_second-fault")).to_have_text("is not a number")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
    expect(page.get_by_role("button", name="Show what it would submit")).to_be_disabled()
    field.press_sequentially("1")
    expect(page.locator("#field-requests_per_second-fault")).to_have_count(0)
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_enabled()
    expect(page.get_by_label("command")).to_contain_text("--requests-per-second 20")


@pytest.mark.parametrize(
    "prompts", [["one\ntwo\n\nthree", "four"], ["[INST] hello", "plain"], ['["a"]'], [" a ", "b\n"]]
)
def test_once_more_sends_the_same_prompts(page: Page, stack: Stack, prompts: list[str]) -> None:
    group = stack.create(prompts=prompts)
    stack.sdk.wait_until_stopped(group, seconds=60)
    page.goto(f"/#/groups/new?like={group}")
    expect(page.get_by_label("num_clients")).to_have_value("4")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("h1")).to_have_text(re.compile(r"^Group \d+"))
    again = int(page.url.rpartition("/")[2])
    assert stack.sdk.get_group(again).info.load_config["prompts"] == prompts


@pytest.mark.parametrize(
    ("load", "shown"),
    [
        ('{arrival: "constant"}', "closed loop"),
        ('{arrival: {kind: "poisson"}}', "closed loop"),
        ('{arrival: "constant", trace: {path: "t", lengths_only: true}}', "closed loop"),
        ('{arrival: "constant", trace: {path: "t"}}', "3/s"),
        ('{arrival: {kind: "constant", stages: [{rps: 9, seconds: 1}]}}', "3/s"),
        ('{arrival: "constant", requests_per_second: 2}', "3/s"),
    ],
)
def test_only_what_has_no_rate_is_called_a_closed_loop(page: Page, load: str, shown: str) -> None:
    page.goto("/")
    asked = f"import('/page/groups.js').then(({{askedOf}}) => askedOf({load}, {{requested_rps: 3}}))"
    assert page.evaluate(asked) == shown


def test_an_event_is_taken_whole_whatever_characters_its_text_has(page: Page) -> None:
    body = 'data: {"text": "a\u2028b\u0085c"}\n\n'
    page.route("**/told", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.goto("/")
    taken = "import('/page/api.js').then(async ({askEvents}) => { const all = []; await askEvents('/told', (_, data) => all.push(data)); return all; })"
    assert page.evaluate(taken) == ['{"text": "a\u2028b\u0085c"}']


def test_the_command_keeps_prompts_that_begin_with_a_dash(page: Page, stack: Stack) -> None:
    show(page, stack, "new-group")
    page.get_by_label("prompts", exact=True).fill("- one's\nplain")
    expect(page.get_by_label("command")).to_contain_text("""--prompt='- one'\\''s' --prompt plain""")


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
    page.goto(f"{url}/#/services")
    expect(page.get_by_label("The token that was printed at the start")).to_be_visible()
    page.goto(url)
    page.reload()
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
