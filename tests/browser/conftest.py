"""One stack for all tests of the page, and one Chromium for each module of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from browsing import CHROMIUM, FLAGS, HOSTILE, WIDE, Stack, create
from running import Stage
from serving import end_all, start_up


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.integration)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="chromium is missing: scripts/lab install, as root, brings it"))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, truthd: Callable[[], Path]) -> Iterator[Stack]:
    stage = Stage(tmp_path_factory.mktemp("browser"), truthd)
    try:
        up = start_up(stage)
        with up.sdk() as sdk:
            service = sdk.create_service("inference/sim-replicas", {"preset": "fast"})
            sdk.wait_until_ready(service.id, seconds=60)
            over = create(sdk, service.id, name=HOSTILE, duration_seconds=3.0, warmup_seconds=1.0)
            sdk.wait_until_stopped(over, seconds=60)
            yield Stack(up, sdk, service.id, over)
    finally:
        end_all(stage)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for longer than a module: while Playwright is there, an event loop runs in this thread, and no test can run its own."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def page(stack: Stack, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of the Client API; a parameter is options of its context. Whatever its console complains of fails the test."""
    context = browser.new_context(base_url=stack.up.client, **getattr(request, "param", WIDE))
    found = context.new_page()
    complaints: list[str] = []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    yield found
    context.close()  # a call that was refused, or that nobody took, is looked for on the page by its test
    assert not [said for said in complaints if "Failed to load resource" not in said]
