"""From a request to a job: however long that takes, whatever is lost on the way, and whoever changes their mind."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import cast

import pytest

from orchestrating import RUNNING, Cluster, look, slurm, submitted, with_orchestrator
from tokenstorm.cluster.scheduler import Kind
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.setup.hold import Say
from tokenstorm.cluster.site import Site
from tokenstorm.errors import CommandFailed, RefusedJob, RunError, Unconfirmed, Unreachable
from tokenstorm.orchestrator.recipes import Recipes
from tokenstorm.orchestrator.service import Service
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.orchestrator.store import Store

ONE = "inference/vllm-single-node"
LOST = Unconfirmed("lost on the way")
TAKEN, NEVER = True, False


class HandDeployment:
    """A deploy that ends when it is told to."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.given_up = False

    async def python(self, kind: Kind, say: Say) -> PurePosixPath:
        say(f"waiting for a node of partition {kind}: job 7 is pending (Resources)")
        try:
            await self.ready.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        return PurePosixPath("/deployed/bin/python")


def with_deployment(
    cluster: Cluster, test: Callable[[ServiceOrchestrator, HandDeployment], Awaitable[None]]
) -> HandDeployment:
    """Run one test against an orchestrator whose code has still to be deployed."""

    async def run() -> HandDeployment:
        deployment = HandDeployment()
        site = Site(cluster.profile, cluster.shell, cluster.scheduler, has_gpu=True)
        orchestrator = ServiceOrchestrator(
            site,
            cluster.recipes,
            cluster.folder / "services.db",
            clock=cluster.time.clock,
            deployment=cast("Deployment", deployment),
        )
        await orchestrator.start(watch=False)
        try:
            await test(orchestrator, deployment)
        finally:
            await orchestrator.close()
        return deployment

    return asyncio.run(run())


