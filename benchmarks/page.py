"""The page against its bars: a real Chromium, a real Client API, and launchers that play back a run.

    python benchmarks/page.py [--rows first,live,groups] [--samples 3] [--seconds 15] [--groups 20] [--history 3600]

Each row prints what was measured as a share of its bar: at most 1 is within it. Other work on the machine slows all of it:
the load average stands above the rows.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from msgspec.structs import replace
from playwright.async_api import Browser, Page, async_playwright

from measuring import say, started
from tokenstorm.api.groups import GroupRequest
from tokenstorm.client_api import group as states
from tokenstorm.client_api.app import create_app
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.server import ServerServices
from tokenstorm.client_api.store import GroupSecrets, Store
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import JobId, JobState
from tokenstorm.cluster.site import Site
from tokenstorm.config.profile import Profile
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.loadgen.live import Event, Glance, RankSecond, Standing, Status, TimelineLine
from tokenstorm.metrics.counts import Counts, ReplicaReport
from tokenstorm.metrics.energy import GpuReading
from tokenstorm.metrics.engine import EngineSecond
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.reports import DiskReport, Verdict
from tokenstorm.report.page import try_page
from tokenstorm.web import Server

PAINT_BAR, TASK_BAR, CORE_BAR = 1.0, 0.100, 0.30
"""Seconds to the first paint; seconds of the longest task while live; share of a core of the Client API."""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
WATCH = """
window.seen = {tasks: [], chart: null};
new PerformanceObserver((list) => list.getEntries().forEach((one) => seen.tasks.push([one.startTime, one.duration])))
    .observe({type: 'longtask', buffered: true});
new MutationObserver(() => {
    if (seen.chart === null && document.querySelector('.chart canvas')) {
        seen.chart = 0;
        requestAnimationFrame(() => { seen.chart = performance.now(); });  // the frame that has it was painted by then
    }
}).observe(document, {childList: true, subtree: true});
"""


class Running:
    """A scheduler all of whose jobs run."""

    async def states(self, ids: Collection[JobId], sent: object = None) -> dict[JobId, JobState]:
        """They run."""
        return {job: JobState("running") for job in ids}


async def serve_api(folder: Path) -> None:
    """The Client API in a process of its own, until it is ended."""
    profile = Profile(name="local", scheduler="local", base_path=PurePosixPath(folder), python=sys.executable)
    site = Site(profile, LocalShell(), Running(), has_gpu=False)  # type: ignore[arg-type]
    store = Store.open(folder / "client.db")
    manager = ClientManager(site, store, ServerServices("http://127.0.0.1:9"), folder / "home", make_page=try_page)
    server = Server(create_app(manager), "127.0.0.1", 0)
    async with server.running():
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def second(t: int) -> TimelineLine:
    """A second of a group with four ranks, four replicas and eight GPUs."""
    wave = 1 + (t % 97) / 97
    times = Histogram()
    times.record_many([round(wave * 1e8 * (1 + n / 50)) for n in range(50)])
    return TimelineLine(
        t=t,
        phase="warmup" if t < 60 else "measured",
        scheduled=50,
        sent=50,
        succeeded=48,
        failed=2,
        failed_by_kind={"timeout": 1, "http_503": 1},
        unsent=0,
        output_tokens=round(3000 * wave),
        in_flight=round(40 * wave),
        waiting=t % 3,
        target_rps=50.0,
        waited_below_cap=0,
        latency=Glance(wave, wave * 1.5, wave * 2),
        service_time=Glance(wave, wave * 1.5, wave * 2),
        ttft=Glance(wave / 10, wave / 8, wave / 4),
        inter_chunk=Glance(wave / 90, wave / 80, wave / 40),
        ranks={str(rank): RankSecond(0.3 * wave, 0.002 * wave, 0.0, DiskReport()) for rank in range(4)},
        left_out=[],
        engine={
            f"node.{replica}": EngineSecond(at=t, running=10 * wave, waiting=wave, kv_usage=0.4 * wave, hit_rate=0.2)
            for replica in range(4)
        },
        gpus=[GpuReading(at=t, gpu=f"GPU-{n}", node="n1", watts=300 * wave, utilization=0.9) for n in range(8)],
        histograms=dict.fromkeys(("latency", "ttft", "service_time", "inter_chunk"), times),
    )


def status(run_id: str, t: int) -> Status:
    """How far it is at that second."""
    glance = Glance(1.0, 1.5, 2.0)
    replica = ReplicaReport("http://n1:1", Counts(scheduled=t, sent=t, succeeded=t), left_out=False)
    return Status(
        at=datetime.now(UTC),
        run_id=run_id,
        phase="measured",
        reason=None,
        elapsed_seconds=float(t),
        fraction=0.5,
        window_end_seconds=7200.0,
        scheduled=50 * t,
        sent=50 * t,
        succeeded=48 * t,
        failed=2 * t,
        unsent=0,
        in_flight=40,
        waiting=0,
        requested_rps=50.0,
        achieved_rps=48.0,
        output_tokens_per_second=4000.0,
        latency=glance,
        service_time=glance,
        ttft=glance,
        ranks=4,
        ranks_up=4,
        standing=Standing(Verdict("valid", []), {"timeout": "no answer"}, {f"node.{n}": replica for n in range(4)}),
        environment=None,
    )


class PlayedLauncher:
    """A launcher's port that says a second each second, and the files of the seconds before."""

    def __init__(self, folder: Path, run_id: str, history: int) -> None:
        self.folder, self.run_id, self.t = folder / "runs" / run_id, run_id, history
        self._followers: list[Reply] = []

    async def start(self) -> asyncio.Server:
        """Write the files, and listen."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "timeline.jsonl").open("wb") as file:
            file.writelines(msgspec.json.encode(second(t)) + b"\n" for t in range(self.t))
        server = await serve(self._answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        (self.folder / "address.json").write_bytes(msgspec.json.encode({"url": url}))
        return server

    def _answer(self, request: Request, reply: Reply) -> None:
        if request.path == "/events":
            reply.start(200, "application/x-ndjson")
            self._followers.append(reply)
        else:
            reply.send(200, msgspec.json.encode(status(self.run_id, self.t)))

    def tell(self) -> None:
        """The next second."""
        line = second(self.t)
        with (self.folder / "timeline.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
        event = msgspec.json.encode(Event(status(self.run_id, self.t), replace(line, histograms={}))) + b"\n"
        self.t += 1
        for follower in self._followers:
            follower.write(event)


@asynccontextmanager
async def played(groups: int, history: int) -> AsyncIterator[tuple[str, int]]:
    """The API with so many groups that run, as their launchers tell it; its address and its pid."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, launchers = Store.open(folder / "client.db"), []
        request = msgspec.json.encode(
            msgspec.convert(
                {"target_url": "http://127.0.0.1:9", "num_clients": 100, "prompts": ["hello"]}, GroupRequest
            )
        )
        for number in range(groups):
            run_id = f"{number:012x}"
            launchers.append(PlayedLauncher(folder, run_id, history))

            def make(group_id: int, run_id: str = run_id) -> ClientGroup:
                return ClientGroup(
                    group_id=group_id,
                    run_id=run_id,
                    num_clients=100,
                    service_id=None,
                    name=f"played {group_id}",
                    labels={},
                    manual=False,
                    hold_seconds=600.0,
                    drain_seconds=30.0,
                    time_limit_minutes=500,
                    created_at=states.now(),
                    job_id=str(100 + group_id),
                    stage="running",
                )

            store.add(make, request, GroupSecrets("secret"), idempotency_key=None, fingerprint="")
        store.close()
        servers = [await launcher.start() for launcher in launchers]

        async def tell() -> None:
            while True:
                await asyncio.sleep(1)
                for launcher in launchers:
                    launcher.tell()

        telling = asyncio.create_task(tell())
        try:
            async with started(__file__, "serve", name) as (url, pid):
                yield url, pid
        finally:
            telling.cancel()
            for server in servers:
                server.close()


