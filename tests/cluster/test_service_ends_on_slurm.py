"""How a service on a real Slurm ends, and how it goes on: its time limit, a job that is queued again, a Slurm that is silent."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from grouplab import cancel_everything, profile
from orchestrating import submitted
from running import wait_for
from slurmjobs import output
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.site import Site
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.orchestrator.recipes import load_recipes
from tokenstorm.orchestrator.service import Service
from tokenstorm.orchestrator.services import ServiceOrchestrator
from waiting import finish

SIM = "inference/sim-single-node"
FAST = {"preset": "fast"}


@contextlib.asynccontextmanager
async def services(folder: Path) -> AsyncIterator[ServiceOrchestrator]:
    shell, there = LocalShell(), profile(folder / "base")
    orchestrator = ServiceOrchestrator(
        Site(there, shell, Slurm(shell, there), has_gpu=False), load_recipes(), folder / "services.db"
    )
    await orchestrator.start()
    try:
        yield orchestrator
    finally:
        await orchestrator.close()


async def until(
    orchestrator: ServiceOrchestrator, service: Service, what: Callable[[Service], object], seconds: float = 60.0
) -> Service:
    """The service, once it is so."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not what(orchestrator.get(service.id)):  # noqa: ASYNC110 - users poll too
                await asyncio.sleep(0.1)
    now = orchestrator.get(service.id)
    assert what(now), now
    return now


def published(service: Service) -> dict[str, object]:
    """What the only replica's wrapper wrote."""
    (path,) = Path(service.folder).glob("replica.*.json")
    content: dict[str, object] = json.loads(path.read_bytes())
    return content


def is_running(service: Service) -> bool:
    assert not service.ended, service
    return service.status == "running"


def test_a_service_that_reaches_its_time_limit_ends_as_that(slurm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with services(tmp_path) as orchestrator:
            # Slurm may send its signal 60 s early: of one minute the engine may have nothing left to begin in
            service = await submitted(orchestrator, SIM, {**FAST, "resources": {"time_limit": 2}})
            await until(orchestrator, service, is_running)
            ended = await until(orchestrator, service, lambda now: now.ended, 180)
            assert (ended.status, ended.reason) == ("timeout", "the job reached its time limit of 2 min")
            assert published(ended)["status"] == "stopped"

    finish(scenario(), 240)


def test_a_service_whose_job_is_queued_again_runs_again(slurm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with services(tmp_path) as orchestrator:
            service = await submitted(orchestrator, SIM, FAST)
            before = await until(orchestrator, service, is_running)
            first = published(before)
            assert before.job_id
            output("scontrol", "update", f"jobid={before.job_id}", "requeue=1")
            output("scontrol", "requeue", before.job_id)
            await until(orchestrator, service, lambda now: now.status == "pending" or now.ended)
            assert published(before)["status"] in {"stopped", "running"}
            output("scontrol", "update", f"jobid={before.job_id}", "starttime=now")
            again = await until(orchestrator, service, is_running)
            assert again.job_id == before.job_id
            assert (published(again)["run"], first["run"]) == (f"{again.job_id}.1", f"{again.job_id}.0")
            (replica,) = orchestrator.replicas(service.id)
            assert replica.status == "running"
            await orchestrator.cancel(service.id)

    try:
        finish(scenario(), 180)
    finally:
        cancel_everything(slurm)


@contextlib.contextmanager
def silent(conf: Path) -> Iterator[None]:
    """A slurmctld that answers nobody."""
    lines = map(str.split, (conf.parent / "pids").read_text().splitlines())
    pid = next(int(pid) for name, pid, _ in lines if name == "slurmctld")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_while_slurm_is_silent_an_engine_gets_ready_and_one_that_is_killed_fails(slurm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with services(tmp_path) as orchestrator:
            killed, loading = await submitted(orchestrator, SIM, FAST), await submitted(orchestrator, SIM, FAST)
            await until(orchestrator, killed, is_running)
            await until(orchestrator, loading, lambda now: any(Path(now.folder).glob("replica.*.json")))
            with silent(slurm):
                pid = published(killed)["pid"]
                assert isinstance(pid, int)
                os.kill(pid, signal.SIGKILL)
                ended = await until(orchestrator, killed, lambda now: now.ended)
                assert ended.status == "failed"
                assert "the engine was killed by SIGKILL" in ended.reason
                await until(
                    orchestrator, loading, lambda now: is_running(now) and "Slurm has not answered" in now.reason
                )
            await until(orchestrator, loading, lambda now: not now.reason)
            await orchestrator.cancel(loading.id)

    try:
        finish(scenario(), 180)
    finally:
        cancel_everything(slurm)
        free_nodes()


def free_nodes() -> None:
    """Slurm hears only a minute later of a job that ended while it was silent, and its node would be taken as long."""
    for state in ("down reason=silent", "resume"):
        output("scontrol", "update", "nodename=ALL", *f"state={state}".split())
    wait_for(lambda: not output("squeue", "--noheader"), "no job is left")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSTORM_HOME", str(tmp_path / "home"))
