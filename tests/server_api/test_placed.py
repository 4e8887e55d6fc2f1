"""An orchestrator that is to run on the cluster, before it does."""

import asyncio
from pathlib import Path, PurePosixPath
from typing import cast

import msgspec
import pytest

from orchestrating import slurm
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.setup.hold import Say
from tokenstorm.cluster.site import Site
from tokenstorm.config.profile import Orchestrator
from tokenstorm.errors import RefusedJob, Unconfirmed, Unreachable
from tokenstorm.server_api import placed
from tokenstorm.server_api.placed import PlacedOrchestrator, Published


class HandDeployment:
    """A deploy that ends when it is told to; counts how often it was begun."""

    def __init__(self) -> None:
        self.ready, self.begun = asyncio.Event(), 0

    async def python(self, *, say: Say) -> PurePosixPath:
        self.begun += 1
        say("waiting for a node of partition cpu: job 7 is pending (Resources)")
        await self.ready.wait()
        return PurePosixPath("/deployed/python")


def test_a_call_that_needs_an_orchestrator_whose_code_is_deployed_says_so_and_the_deploy_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = slurm(tmp_path, orchestrator=Orchestrator(placement="job"))
    monkeypatch.setattr(placed, "START_SECONDS", 0.01)

    async def scenario() -> None:
        deployment = HandDeployment()
        site = Site(cluster.profile, cluster.shell, cluster.scheduler, has_gpu=True)
        orchestrator = PlacedOrchestrator(site, {}, cast("Deployment", deployment))
        for _ in range(2):
            with pytest.raises(Unreachable, match=r"is being put on the cluster.*job 7 is pending \(Resources\)"):
                await orchestrator.address()
        assert deployment.begun == 1
        assert cluster.scheduler.submitted == []
        deployment.ready.set()
        with pytest.raises(Unreachable, match="the orchestrator's job 100 is pending"):
            await orchestrator.address()
        (job,) = cluster.scheduler.submitted
        assert job.command[0] == "/deployed/python"
        await orchestrator.close()

    asyncio.run(scenario())


def test_a_job_whose_submission_was_cut_keeps_the_token_that_it_may_have_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = slurm(tmp_path, orchestrator=Orchestrator(placement="job"))
    monkeypatch.setattr(placed, "START_SECONDS", 0.01)

    def tokens() -> set[bytes]:
        return {data for path, data in cluster.shell.files.items() if path.name == "token"}

    async def scenario() -> None:
        orchestrator = PlacedOrchestrator(Site(cluster.profile, cluster.shell, cluster.scheduler, has_gpu=True), {})
        cluster.scheduler.trouble_after_submit = Unconfirmed("cut")
        with pytest.raises(Unconfirmed):
            await orchestrator.address()
        read = tokens()
        cluster.scheduler.trouble_after_submit = None
        with pytest.raises(Unreachable, match="job 100 is pending"):
            await orchestrator.address()
        assert len(cluster.scheduler.submitted) == 1
        assert len(read) == 1
        assert tokens() == read
        cluster.scheduler.state["100"] = JobState("ended", "cancelled")
        with pytest.raises(Unreachable, match="job 101 is pending"):
            await orchestrator.address()
        assert len(tokens()) == 2
        await orchestrator.close()

    asyncio.run(scenario())


def test_an_orchestrator_whose_submission_was_cut_is_known_by_its_job_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = slurm(tmp_path, orchestrator=Orchestrator(placement="job"))
    monkeypatch.setattr(placed, "START_SECONDS", 5.0)

    async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def scenario() -> None:
        site = Site(cluster.profile, cluster.shell, cluster.scheduler, has_gpu=True)
        orchestrator = PlacedOrchestrator(site, {})
        cluster.scheduler.trouble_after_submit = Unconfirmed("cut")
        with pytest.raises(Unconfirmed):
            await orchestrator.address()
        cluster.scheduler.trouble_after_submit = None
        cluster.scheduler.state["100"] = JobState("running")
        async with await asyncio.start_server(well, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            (job,) = cluster.scheduler.submitted
            there = Published(start=job.folder.name, host="n1", url=url)
            await cluster.shell.put(job.folder.parent / "address.json", msgspec.json.encode(there))
            assert (await orchestrator.address()).url == url
        assert await orchestrator.exists()
        await orchestrator.stop()
        assert cluster.scheduler.cancelled == ["100"]
        assert len(cluster.scheduler.submitted) == 1
        await orchestrator.close()

    asyncio.run(scenario())


def test_after_a_refusal_the_next_start_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = slurm(tmp_path, orchestrator=Orchestrator(placement="job"))
    monkeypatch.setattr(placed, "START_SECONDS", 0.01)

    async def scenario() -> None:
        orchestrator = PlacedOrchestrator(Site(cluster.profile, cluster.shell, cluster.scheduler, has_gpu=True), {})
        cluster.scheduler.trouble = RefusedJob("the job is lost")
        with pytest.raises(RefusedJob):
            await orchestrator.address()
        (refused,) = [path.parent.name for path in cluster.shell.files if path.name == "token"]
        cluster.scheduler.trouble = None
        with pytest.raises(Unreachable, match="job 100 is pending"):
            await orchestrator.address()
        assert refused not in cluster.scheduler.submitted[0].name
        await orchestrator.close()

    asyncio.run(scenario())
