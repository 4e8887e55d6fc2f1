"""What can happen to a group on a cluster, made to happen: each ends with the right outcome and all that was finished."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from grouplab import Groups, cancel_everything, groups, kill, processes_of, slurm_says
from running import Stage, Truth
from slurmlab import configured
from tokenstorm.cluster.scheduler import Job, JobId
from tokenstorm.cluster.slurm import Slurm
from waiting import finish

pytestmark = pytest.mark.usefixtures("calm")
LONG = 40.0
KEPT = 20
"""So many lines are on disk before anything is done to a group."""


@pytest.fixture
def calm(slurm: Path) -> Iterator[None]:
    """No job of one test is there in the next, and no node is down."""
    yield
    cancel_everything(slurm)
    down = slurm_says("sinfo", "-h", "-N", "-o", "%N", "-t", "down,drain").split()
    for node in sorted(set(down)):
        slurm_says("scontrol", "update", f"nodename={node}", "state=resume")


def run_until(
    folder: Path,
    stage: Stage,
    fault: Callable[[Groups, dict[str, Any]], Any],
    *,
    jobs: type[Slurm] = Slurm,
    **fields: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A group that runs when something happens to it: its info and summary at the end. What was finished is all there."""
    truth = stage.truth()
    ended: list[dict[str, Any]] = []

    async def work() -> None:
        async with groups(folder, truth.url, jobs=jobs) as api:
            group = await api.create(**{"duration_seconds": LONG, **fields})
            info = await api.sending(group, 60)
            while len(kept := {line["seq"] for line in api.run(info).lines()}) < KEPT:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)
            if (more := fault(api, info)) is not None:
                await more
            info = await api.stopped(group)
            summary, rows = await api.summary(group), await api.rows(group)
            ended.extend((info, summary))
            all_that_was_finished_is_there(truth, info, rows, kept)
            assert summary["counts"]["succeeded"] >= sum(row["error"] is None and row["done"] > 0 for row in rows) > 0
            assert not (api.run(info).root / "secrets.json").exists()

    finish(work(), 180)
    return ended[0], ended[1]


def all_that_was_finished_is_there(
    truth: Truth, info: dict[str, Any], rows: list[dict[str, Any]], kept: set[int]
) -> None:
    """Whatever was on disk before the fault has its row, once; nothing was sent twice."""
    requests = {name: times for name, times in truth.requests().items() if name.startswith(info["run_id"])}
    assert all(len(times) == 1 for times in requests.values())
    told = [row["seq"] for row in rows]
    assert len(told) == len(set(told))
    assert kept <= set(told)


def ranks_of(info: dict[str, Any]) -> list[int]:
    """Its ranks, without the srun that started them."""
    return sorted(set(processes_of(info, "tokenstorm.loadgen", "rank")) - set(processes_of(info, "--no-kill")))


def tell_slurm(*argv: str) -> None:
    """A command of the fault."""
    slurm_says(*argv)


def lost(summary: dict[str, Any]) -> dict[int, str]:
    """The ranks that were lost, and how."""
    return {report["rank"]: report["lost"] for report in summary["ranks"] if report["lost"]}


def test_cancelled_in_slurm(tmp_path: Path, stage: Stage) -> None:
    info, summary = run_until(tmp_path, stage, lambda _, info: tell_slurm("scancel", info["job_id"]))
    assert info["outcome"] == "cancelled"
    assert lost(summary) == {}


def test_stopped_by_its_user(tmp_path: Path, stage: Stage) -> None:
    info, summary = run_until(tmp_path, stage, lambda api, _: api.post("/1/stop"))
    assert (info["outcome"], info["reason"], lost(summary)) == ("cancelled", "stopped", {})
    assert summary["counts"]["sent"] == summary["counts"]["succeeded"]