@asynccontextmanager
async def opened(browser: Browser, url: str) -> AsyncIterator[Page]:
    """A page that notes what it does."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    await page.add_init_script(WATCH)
    await page.goto(url)
    yield page
    await context.close()


async def until(page: Page, what: str) -> None:
    """Ask again and again: the page's rules allow Playwright no waiting of its own in it."""
    while not await page.evaluate(what):
        await page.wait_for_timeout(100)


async def first(browser: Browser, args: argparse.Namespace) -> None:
    """How long a group's page with an hour of seconds takes until something, and until a chart, is seen."""
    paints, charts = [], []
    async with played(1, args.history) as (url, _):
        for _ in range(args.samples + 1):  # the first one fills the API's and the browser's caches
            async with opened(browser, f"{url}/#/groups/1") as page:
                await until(page, "seen.chart > 0")
                paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
                paints.append(await page.evaluate(paint) / 1000)
                charts.append(await page.evaluate("seen.chart") / 1000)
    say(f"{args.history} s of history: first paint, median of {args.samples}", statistics.median(paints[1:]), PAINT_BAR)
    say(f"{args.history} s of history: first chart, median of {args.samples}", statistics.median(charts[1:]), PAINT_BAR)
    say("  the very first one, with nothing in memory", charts[0], PAINT_BAR)


async def live(browser: Browser, args: argparse.Namespace) -> None:
    """The longest task of a group's page while seconds come in."""
    async with played(1, args.history) as (url, _), opened(browser, f"{url}/#/groups/1") as page:
        await until(page, "document.querySelectorAll('.chart').length > 10")
        await asyncio.sleep(5)
        begin = await page.evaluate("performance.now()")
        await asyncio.sleep(args.seconds)
        tasks = await page.evaluate(f"seen.tasks.filter(([at]) => at > {begin}).map(([, took]) => took / 1000)")
    say(f"{args.seconds:g} s live after {args.history} s: longest task", max(tasks, default=0.05), TASK_BAR)
    sys.stdout.write(f"  tasks over half the bar: {len(tasks)}\n")


def core_seconds(pid: int) -> float:
    """The CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def groups(browser: Browser, args: argparse.Namespace) -> None:
    """What the Client API needs while many groups run and their list is shown."""
    async with played(args.groups, 60) as (url, pid):
        await asyncio.sleep(3)
        for what in ("nobody looks", "their list is shown"):
            shown = opened(browser, f"{url}/#/groups") if what != "nobody looks" else contextlib.nullcontext()
            async with shown:
                await asyncio.sleep(2)
                before, began = core_seconds(pid), time.monotonic()
                await asyncio.sleep(args.seconds)
                used = (core_seconds(pid) - before) / (time.monotonic() - began)
            say(f"{args.groups} groups live, {what}: Client API", used, CORE_BAR)


ROWS: dict[str, Callable[[Browser, argparse.Namespace], Any]] = {"first": first, "live": live, "groups": groups}


async def measure(args: argparse.Namespace) -> None:
    """All rows that are asked for."""
    sys.stdout.write(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=args.chromium, args=FLAGS)
        for row in args.rows.split(","):
            await ROWS[row](browser, args)
        await browser.close()


def main() -> None:
    """Parse the command line and measure."""
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve_api(Path(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--history", type=int, default=3600)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
