"""On a cluster that has nothing of tokenstorm, a group and a service deploy it by themselves and run from what they deployed."""

import json
from pathlib import Path, PurePosixPath

import pytest

from grouplab import cancel_everything, groups
from running import Stage
from tokenstorm.client_api.dispatcher import SlurmClientDispatcher
from tokenstorm.cluster.deploy import Deployment
from tokenstorm.cluster.site import open_site
from tokenstorm.config import Partitions, Profile
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


def test_a_group_and_a_service_run_from_the_environment_that_the_first_of_them_deployed(
    slurm: Path, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENSTORM_HOME", str(tmp_path / "home"))
    truth = stage.truth()

    async def scenario() -> None:
        site = await open_site(profile(tmp_path / "base"))
        said: list[str] = []
        deployment = Deployment(site, said.append)
        async with groups(tmp_path, truth.url, site=site) as api:
            api.manager.dispatcher = SlurmClientDispatcher(site, deployment)
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