def test_told_to_end_as_slurm_does_ahead_of_a_time_limit(tmp_path: Path, stage: Stage) -> None:
    """`--signal=B:TERM@…` reaches the launcher alone; it drains, and the job ends as completed with its summary."""
    tell = ("scancel", "--signal=TERM", "--batch")
    info, summary = run_until(tmp_path, stage, lambda _, info: tell_slurm(*tell, info["job_id"]))
    assert (info["outcome"], lost(summary)) == ("cancelled", {})
    assert summary["counts"]["sent"] == summary["counts"]["succeeded"]


def test_a_rank_that_is_killed_costs_that_rank(tmp_path: Path, stage: Stage) -> None:
    def fault(_: Groups, info: dict[str, Any]) -> None:
        kill(ranks_of(info)[0])

    info, summary = run_until(tmp_path, stage, fault, duration_seconds=8.0)
    assert (info["outcome"], info["reason"]) == ("completed", "")
    assert list(lost(summary).values()) == ["its process ended"]
    assert "ranks_lost" in {reason["code"] for reason in summary["verdict"]["reasons"]}


def test_a_launcher_that_is_killed_costs_the_rest_of_the_run(tmp_path: Path, stage: Stage) -> None:
    def fault(_: Groups, info: dict[str, Any]) -> None:
        (launcher,) = processes_of(info, "tokenstorm.loadgen", "run")
        kill(launcher)

    info, summary = run_until(tmp_path, stage, fault)
    assert (info["outcome"], summary["outcome"]) == ("failed", "cut off")
    assert info["reason"].startswith("the load generator ended in the middle of its run (")
    assert ranks_of(info) == []


def test_the_end_of_all_ranks_is_the_end_of_the_run(tmp_path: Path, stage: Stage) -> None:
    def fault(_: Groups, info: dict[str, Any]) -> None:
        for pid in ranks_of(info):
            kill(pid)

    info, summary = run_until(tmp_path, stage, fault)
    assert (info["outcome"], len(lost(summary))) == ("failed", 4)
    assert "every rank was lost" in info["reason"]


@pytest.fixture
def kill_on_bad_exit(slurm: Path) -> Iterator[None]:
    """A step ends as soon as one of its tasks fails."""
    with configured(slurm, lambda text: text + "KillOnBadExit=1\n"):
        yield


@pytest.fixture
def preempting(slurm: Path) -> Iterator[None]:
    """Jobs of the partition `urgent` take the nodes of others."""
    urgent = (
        "PreemptType=preempt/partition_prio\nPreemptMode=CANCEL\n"
        "PartitionName=urgent Nodes=n[1-4] PriorityTier=10 MaxTime=INFINITE State=UP\n"
    )
    with configured(
        slurm, lambda text: text.replace("PartitionName=cpu ", "PartitionName=cpu PriorityTier=1 ") + urgent
    ):
        yield
        cancel_everything(slurm)