async def a_moment() -> None:
    """Let tasks go as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_service_is_pending_at_once_and_says_what_it_waits_for(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator, deployment: HandDeployment) -> None:
        service = await orchestrator.create(ONE, {"environment": {"HF_TOKEN": "hf_1"}})
        assert (service.status, service.reason) == ("pending", "being submitted")
        assert orchestrator.list() == [service]
        await a_moment()
        reason = orchestrator.get(service.id).reason
        assert reason == (
            "this version of tokenstorm is being put on the cluster: "
            "waiting for a node of partition gpu: job 7 is pending (Resources)"
        )
        deployment.ready.set()
        await orchestrator.settled()
        assert orchestrator.get(service.id).job_id == "100"
        (job,) = cluster.scheduler.submitted
        assert job.command[0] == "/deployed/bin/python"
        assert cluster.content(service)["environment"]["HF_TOKEN"] == "hf_1"
        assert orchestrator.get(service.id).config == {}, "no secret stays in the row"

    with_deployment(cluster, test)


def test_a_restart_goes_on_with_a_service_that_was_not_submitted_yet(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def cut(orchestrator: ServiceOrchestrator, _deployment: HandDeployment) -> None:
        await orchestrator.create(ONE, {"model": "a/b"})
        await a_moment()

    async def goes_on(orchestrator: ServiceOrchestrator) -> None:
        (service,) = orchestrator.list()
        await look(cluster, orchestrator)
        assert orchestrator.get(service.id).job_id == "100"
        assert "a/b" in cluster.content(service)["command"]
        assert len(cluster.scheduler.submitted) == 1

    assert with_deployment(cluster, cut).given_up
    assert cluster.scheduler.submitted == []
    with_orchestrator(cluster, goes_on)


def test_a_service_that_is_deleted_while_it_waits_is_never_submitted(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator, deployment: HandDeployment) -> None:
        service = await orchestrator.create(ONE, {})
        await a_moment()
        cluster.scheduler.trouble = Unreachable("away")
        assert (await orchestrator.cancel(service.id)).status == "cancelled", "whoever may be away"
        await orchestrator.settled()
        assert deployment.given_up
        assert orchestrator.get(service.id).stopping
        cluster.scheduler.trouble = None
        await look(cluster, orchestrator)
        found = orchestrator.get(service.id)
        assert (found.status, found.reason, found.stopping, found.job_id) == ("cancelled", "", False, None)
        assert (cluster.scheduler.submitted, cluster.scheduler.cancelled) == ([], [])

    with_deployment(cluster, test)


@pytest.mark.parametrize("arrived", [TAKEN, NEVER])
def test_a_service_that_is_deleted_in_doubt_is_over_at_once_and_leaves_no_job(tmp_path: Path, arrived: bool) -> None:
    cluster = slurm(tmp_path)

    async def in_doubt(orchestrator: ServiceOrchestrator) -> None:
        cluster.scheduler.trouble, cluster.scheduler.trouble_after_submit = (None, LOST) if arrived else (LOST, None)
        service = await submitted(orchestrator, ONE, {})
        assert service.reason == "submission unconfirmed: lost on the way"
        cluster.scheduler.trouble = LOST
        assert (await orchestrator.cancel(service.id)).status == "cancelled"
        await orchestrator.settled()

    async def after_a_restart(orchestrator: ServiceOrchestrator) -> None:
        (service,) = orchestrator.list()
        assert (service.status, service.stopping) == ("cancelled", True)
        cluster.scheduler.trouble = cluster.scheduler.trouble_after_submit = None
        await look(cluster, orchestrator)
        assert cluster.scheduler.cancelled == (["100"] if arrived else [])
        assert len(cluster.scheduler.submitted) == arrived
        assert orchestrator.get(service.id).stopping is False

    with_orchestrator(cluster, in_doubt)
    with_orchestrator(cluster, after_a_restart)


def test_a_service_that_can_go_on_no_more_in_doubt_fails_and_leaves_no_job(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def in_doubt(orchestrator: ServiceOrchestrator) -> None:
        cluster.scheduler.trouble_after_submit = LOST
        await submitted(orchestrator, ONE, {})

    async def without_its_recipe(orchestrator: ServiceOrchestrator) -> None:
        (service,) = orchestrator.list()
        cluster.scheduler.trouble_after_submit, cluster.scheduler.trouble = None, LOST
        await look(cluster, orchestrator)
        failed = orchestrator.get(service.id)
        assert (failed.status, failed.stopping) == ("failed", True)
        cluster.scheduler.trouble = None
        await look(cluster, orchestrator)
        over = orchestrator.get(service.id)
        assert over.reason == failed.reason
        assert over.reason.startswith(f"there is no recipe {ONE!r}")
        assert (over.stopping, over.job_id, cluster.scheduler.cancelled) == (False, "100", ["100"])

    with_orchestrator(cluster, in_doubt)
    cluster.recipes = Recipes({})
    with_orchestrator(cluster, without_its_recipe)


@pytest.mark.parametrize("error", [RefusedJob("no such account"), CommandFailed(["pip"], 1, b"", b"no room")])
def test_what_slurm_refuses_ends_the_service_in_its_words(tmp_path: Path, error: Exception) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        cluster.scheduler.trouble = error
        service = await submitted(orchestrator, ONE, {})
        assert (service.status, service.reason) == ("failed", str(error))
        cluster.scheduler.trouble = None
        await look(cluster, orchestrator)
        assert cluster.scheduler.submitted == []

    with_orchestrator(cluster, test)


def test_while_the_cluster_is_away_a_service_waits_and_says_so(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        cluster.scheduler.trouble = Unreachable("the login node is away")
        service = await submitted(orchestrator, ONE, {})
        assert (service.status, service.reason) == ("pending", "the login node is away")
        await orchestrator.look()
        assert orchestrator.trouble == "the login node is away"
        cluster.scheduler.trouble = None
        await look(cluster, orchestrator)
        assert orchestrator.get(service.id).job_id == "100"
        assert orchestrator.trouble is None

    with_orchestrator(cluster, test)


def test_a_submit_that_is_unconfirmed_is_found_out_and_done_once(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        cluster.scheduler.trouble_after_submit = LOST
        service = await submitted(orchestrator, ONE, {})
        assert (service.status, service.job_id) == ("pending", None)
        await look(cluster, orchestrator)
        assert orchestrator.trouble == "lost on the way"
        cluster.scheduler.trouble_after_submit = None
        await look(cluster, orchestrator)
        assert orchestrator.get(service.id).job_id == "100"
        assert len(cluster.scheduler.submitted) == 1
        assert orchestrator.trouble is None

    with_orchestrator(cluster, test)


def test_a_job_that_was_submitted_is_known_although_the_disk_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        save = Store.save

        def full(store: Store, service: Service) -> None:
            if service.job_id:
                message = "services.db cannot be written: is the disk full?"
                raise RunError(message)
            save(store, service)

        with monkeypatch.context() as patched:
            patched.setattr(Store, "save", full)
            service = await submitted(orchestrator, ONE, {})
            assert (service.job_id, service.reason) == (None, "services.db cannot be written: is the disk full?")
        await look(cluster, orchestrator)
        assert orchestrator.get(service.id).job_id == "100"
        assert len(cluster.scheduler.submitted) == 1

    with_orchestrator(cluster, test)


def test_a_refusal_that_the_full_disk_does_not_take_is_kept_later_and_holds_up_no_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        save = Store.save

        def full(store: Store, service: Service) -> None:
            if service.ended:
                message = "services.db cannot be written: is the disk full?"
                raise RunError(message)
            save(store, service)

        cluster.scheduler.trouble = RefusedJob("no such account")
        with monkeypatch.context() as patched:
            patched.setattr(Store, "save", full)
            service = await submitted(orchestrator, ONE, {})
            assert (service.status, service.reason) == ("pending", "no such account")
            await orchestrator.look()
            assert orchestrator.trouble == "services.db cannot be written: is the disk full?"
        await look(cluster, orchestrator)
        assert orchestrator.get(service.id).status == "failed"

    with_orchestrator(cluster, test)


def test_a_service_that_waits_holds_up_no_other(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        running = await submitted(orchestrator, ONE, {})
        cluster.put_job(running, RUNNING)
        cluster.shell.trouble = RefusedJob("no room")
        refused = await submitted(orchestrator, ONE, {})
        cluster.shell.trouble = None
        await cluster.ready(orchestrator, running)
        assert [orchestrator.get(one.id).status for one in (running, refused)] == ["running", "failed"]

    with_orchestrator(cluster, test)
