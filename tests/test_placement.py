"""Services on a real Slurm, with the orchestrator here, on the login node and as a job of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from running import TIMEOUT, Stage, wait_for
from serving import Up, end_all, start_up
from tokenstorm.errors import ApiError

FAST = {"preset": "fast"}
PLACES = ("login", "job")


@pytest.fixture
def start(stage: Stage, slurm: Path) -> Iterator[Callable[..., Up]]:
    """Starts `up` with the profile `lab`; at the end of the test nothing of it is left."""
    (stage.folder / "config.toml").write_text(
        f'[profiles.lab]\nscheduler = "slurm"\nbase_path = "{stage.folder}/base"\ninterface = "127.0.0.0/8"\n'
        f'python = "{sys.executable}"\n'
    )

    def up(placement: str = "local") -> Up:
        environment = {
            "SLURM_CONF": str(slurm),
            "TOKENSTORM_CONFIG": str(stage.folder / "config.toml"),
            "TOKENSTORM_ORCHESTRATOR_PLACEMENT": placement,
        }
        return start_up(stage, "--profile", "lab", **environment)

    yield up
    end_all(stage)


def published(stage: Stage) -> dict[str, Any]:
    """Where the orchestrator that was placed says that it is."""
    found: dict[str, Any] = json.loads((stage.folder / "base" / "orchestrator" / "address.json").read_bytes())
    return found


def start_file(stage: Stage) -> dict[str, Any]:
    """How it was started."""
    found: dict[str, Any] = json.loads((stage.folder / "base" / "orchestrator" / "start.json").read_bytes())
    return found


def test_a_service_spreads_over_nodes_and_its_group_runs_beside_them(stage: Stage, start: Callable[..., Up]) -> None:
    up = start()
    with up.sdk() as client:
        service = client.create_service("inference/sim-replicas", {**FAST, "resources": {"nodes": 2}})
        service = client.wait_until_ready(service.id, seconds=TIMEOUT)
        replicas = client.get_service_group(service.id)
        assert {job.node for job in replicas.node_jobs} == set(service.nodes) == {"n1", "n2"}
        assert [replica.status for job in replicas.node_jobs for replica in job.replicas] == ["running"] * 8
        group = client.create_group(
            service_id=service.id,
            num_clients=40,
            requests_per_second=40.0,
            duration_seconds=2.0,
            nodes=2,
            prompts=["a"],
        )
        client.wait_until_stopped(group.group_id, seconds=TIMEOUT)
        summary = client.results(group.group_id)
        assert summary.counts.scheduled == summary.counts.succeeded == 80
        assert {rank.host for rank in summary.ranks} == {"n3", "n4"}


@pytest.mark.parametrize("placement", PLACES)
def test_an_orchestrator_on_the_cluster_starts_when_it_is_needed_and_ends_with_up(
    stage: Stage, start: Callable[..., Up], placement: str
) -> None:
    up = start(placement)
    assert not (stage.folder / "base" / "orchestrator").exists()
    with up.sdk() as client:
        service = client.create_service("inference/sim-single-node", FAST)
        client.wait_until_ready(service.id, seconds=TIMEOUT)
        assert client.prompt(service.id, "hi").success
    token = Path(stage.folder / "base" / "orchestrator" / start_file(stage)["name"] / "token")
    assert token.stat().st_mode & 0o777 == 0o600
    done = up.stop()
    assert (done.code, done.err) == (0, "tokenstorm: stopping 0 groups and 1 service; once more: at once\n")


@pytest.mark.parametrize("placement", PLACES)
def test_an_orchestrator_on_the_cluster_is_found_again_after_up_was_killed(
    stage: Stage, start: Callable[..., Up], placement: str
) -> None:
    first = start(placement)
    with first.sdk() as client:
        service = client.create_service("inference/sim-single-node", FAST)
        client.wait_until_ready(service.id, seconds=TIMEOUT)
    there = published(stage)
    first.process.kill()
    stage.ended(first.process)
    second = start(placement)
    with second.sdk() as client:
        assert client.get_service(service.id).status == "running"
        assert published(stage) == there
        client.stop_service(service.id)


@pytest.mark.parametrize("placement", PLACES)
def test_a_new_orchestrator_takes_over_the_services_of_one_that_ended(
    stage: Stage, start: Callable[..., Up], slurm: Path, placement: str
) -> None:
    up = start(placement)
    with up.sdk() as client:
        service = client.create_service("inference/sim-single-node", FAST)
        client.wait_until_ready(service.id, seconds=TIMEOUT)
        first = start_file(stage)
        folder = stage.folder / "base" / "orchestrator" / first["name"]
        if placement == "job":
            subprocess.run(["scancel", first["job_id"]], check=True)
        else:
            subprocess.run(["kill", "-9", (folder / "pid").read_text().strip()], check=True)

        def again() -> bool:
            try:
                return client.get_service(service.id).status == "running" and start_file(stage) != first
            except ApiError:  # until it is known that the first one is gone
                return False

        wait_for(again, "no second orchestrator took over")
        assert client.prompt(service.id, "hi").success


def test_a_group_goes_through_an_orchestrator_that_nodes_reach_and_is_refused_else(start: Callable[..., Up]) -> None:
    load: dict[str, Any] = {"num_clients": 20, "requests_per_second": 20.0, "duration_seconds": 1.0, "prompts": ["a"]}
    up = start()
    with up.sdk() as client:
        service = client.create_service("inference/sim-single-node", FAST)
        client.wait_until_ready(service.id, seconds=TIMEOUT)
        with pytest.raises(ApiError, match="placement") as refused:
            client.create_group(service_id=service.id, via="orchestrator", **load)
        assert refused.value.status == 422
        assert not client.list_groups().groups
    up.stop()
    with start("job").sdk() as client:
        service = client.create_service("inference/sim-replicas", FAST)
        client.wait_until_ready(service.id, seconds=TIMEOUT)
        group = client.create_group(service_id=service.id, via="orchestrator", **load)
        client.wait_until_stopped(group.group_id, seconds=TIMEOUT)
        summary = client.results(group.group_id)
        assert summary.counts.scheduled == summary.counts.succeeded == 20
        assert list(summary.replicas) == ["orchestrator"]


def test_an_orchestrator_that_cannot_start_says_why(stage: Stage, start: Callable[..., Up]) -> None:
    up = start("job")
    home = stage.folder / "base" / "orchestrator"
    home.mkdir(parents=True)
    (home / "services.lab.sqlite").write_text("no database at all, this file is something else altogether")
    with up.sdk() as client, pytest.raises(ApiError, match=r"services\.lab\.sqlite") as failed:
        client.list_services()
    assert failed.value.status == 502