@pytest.mark.usefixtures("preempting")
def test_preempted_by_another_job(tmp_path: Path, stage: Stage) -> None:
    def fault(_: Groups, info: dict[str, Any]) -> None:
        tell_slurm("sbatch", "-p", "urgent", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")

    info, summary = run_until(tmp_path, stage, fault)
    assert info["outcome"] == "preempted"
    assert lost(summary) == {}


@pytest.mark.usefixtures("kill_on_bad_exit")
def test_a_site_that_kills_on_a_bad_exit_loses_no_more_than_others(tmp_path: Path, stage: Stage) -> None:
    def fault(_: Groups, info: dict[str, Any]) -> None:
        assert "KillOnBadExit           = 1" in slurm_says("scontrol", "show", "config")
        kill(ranks_of(info)[0])

    info, summary = run_until(tmp_path, stage, fault, duration_seconds=8.0)
    assert (info["outcome"], list(lost(summary).values())) == ("completed", ["its process ended"])


def test_a_node_that_is_lost_costs_its_ranks(tmp_path: Path, stage: Stage) -> None:
    def fault(_: Groups, info: dict[str, Any]) -> None:
        tell_slurm("scontrol", "update", "nodename=n3", "state=down", "reason=test")

    info, summary = run_until(tmp_path, stage, fault, duration_seconds=8.0)
    assert (info["outcome"], info["reason"]) == ("completed", "")
    assert len(lost(summary)) == 1
    assert [report["host"] for report in summary["ranks"] if report["lost"]] == ["n3"]


def test_the_loss_of_the_first_node_ends_the_job(tmp_path: Path, stage: Stage) -> None:
    def fault(_: Groups, info: dict[str, Any]) -> None:
        tell_slurm("scontrol", "update", "nodename=n1", "state=down", "reason=test")

    info, summary = run_until(tmp_path, stage, fault)
    assert info["outcome"] == "node_fail"
    assert summary["outcome"] in {"cut off", "cancelled"}


def test_a_scheduler_that_does_not_answer_changes_nothing(tmp_path: Path, stage: Stage, slurm: Path) -> None:
    controller = int((slurm.parent / "run" / "slurmctld.pid").read_text())

    async def fault(api: Groups, info: dict[str, Any]) -> None:
        os.kill(controller, signal.SIGSTOP)
        try:
            sent = info["progress"]["sent"]
            seen = await api.until(1, lambda info: (info["progress"] or {}).get("sent", 0) > sent + 100)
            assert (seen["status"], seen["job_state"], seen["outcome"]) == ("running", "running", None)
        finally:
            os.kill(controller, signal.SIGCONT)

    info, summary = run_until(tmp_path, stage, fault, duration_seconds=12.0)
    assert (info["outcome"], lost(summary)) == ("completed", {})


def test_an_api_that_was_away_finds_its_groups_again(tmp_path: Path, stage: Stage) -> None:
    """One goes on, one has ended meanwhile: the same jobs, each with its results, and no second job."""
    truth = stage.truth()

    async def work() -> None:
        async with groups(tmp_path, truth.url) as api:
            long, short = [await api.create(nodes=2, ranks=2, duration_seconds=seconds) for seconds in (12.0, 3.0)]
            before = {group: await api.sending(group) for group in (long, short)}
        while before[short]["job_id"] in slurm_says("squeue", "-h", "-o", "%i").split():
            pass
        async with groups(tmp_path, truth.url) as api:
            after = {group: await api.stopped(group) for group in (long, short)}
            for group, info in after.items():
                assert (info["outcome"], info["job_id"]) == ("completed", before[group]["job_id"])
                counts = (await api.summary(group))["counts"]
                assert counts["succeeded"] == counts["scheduled"] == len(await api.rows(group))
            everything = truth.requests()
            assert {len(times) for times in everything.values()} == {1}
            assert len(everything) == 240 + 60

    finish(work(), 180)


def test_the_time_limit_comes_early_enough_to_drain_and_write(tmp_path: Path, stage: Stage) -> None:
    """Slurm's own signal: a run whose length nobody could tell gets it before its limit, and keeps everything."""
    fields = {"requests_per_second": None, "duration_seconds": None, "request_count": 10**6, "think_time_seconds": 0.2}

    class Short(Slurm):
        """A job with a limit that a test can wait for: it is signalled half a minute after its start, or a bit later."""

        async def submit(self, job: Job) -> JobId:
            return await super().submit(replace(job, time_limit_minutes=2, signal_lead_seconds=60))

    def fault(api: Groups, info: dict[str, Any]) -> None:
        assert info["load_config"]["time_limit"] == 4
        api.manager.book.change(structs.replace(api.manager.book.expect(1), time_limit_minutes=2))

    info, summary = run_until(tmp_path, stage, fault, jobs=Short, time_limit=4, **fields)
    assert (info["outcome"], summary["outcome"], lost(summary)) == ("timeout", "cancelled", {})
    assert "time limit of 2 min" in info["reason"]
    assert summary["counts"]["sent"] == summary["counts"]["succeeded"]
