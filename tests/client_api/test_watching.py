"""Observers hear of every change in order, viewers see what there is, and neither ever slows anybody."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from groups import GROUPS, api
from tokenstorm.client_api.feed import KEPT, Feed
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.runs import write_atomically
from waiting import finish, until


@asynccontextmanager
async def observer(statuses: list[int]) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """An address that answers with these statuses, then with 200, and what it was told."""
    told: list[dict[str, Any]] = []

    def answer(request: Request, reply: Reply) -> None:
        told.append(json.loads(request.body))
        reply.send(statuses.pop(0) if statuses else 200, b"{}")

    server = await serve(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", told
    finally:
        server.close()


def test_an_observer_hears_of_every_change_in_order_and_again_until_it_listens(tmp_path: Path) -> None:
    async def work() -> None:
        async with observer([500, 503]) as (url, told), api(tmp_path) as it:
            group = await it.create()
            answer = await it.post(f"/{group}/observers", url=url)
            assert (answer.status_code, answer.json()["url"]) == (201, url)
            job = (await it.info(group))["job_id"]
            it.jobs.found[job] = JobState("running")
            await it.until(group, status="running")
            it.jobs.found[job] = JobState("ended", "lost", "gone")
            await it.until(group, status="stopped")
            await until(lambda: told and told[-1]["status"] == "stopped")
            assert told[-1]["outcome"] == "lost"
            statuses = [note["status"] for note in told]
            assert statuses == sorted(statuses, key=["pending", "running", "stopped"].index)
            assert told[0] == told[1] == told[2]

    finish(work())


def test_what_an_observer_missed_while_the_api_was_away_it_hears_afterwards(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create()
            await it.post(f"/{group}/observers", url="http://127.0.0.1:9/nobody")
            job = (await it.info(group))["job_id"]
            it.jobs.found[job] = JobState("ended", "lost", "gone")
            await it.until(group, status="stopped")
            first = it.manager.book.store.outbox_urls()
        assert first == ["http://127.0.0.1:9/nobody"]
        async with api(tmp_path, it.jobs) as it:
            assert it.manager.book.store.outbox_urls() == first

    finish(work())


def test_events_of_a_stopped_group_end_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create()
            await it.client.post(f"{GROUPS}/{group}/stop")
            await it.until(group, status="stopped")
            events = (await it.get(f"/{group}/events")).text
            assert [line for line in events.splitlines() if line.startswith("event")] == [
                "event: status",
                "event: done",
            ]
            assert '"outcome":"cancelled"' in events

    finish(work())


def test_a_viewer_that_does_not_read_misses_the_oldest_and_holds_up_nobody() -> None:
    async def work() -> None:
        feed = Feed()
        slow = feed.follow()
        feed.publish("status", b"0")
        assert await anext(slow) == b"event: status\ndata: 0\n\n"
        for number in range(10 * KEPT):
            feed.publish("progress", b"%d" % number)
        feed.publish("done", b"{}")
        rest = [text async for text in slow]
        assert len(rest) == KEPT
        assert rest[-1].startswith(b"event: done")
        assert rest[-2] == b"event: progress\ndata: %d\n\n" % (10 * KEPT - 1)

    finish(work())


def test_where_the_launcher_cannot_be_reached_its_files_are_used_and_their_age_is_shown(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create()
            info = await it.info(group)
            run = Path(info["run_dir"])
            nothing = {"p50": None, "p90": None, "p99": None}
            status = {
                "schema": 1,
                "at": (datetime.now(UTC) - timedelta(seconds=90)).isoformat(),
                "run_id": info["run_id"],
                "phase": "measured",
                "reason": None,
                "environment": None,
                "window_end_seconds": 60.0,
                "elapsed_seconds": 7.0,
                "fraction": 0.1,
                **dict.fromkeys(("scheduled", "sent", "succeeded"), 7),
                **dict.fromkeys(("failed", "unsent", "in_flight", "waiting"), 0),
                **dict.fromkeys(("requested_rps", "achieved_rps", "output_tokens_per_second"), 1.0),
                **dict.fromkeys(("latency", "service_time", "ttft"), nothing),
                "ranks": 1,
                "ranks_up": 1,
            }
            (run / "status.json").write_text(json.dumps(status))
            (run / "metrics.prom").write_text("client_requests_total 7\n")
            (run / "address.json").write_text('{"schema": 1, "url": "http://127.0.0.1:9"}')
            assert (await it.get(f"/{group}/metrics")).status_code == 503
            it.jobs.found[info["job_id"]] = JobState("running")
            await it.until(group, status="running")
            await until(lambda: it.manager.live(it.manager.get(group)))
            metrics = await it.get(f"/{group}/metrics")
            assert metrics.text.startswith("client_requests_total 7\n# HELP client_metrics_age_seconds ")
            (sample,) = [line for line in metrics.text.splitlines() if line.startswith("client_metrics_age_seconds{")]
            assert float(sample.rpartition(" ")[2]) >= 90
            assert int(metrics.headers["age"]) >= 90
            progress = (await it.info(group))["progress"]
            assert progress["sent"] == 7
            assert progress["age_seconds"] >= 90
            status["at"] = "2020-01-01T00:00:00Z"  # whatever its clock says: it is new
            write_atomically(run / "status.json", json.dumps(status).encode())
            await until(lambda: it.manager.live(it.manager.get(group)).age_seconds < 60)  # type: ignore[union-attr]
            assert int((await it.get(f"/{group}/metrics")).headers["age"]) < 60
            it.jobs.found[info["job_id"]] = JobState("ended", "node_fail", "gone")
            ended = await it.until(group, status="stopped")
            assert (ended["outcome"], ended["progress"]["sent"], ended["progress"]["age_seconds"]) == (
                "node_fail",
                7,
                None,
            )

    finish(work())
