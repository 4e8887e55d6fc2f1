"""What users see of a group: that it holds, how many failed, and of a deleted one that its files can still go."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from groups import GROUPS, Api, api
from launching import second, status
from tokenstorm.api.group_answers import VerdictAnswer
from tokenstorm.cli.watching import change_line
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.errors import Unreachable
from tokenstorm.loadgen.live import Status
from tokenstorm.report.live import live_line
from tokenstorm.sdk import Change, Second
from waiting import finish, until


async def running(it: Api, **fields: Any) -> tuple[int, Path]:
    """A group whose job runs; its launcher is a folder that the test writes into."""
    group = await it.create(**fields)
    info = await it.info(group)
    run = Path(info["run_dir"])
    (run / "address.json").write_text('{"schema": 1, "url": "http://127.0.0.1:9"}')
    it.jobs.found[info["job_id"]] = JobState("running")
    return group, run


def test_a_held_group_says_that_it_holds_and_how_to_release_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group, run = await running(it, start="manual", hold_seconds=300.0)
            (run / "status.json").write_bytes(status(phase="holding"))
            reason = f"it holds until `tokenstorm group run {group}` or POST {GROUPS}/{group}/run releases it, for 300 s at most"
            info = await it.until(group, status="running", reason=reason)
            assert info["progress"]["phase"] == "holding"
            (listed,) = (await it.get(detail=True)).json()["groups"]
            assert listed["info"]["reason"] == reason
            await asyncio.sleep(0.3)  # the scheduler says again and again that the job runs
            assert (await it.info(group))["reason"] == reason
            line = change_line(Change(group_id=group, status="running", reason=reason))
            assert f"`tokenstorm group run {group}`" in line[:60]

    finish(work(), 60)


def test_a_group_that_is_released_for_later_says_when_it_starts_and_one_that_runs_holds_no_more(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group, run = await running(it, start="manual", hold_seconds=300.0)
            (run / "status.json").write_bytes(status(phase="holding"))
            await until(lambda: "it holds" in it.manager.get(group).reason)
            start_at = datetime.now(UTC) + timedelta(seconds=60)
            assert (await it.post(f"/{group}/run", start_at=start_at.isoformat())).status_code == 200
            expected = f"it was released, and starts at {start_at.isoformat(timespec='seconds')}"
            await it.until(group, reason=expected)
            (run / "status.json").write_bytes(status(phase="measured"))
            await it.until(group, reason="")

    finish(work(), 60)


def test_whoever_begins_to_watch_late_learns_of_all_failures(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group, run = await running(it)
            (run / "status.json").write_bytes(status(failed=41, sent=100))
            (run / "timeline.jsonl").write_bytes(second(30, failed=1, sent=2))
            await until(lambda: it.manager.live(it.manager.get(group)))
            seen: list[Second] = []
            feed = it.manager.feed(it.manager.get(group)).follow()
            (run / "timeline.jsonl").write_bytes(second(30, failed=1, sent=2) + second(31, failed=1, sent=2))
            async for event in feed:
                if event.startswith(b"event: progress"):
                    seen.append(msgspec.json.decode(event.partition(b"data: ")[2], type=Second))
                    break
            assert (seen[0].so_far.failed, seen[0].so_far.goodput) == (41, None)
            whole = msgspec.json.decode(seen[0].status, type=Status)
            assert (whole.failed, whole.environment) == (41, None)

    finish(work(), 60)


def test_how_a_run_stands_so_far_is_told_of_the_group_and_in_events_and_shortly_in_the_list(tmp_path: Path) -> None:
    verdict = {"state": "suspect", "reasons": [{"code": "failures", "text": "2 of 100 requests failed"}]}
    standing = {
        "verdict": verdict,
        "failures": {"reset": "the <b>connection</b> was reset"},
        "replicas": {"0": {"url": "http://n1:1", "counts": {"sent": 100, "failed": 2}, "left_out": True}},
    }
    replica = {"url": "http://n1:1", "sent": 100, "failed": 2, "left_out": True}

    async def work() -> None:
        async with api(tmp_path) as it:
            group, run = await running(it)
            (run / "status.json").write_bytes(status(standing=standing))
            (run / "timeline.jsonl").write_bytes(second(1))
            await until(lambda: it.manager.live(it.manager.get(group)))
            told = (await it.info(group))["progress"]
            assert (told["verdict"], told["failures"], told["replicas"]) == (
                verdict,
                standing["failures"],
                {"0": replica},
            )
            (listed,) = (await it.get(detail=True)).json()["groups"]
            shown = listed["info"]["progress"]
            assert (shown["verdict"], shown["failures"], shown["replicas"]) == (verdict, {}, {})
            feed = it.manager.feed(it.manager.get(group)).follow()
            (run / "timeline.jsonl").write_bytes(second(1) + second(2))
            async for event in feed:
                if event.startswith(b"event: progress"):
                    so_far = msgspec.json.decode(event.partition(b"data: ")[2], type=Second)
                    assert msgspec.convert(verdict, VerdictAnswer) == so_far.so_far.verdict
                    assert "suspect so far (failures)" in live_line(msgspec.json.decode(so_far.status, type=Status))
                    break

    finish(work(), 60)


def test_the_files_of_a_group_that_was_deleted_can_still_be_removed(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group, run = await running(it)
            it.jobs.found[(await it.info(group))["job_id"]] = JobState("ended", "lost", "gone")
            await it.until(group, status="stopped")
            assert (await it.client.delete(f"{GROUPS}/{group}")).status_code == 200
            gone = await it.get(f"/{group}")
            assert gone.status_code == 404
            assert "its files stay until DELETE …?purge=true" in gone.json()["detail"]
            assert (await it.client.delete(f"{GROUPS}/{group}")).status_code == 404
            assert run.exists()
            answer = await it.client.delete(f"{GROUPS}/{group}?purge=true")
            assert (answer.status_code, answer.json()) == (200, {"status": "deleted", "group_id": group})
            await until(lambda: not run.exists() and it.manager.book.store.to_purge() == [])
            for again in (group, 999):
                assert (await it.client.delete(f"{GROUPS}/{again}?purge=true")).status_code == 404

    finish(work(), 60)


def test_a_group_that_was_deleted_and_still_ends_can_be_purged(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group, run = await running(it)
            job = (await it.info(group))["job_id"]
            await it.until(group, status="running")
            assert (await it.client.delete(f"{GROUPS}/{group}")).status_code == 200
            for _ in range(2):  # asked for twice, it is done once
                assert (await it.client.delete(f"{GROUPS}/{group}?purge=true")).status_code == 200
            assert run.exists()
            it.jobs.found[job] = JobState("ended", "lost", "gone")
            await until(lambda: not run.exists())

    finish(work(), 60)


class Away(LocalShell):
    """Nothing can be removed while the cluster is away."""

    away = True

    async def remove(self, path: PurePosixPath) -> None:
        if self.away and path.name != "secrets.json":
            message = f"cannot remove {path}: the cluster is away"
            raise Unreachable(message)
        await super().remove(path)


def test_a_purge_that_is_not_done_yet_goes_on_with_the_next_api(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path, shell=Away()) as it:
            group, run = await running(it)
            jobs = it.jobs
            jobs.found[(await it.info(group))["job_id"]] = JobState("ended", "lost", "gone")
            await it.until(group, status="stopped")
            await it.client.delete(f"{GROUPS}/{group}")
            assert (await it.client.delete(f"{GROUPS}/{group}?purge=true")).status_code == 200
            await until(lambda: it.manager.book.trouble)
            assert run.exists()
        async with api(tmp_path, jobs):
            await until(lambda: not run.exists())

    finish(work(), 60)


def test_rows_as_csv_are_a_line_each_and_hold_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group, run = await running(it)
            times = dict.fromkeys(("seq", "rank", "scheduled", "slot_free", "sent", "done"), 0)
            error = {"kind": "http_500", "detail": "boom\x1b[2J\nand \u202e"}
            line = {"schema": 1, **times, "replica": "n\x9b0", "phase": "measured", "error": error}
            (run / "results.0.0.jsonl").write_text(json.dumps(line) + "\n")
            it.jobs.found[(await it.info(group))["job_id"]] = JobState("ended", "lost", "gone")
            await it.until(group, status="stopped")
            text = (await it.get(f"/{group}/requests", format="csv")).text
            assert set(text.splitlines()[1]) & set("\x1b\x9b\u202e") == set()
            (row,) = csv.DictReader(io.StringIO(text))
            assert (row["replica"], row["error_detail"]) == (r"n\x9b0", r"boom\x1b[2J\nand \u202e")
            raw = json.loads((await it.get(f"/{group}/requests")).text)
            assert raw["error"] == error, "files and JSON keep the truth"

    finish(work(), 60)
