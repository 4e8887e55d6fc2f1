"""What is said of a group at its end, where little can be seen of it or what is seen is old, late or broken."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

import pytest

import grouplab
from grouplab import Groups, Walled
from groups import api
from running import Run, Stage
from tokenstorm.client_api import endings
from tokenstorm.cluster.local import LocalScheduler, LocalShell
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.cluster.shell import Shell
from tokenstorm.cluster.site import Site
from waiting import finish, until

FORBIDDEN = ConnectionRefusedError(111, "prohibited")


@asynccontextmanager
async def local_groups(folder: Path, url: str, shell: Shell) -> AsyncIterator[Groups]:
    """A Client API that sees its groups, which are processes of this machine, through that shell alone."""
    profile = grouplab.profile(folder / "cluster", scheduler="local")
    site = Site(profile, shell, LocalScheduler(LocalShell(), profile), has_gpu=False)
    async with grouplab.groups(folder, url, site=site) as found:
        yield found


def test_an_engine_that_only_fails_has_not_died_because_its_address_is_out_of_our_reach(
    tmp_path: Path, stage: Stage
) -> None:
    engine = stage.truth(err500=1)

    async def work() -> None:
        async with local_groups(tmp_path, engine.url, Walled(FORBIDDEN)) as it:
            group = await it.create(duration_seconds=9.0, nodes=1, ranks=1)
            info = await it.stopped(group)
            assert (info["outcome"], info["reason"]) == ("failed", "no request succeeded")
            counts = (await it.summary(group))["counts"]
            assert counts["failed_by_kind"] == {"http_500": 180}

    finish(work())


def test_an_engine_whose_address_refuses_its_clients_has_died_wherever_we_stand(tmp_path: Path, stage: Stage) -> None:
    engine = stage.truth()

    async def work() -> None:
        async with local_groups(tmp_path, engine.url, Walled(FORBIDDEN)) as it:
            group = await it.create(duration_seconds=300.0, nodes=1, ranks=1)
            await it.sending(group)
            engine.stop()
            info = await it.stopped(group)
            assert info["outcome"] == "failed"
            assert "the service died" in info["reason"]

    finish(work())


def a_run_with_results(stage: Stage) -> Run:
    return stage.bench(stage.truth().url, "--requests-per-second", "20", "--duration", "1", "--max-tokens", "2")


def leave(run: Run, folder: str, *without: str) -> None:
    """What that run left, in the folder of another."""
    for path in run.root.iterdir():
        if path.name not in {"plan.json", *without}:
            shutil.copy(path, Path(folder) / path.name)


@pytest.mark.parametrize("one_folder", [False, True], ids=["two folders", "one folder"])
def test_a_job_that_completed_has_a_summary_though_nobody_knows_its_exit_code(
    tmp_path: Path, stage: Stage, *, one_folder: bool
) -> None:
    """Where only squeue tells of jobs, and the file system shows the summary last; also where runs are at home already."""
    run = a_run_with_results(stage)
    if one_folder:
        (tmp_path / "api" / "home").mkdir(parents=True)
        (tmp_path / "api" / "home" / "runs").symlink_to(tmp_path / "api" / "cluster" / "runs")

    async def work() -> None:
        async with api(tmp_path / "api") as it:
            group = await it.create(num_clients=50, requests_per_second=20.0, duration_seconds=1.0, max_tokens=2)
            info = await it.info(group)
            it.jobs.found[info["job_id"]] = JobState("running")
            await it.until(group, status="running")
            leave(run, info["run_dir"], "summary.json")
            it.jobs.found[info["job_id"]] = JobState("ended", "completed")
            home = Path(tmp_path / "api" / "home" / "runs" / info["run_id"])
            await until(lambda: it.manager._follower._finishing and (home / "plan.json").exists())  # it has looked once
            leave(run, info["run_dir"])
            info = await it.until(group, status="stopped")
            assert (info["outcome"], info["reason"]) == ("completed", "")
            assert (await it.get(f"/{group}/results")).json()["outcome"] == "completed"

    finish(work())


def test_what_a_crashed_node_left_broken_costs_no_results(tmp_path: Path, stage: Stage) -> None:
    """Files that were renamed into place just before are empty: their content was never written."""
    run = a_run_with_results(stage)

    async def work() -> None:
        async with api(tmp_path / "api") as it:
            group = await it.create(requests_per_second=20.0, duration_seconds=1.0, max_tokens=2)
            info = await it.info(group)
            leave(run, info["run_dir"])
            for name in ("status.json", "metrics.prom", "summary.json"):
                (Path(info["run_dir"]) / name).write_bytes(b"")
            it.jobs.found[info["job_id"]] = JobState("ended", "node_fail", "NodeDown")
            info = await it.until(group, status="stopped")
            assert (info["outcome"], info["reason"]) == ("node_fail", "NodeDown")
            assert (await it.get(f"/{group}/results")).json()["counts"]["succeeded"] == 20

    finish(work())


def test_results_that_never_come_are_told(tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "SEEN_AFTER_SECONDS", 0.5)
    run = a_run_with_results(stage)

    async def work() -> None:
        async with api(tmp_path / "api") as it:
            group = await it.create(requests_per_second=20.0, duration_seconds=1.0, max_tokens=2)
            info = await it.info(group)
            leave(run, info["run_dir"])
            lines = Path(info["run_dir"]) / "results.0.0.jsonl"
            whole = lines.read_bytes()
            lines.write_bytes(whole[:-100])
            it.jobs.found[info["job_id"]] = JobState("ended", "completed", exit_code=0)
            info = await it.until(group, status="stopped")
            assert info["outcome"] == "completed"
            assert "the results of rank 0: 100 bytes" in info["reason"]

    finish(work())


class Slow(LocalShell):
    """The first look at a run's status takes longer than the run."""

    def __init__(self) -> None:
        super().__init__()
        self.looking, self.over = asyncio.Event(), asyncio.Event()

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        data = await super().get(path, offset=offset, limit=limit)
        if path.name == "status.json" and not self.looking.is_set():
            self.looking.set()
            await self.over.wait()
        return data


