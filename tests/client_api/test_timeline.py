"""Who comes late gets every second there was, of a run that goes on and of one that is over."""

import json
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

from msgspec.structs import replace

from groups import api
from launching import second, status
from tokenstorm.client_api.benchruns import newest
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.client_api.history import History
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import JobState
from waiting import finish, until


def line(t: int) -> str:
    return json.dumps({"t": t, "sent": t * 10, "histograms": {"ttft": {"1": 2}}}) + "\n"


async def seconds(it: Any, group: int, **query: int) -> list[dict[str, Any]]:
    answer = await it.get(f"/{group}/timeline", **query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(found) for found in answer.text.splitlines()]


def test_the_seconds_so_far_come_without_histograms_and_later_ones_alone_when_asked_for(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create()
            info = await it.info(group)
            assert await seconds(it, group) == []
            it.jobs.found[info["job_id"]] = JobState("running")
            await it.until(group, status="running")
            file = Path(info["run_dir"]) / "timeline.jsonl"
            file.write_text(line(0) + line(1) + line(2)[:9])
            assert await seconds(it, group) == [{"t": 0, "sent": 0}, {"t": 1, "sent": 10}]
            with file.open("a") as more:
                more.write(line(2)[9:] + "torn {\n" + line(3))
            assert [one["t"] for one in await seconds(it, group, **{"from": 2})] == [2, 3]
            it.jobs.found[info["job_id"]] = JobState("ended", "lost", "gone")
            await it.until(group, status="stopped")
            assert [one["t"] for one in await seconds(it, group, **{"from": 1})] == [1, 2, 3]
            assert (await it.get("/99/timeline")).status_code == 404

    finish(work())


def test_a_token_guards_the_calls_and_not_the_page_that_asks_for_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path, token="secret") as it:
            assert (await it.get()).status_code == 401
            for path in ("/", "/page/app.js", "/charts/time.js", "/vendor/uPlot.js", "/options.json"):
                answer = await it.client.get(path)
                assert answer.status_code == 200, path
            assert (await it.client.get("/page/../app.py")).status_code in {401, 404}
            assert "script-src 'self';" in (await it.client.get("/")).headers["content-security-policy"]
            assert (await it.client.get("/options.json")).json()["num_clients"] == "--num-clients"

    finish(work())


def keep(folder: Path, group_id: int | None) -> None:
    folder.mkdir(parents=True)
    summary = {"run_id": folder.name, "group_id": group_id, "started_at": None, "plan": {"name": "mine"}}
    (folder / "summary.json").write_text(json.dumps({**summary, "verdict": {"state": "valid", "reasons": []}}))
    (folder / "timeline.jsonl").write_text(line(0))


def test_runs_of_bench_are_listed_and_read_and_those_of_groups_are_not_among_them(tmp_path: Path) -> None:
    runs = tmp_path / "home" / "runs"
    keep(runs / "a1", None)
    keep(runs / "b2", 7)

    async def work() -> None:
        async with api(tmp_path) as it:
            found = (await it.client.get("/api/v1/runs")).json()
            assert [(run["run_id"], run["name"], run["verdict"]) for run in found["runs"]] == [("a1", "mine", "valid")]
            assert (await it.client.get("/api/v1/runs/a1/timeline")).json() == {"t": 0, "sent": 0}
            assert (await it.client.get("/api/v1/runs/a1/results")).json()["run_id"] == "a1"
            missing = await it.client.get("/api/v1/runs/c3/results")
            assert (missing.status_code, "c3" in missing.json()["detail"]) == (404, True)

    finish(work())


def test_a_job_that_starts_anew_begins_a_timeline_of_its_own_that_is_never_mixed_with_the_first(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create()
            info = await it.info(group)
            run = Path(info["run_dir"])
            (run / "address.json").write_text('{"schema": 1, "url": "http://127.0.0.1:9"}')
            it.jobs.found[info["job_id"]] = JobState("running")
            (run / "status.json").write_bytes(status(sent=5))
            (run / "timeline.jsonl").write_bytes(second(0, sent=1) + second(1, sent=2) + second(2, sent=2))
            await until(lambda: it.manager.live(it.manager.get(group)))
            assert [one["t"] for one in await seconds(it, group)] == [0, 1, 2]
            viewer = it.manager.feed(it.manager.get(group)).follow()
            (run / "status.json").write_bytes(status(attempt=1, sent=0))  # its timeline is still the one before
            await until(lambda: (live := it.manager.live(it.manager.get(group))) and live.attempt == 1)
            assert await seconds(it, group) == []
            (run / "timeline.jsonl").write_bytes(second(0, attempt=1, sent=7))
            (run / "status.json").write_bytes(status(attempt=1, sent=7))
            async for event in viewer:
                if event.startswith(b"event: progress") and json.loads(event.partition(b"data: ")[2])["sent"] == 7:
                    break
            assert [(one["t"], one["sent"]) for one in await seconds(it, group)] == [(0, 7)]

    finish(work(), 60)


class Purged(PosixPath):
    """A folder of which a run is removed once it was seen."""

    def glob(self, pattern: str) -> Any:
        yield self / "gone" / "summary.json"
        yield from Path(self).glob(pattern)


def test_a_run_that_is_purged_while_runs_are_listed_is_left_out(tmp_path: Path) -> None:
    keep(tmp_path / "a1", None)
    assert [run.run_id for run in newest(Purged(tmp_path))] == ["a1"]


class Places(LocalShell):
    """Tells from where on files are read."""

    def __init__(self) -> None:
        self.offsets: list[int] = []

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        self.offsets.append(offset)
        return await super().get(path, offset=offset, limit=limit)


def test_what_was_read_of_a_run_is_kept_no_longer_than_it_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            groups = [it.manager.get(await it.create()) for _ in range(2)]
            one, other = (replace(group, stage="running") for group in groups)
            file = it.manager.archive.folder(one.run_id) / "timeline.jsonl"
            Path(file).write_text(line(0))
            shell, going = Places(), {one.group_id: 0, other.group_id: 0}
            history = History(shell, it.manager.archive, going.get)

            async def read(group: ClientGroup) -> list[int]:
                shell.offsets = []
                async for _ in history.lines(group, 0):
                    pass
                return shell.offsets

            size = len(line(0))
            assert (await read(one), await read(one)) == ([0, size], [size])
            del going[one.group_id]
            assert await read(other) == [0]
            assert await read(one) == [0, size]

    finish(work())
