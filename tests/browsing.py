"""What tests of the page use: the stack before which it stands, Chromium, axe. Screenshots go to $TOKENSTORM_SHOTS."""

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from playwright.sync_api import Page

from cable import Cable
from running import wait_for
from serving import Up
from tokenstorm.sdk import Client

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
AXE = Path(__file__).resolve().parents[1] / "node_modules" / "axe-core" / "axe.min.js"
WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
NARROW: dict[str, Any] = {"viewport": {"width": 380, "height": 800}}
SHORT = {"num_clients": 4, "requests_per_second": 20.0, "duration_seconds": 2.0, "max_tokens": 4, "drain_seconds": 2.0}
HOSTILE = "<img src=x onerror=document.title='owned'>\"'&{{7*7}}"


@dataclass
class Stack:
    """The APIs, a service that runs, and a group of it that is over."""

    up: Up
    sdk: Client
    service: str
    over: int

    def create(self, **fields: Any) -> int:
        return create(self.sdk, self.service, **fields)

    def summary(self, group: int) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(self.sdk.results(group))
        return found

    def until_second(self, group: int, second: int) -> None:
        def is_there() -> bool:
            progress = self.sdk.get_group(group).info.progress
            return progress is not None and progress.elapsed_seconds > second

        wait_for(is_there, f"group {group} never came to second {second}")


def create(sdk: Client, service: str, **fields: Any) -> int:
    """A short group, but for these fields."""
    asked: dict[str, Any] = {"prompts": ["hello"], **SHORT, **fields}
    return sdk.create_group(service_id=service, **asked).group_id


@contextmanager
def frozen_at_will(port: int) -> Iterator[Cable]:
    """A cable to a port of this machine, in a thread of its own: Playwright's event loop runs in that of the test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    cable = Cable(port)
    try:
        asyncio.run_coroutine_threadsafe(cable.plug(), loop).result(10)
        yield cable
        asyncio.run_coroutine_threadsafe(cable.close(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def keep_picture(page: Page, name: str) -> None:
    """Keep what is shown, for people."""
    if folder := os.environ.get("TOKENSTORM_SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def faults_of(page: Page) -> list[str]:
    """What axe finds serious or critical."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run().then(({violations}) => violations)")
    return [
        f"{one['id']}: {one['nodes'][0]['target']} {one['nodes'][0]['failureSummary']}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]