def test_a_second_that_comes_after_the_end_changes_nothing(tmp_path: Path, stage: Stage) -> None:
    run, slow = a_run_with_results(stage), Slow()

    async def work() -> None:
        async with api(tmp_path / "api", shell=slow) as it:
            group = await it.create(requests_per_second=20.0, duration_seconds=1.0, max_tokens=2)
            info = await it.info(group)
            leave(run, info["run_dir"], "address.json")
            it.jobs.found[info["job_id"]] = JobState("running")
            await slow.looking.wait()
            it.jobs.found[info["job_id"]] = JobState("ended", "completed", exit_code=0)
            await it.until(group, status="stopped")
            slow.over.set()
            await until(lambda: not it.manager._follower._followed)
            assert it.manager.live(it.manager.get(group)) is None

    finish(work())


class Looking(Walled):
    """A site that lets nothing through, where it is seen how often a file was read."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.reads: Counter[str] = Counter()

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        self.reads[path.name] += 1
        return await super().get(path, offset=offset, limit=limit)


def test_an_engine_that_was_away_for_some_seconds_long_ago_has_not_died(tmp_path: Path, stage: Stage) -> None:
    """An API that starts anew, and has only files to read, reads of all that time at once."""
    run, shell = a_run_with_results(stage), Looking(FORBIDDEN)
    second = run.timeline()[0]
    away = {**second, "succeeded": 0, "failed": 9, "failed_by_kind": {"refused": 9}}
    seconds = [{**(away if 2 <= t < 9 else second), "t": t} for t in range(11)]

    async def work() -> None:
        async with api(tmp_path / "api", shell=shell) as it:
            group = await it.create()
            info = await it.info(group)
            leave(run, info["run_dir"], "address.json")
            lines = "".join(json.dumps(line) + "\n" for line in seconds)
            (Path(info["run_dir"]) / "timeline.jsonl").write_text(lines)
            it.jobs.found[info["job_id"]] = JobState("running")
            await until(lambda: shell.reads["timeline.jsonl"] == 2)
            assert it.manager.get(group).ending is None

    finish(work())
