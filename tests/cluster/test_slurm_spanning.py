"""Engines over several nodes of a real Slurm: ready together, failed together, and nothing is left of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from grouplab import cancel_everything, profile
from orchestrating import submitted
from slurmjobs import output
from spanlab import Spanning, idle, kill_part, parts_of, scontrol, spanning
from tokenstorm.cluster.opening import open_site
from waiting import finish, until


@pytest.fixture(autouse=True)
def calm(slurm: Path) -> Iterator[None]:
    """No job of one test is there in the next."""
    yield
    cancel_everything(slurm)


def over_slurm(folder: Path, test: object, *, ready: float = 60) -> None:
    """Run a test against an orchestrator over the shared lab."""

    async def run() -> None:
        async with spanning(folder, await open_site(profile(folder / "base")), ready) as lab:
            await test(lab)  # type: ignore[operator]

    finish(run(), 240)


def test_an_engine_over_two_nodes_is_one_replica_with_the_logs_of_each(tmp_path: Path) -> None:
    async def test(lab: Spanning) -> None:
        service = await lab.running()
        (replica,) = lab.orchestrator.replicas(service.id)
        assert replica.nodes == service.nodes
        assert (replica.node, len(service.nodes)) == (service.nodes[0], 2)
        assert await lab.asked(service) == [200]
        assert sorted(parts_of(service.folder)) == [f"{rank} {node}" for rank, node in enumerate(service.nodes)]
        for rank, node in enumerate(service.nodes):
            text, _ = await lab.orchestrator.logs(service.id, source=f"{node}.0")
            assert text == f"part {rank} of 2 on {node}\n"
        await lab.orchestrator.cancel(service.id)
        found = await lab.ended(service)
        assert (found.status, found.reason) == ("cancelled", "")

    over_slurm(tmp_path, test)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_part_that_is_killed_fails_the_service_and_names_its_node(tmp_path: Path, rank: int) -> None:
    async def test(lab: Spanning) -> None:
        service = await lab.running()
        node = kill_part(service, rank)
        found = await lab.ended(service)
        assert found.status == "failed"
        assert node in found.reason
        assert "the engine was killed by SIGKILL" in found.reason

    over_slurm(tmp_path, test)


def test_a_part_that_never_meets_the_others_is_named_when_the_time_for_getting_ready_is_up(tmp_path: Path) -> None:
    async def test(lab: Spanning) -> None:
        service = await submitted(lab.orchestrator, "test/span", {"worker_args": ["--alone"]})
        found = await lab.ended(service)
        assert found.status == "failed"
        assert "not ready" in found.reason
        assert f"the part on {found.nodes[1]} said last: part 1 of 2" in found.reason

    over_slurm(tmp_path, test, ready=4)


def test_a_requeued_job_starts_its_engine_anew_on_its_new_nodes(tmp_path: Path) -> None:
    async def test(lab: Spanning) -> None:
        service = await lab.running()
        before = parts_of(service.folder)
        scontrol("update", f"jobid={service.job_id}", "requeue=1")  # as a site may that preempts
        scontrol("requeue", str(service.job_id))
        await lab.until(service.id, lambda one: one.status == "pending")
        scontrol("update", f"jobid={service.job_id}", "starttime=now")
        found = await lab.until(service.id, lambda one: one.status == "running" or one.ended, 150)
        assert found.status == "running", (found, lab.said(found))
        after = parts_of(service.folder)
        assert not set(before.values()) & set(after.values())
        assert await lab.asked(found) == [200]

    over_slurm(tmp_path, test)


def test_a_node_that_goes_down_is_named(tmp_path: Path) -> None:
    async def test(lab: Spanning) -> None:
        service = await lab.running()
        down = service.nodes[1]
        scontrol("update", f"nodename={down}", "state=down", "reason=test")
        try:
            found = await lab.ended(service)
        finally:
            idle([down])
        assert found.status == "failed"
        assert down in found.reason, (found, lab.said(found))

    over_slurm(tmp_path, test)


def test_the_engines_of_a_group_live_apart(tmp_path: Path) -> None:
    async def test(lab: Spanning) -> None:
        service = await lab.running("test/group")
        assert [one.nodes for one in lab.orchestrator.replicas(service.id)] == [("n1", "n2"), ("n3", "n4")]
        assert await lab.asked(service) == [200, 200]
        victim = parts_of(service.folder)["1 n4"]
        output("kill", "-9", str(victim))
        found = await lab.until(service.id, lambda one: "1 of 2 replicas answer" in one.reason)
        assert found.status == "running"
        await until(lambda: set(parts_of(service.folder)) == {"0 n1", "1 n2"})
        statuses = {one.id: one.status for one in lab.orchestrator.replicas(service.id)}
        assert statuses == {"n1.0": "running", "n3.0": "failed"}

    over_slurm(tmp_path, test)
