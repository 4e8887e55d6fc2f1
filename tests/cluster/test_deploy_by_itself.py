"""On a cluster that has nothing of tokenstorm, a group and a service deploy it by themselves and run from what they deployed."""

import json
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from grouplab import cancel_everything, groups
from running import Stage
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.setup import deploy, hold
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.config.profile import Partitions, Profile
from tokenstorm.orchestrator.recipes import load_recipes
from tokenstorm.orchestrator.services import ServiceOrchestrator
from waiting import finish, until


def profile(base: Path) -> Profile:
    return Profile(
        name="lab",
        scheduler="slurm",
        base_path=PurePosixPath(base),
        python="/usr/bin/python3",
        interface="127.0.0.0/8",
        partitions=Partitions(cpu="cpu", gpu="gpu"),
    )


def test_a_deploy_keeps_its_place_in_the_queue_for_as_long_as_somebody_waits_for_it(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "START_SECONDS", 0.0)  # for whoever is not patient
    later = profile(tmp_path / "base").model_copy(update={"sbatch": ("--begin=now+1hour",), "python": sys.executable})

    def queued() -> list[str]:
        listed = subprocess.run(["squeue", "-h", "-o", "%i %j %Z"], check=True, capture_output=True, text=True).stdout
        ours = [line for line in listed.splitlines() if str(tmp_path) in line]  # not what another test's job left
        return [line.split()[0] for line in ours if " tokenstorm-probe" in line]

    async def scenario() -> None:
        site = await open_site(later)
        orchestrator = ServiceOrchestrator(
            site, load_recipes(), tmp_path / "services.sqlite", deployment=Deployment(site, print)
        )
        try:
            await orchestrator.start()
            one, other, third = [await orchestrator.create("inference/sim-single-node", {}) for _ in range(3)]
            waits = r"being put on the cluster: waiting for a node of partition cpu: job \d+ is pending .BeginTime."
            for service in (one, other, third):
                await until(lambda service=service: re.search(waits, orchestrator.get(service.id).reason), 60)  # type: ignore[misc]
            (job,) = queued()
            await orchestrator.cancel(one.id)
            assert queued() == [job], "the others wait for it"
            subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], check=True)  # noqa: ASYNC221
            await until(lambda: orchestrator.get(other.id).job_id and orchestrator.get(third.id).job_id, 60)
            assert [(await orchestrator.cancel(service.id)).status for service in (other, third)] == ["cancelled"] * 2
            assert orchestrator.get(one.id).job_id is None

            for answer in (tmp_path / "base" / "deploy").glob("python-*.json"):
                answer.unlink()
            monkeypatch.setattr(deploy, "KNOWN_SECONDS", 0.0)
            last = await orchestrator.create("inference/sim-single-node", {})
            await until(lambda: re.search(waits, orchestrator.get(last.id).reason), 60)
            assert (await orchestrator.cancel(last.id)).status == "cancelled"
            await until(lambda: not queued(), 60)
            await until(lambda: not list((tmp_path / "base").glob(".probe*")), 60)
        finally:
            await orchestrator.close()
            await site.close()

    try:
        finish(scenario(), 180)
    finally:
        cancel_everything(slurm)


def test_a_group_and_a_service_run_from_the_environment_that_the_first_of_them_deployed(
    slurm: Path, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENSTORM_HOME", str(tmp_path / "home"))
    truth = stage.truth()

    async def scenario() -> None:
        site = await open_site(profile(tmp_path / "base"))
        said: list[str] = []
        deployment = Deployment(site, said.append)
        async with groups(tmp_path, truth.url, site=site, deployment=deployment) as api:
            group = await api.create(ranks=2)
            await api.until(group, lambda info: "is being put on the cluster" in (info["reason"] or ""))
            info = await api.stopped(group)
            assert (info["outcome"], info["reason"]) == ("completed", "")
            assert (await api.summary(group))["counts"]["succeeded"] == 40
            steps = len(said)
            second = await api.create(ranks=2)
            assert (await api.stopped(second))["outcome"] == "completed"
            assert len(said) == steps, "nothing was deployed a second time"
            python = str(await deployment.python())
            assert f"{python} -m tokenstorm.loadgen" in (api.run(info).root / "script.sh").read_text()

            service_store = tmp_path / "services.sqlite"
            orchestrator = ServiceOrchestrator(site, load_recipes(), service_store, deployment=deployment)
            try:
                await orchestrator.start()
                service = await orchestrator.create("inference/sim-single-node", {})
                await until(lambda: orchestrator.get(service.id).status in {"running", "failed"}, 60)
                assert orchestrator.get(service.id).status == "running", orchestrator.get(service.id).reason
                started = json.loads((Path(service.folder) / "service.json").read_bytes())
                assert started["command"][0] == python
                await orchestrator.cancel(service.id)
            finally:
                await orchestrator.close()

    try:
        finish(scenario(), 180)
    finally:
        cancel_everything(slurm)
