"""How a service that waits or ended says so: by its job, and by the last that its engines said."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrating import PENDING, RUNNING, HandScheduler, slurm, submitted, with_orchestrator
from tokenstorm.cluster.scheduler import JobId, JobState, Sent
from tokenstorm.errors import Unreachable
from tokenstorm.orchestrator.jobs import SELDOM_SECONDS
from tokenstorm.orchestrator.service import Service
from tokenstorm.orchestrator.services import ServiceOrchestrator

TOLD = JobState("ended", "failed", "NonZeroExitCode", 143, ("n1",))
"""A job that ended since its wrappers were told to."""
ONE = "inference/vllm-single-node"
FOUR = "inference/vllm-replicas"


@pytest.mark.parametrize(
    ("reason", "means"),
    [
        ("RESV_DEL_HOLD", "its reservation is over: stop it, and name another"),
        ("ReservationDeleted", "its reservation is over"),
        ("SPECIAL_EXIT", "release it with `scontrol release`"),
        ("launch failed requeued held", "somebody holds it"),
        ("job_requeued_in_held_state", "somebody holds it"),
        ("PartitionNodeLimit", "ask for fewer nodes"),
        ("Resources", ""),
        ("ReqNodeNotAvail, UnavailableNodes:shield01", ""),
        ("Reservation", ""),
    ],
)
def test_a_service_that_pends_for_ever_says_what_that_means(tmp_path: Path, reason: str, means: str) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.put_job(service, JobState("pending", reason=reason))
        await orchestrator.look()
        now = orchestrator.get(service.id)
        assert now.status == "pending"
        assert (now.reason == reason) if not means else (now.reason.startswith(f"{reason}: ") and means in now.reason)

    with_orchestrator(cluster, test)


def test_a_job_is_asked_for_by_its_name_and_when_it_was_submitted(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        await orchestrator.look()
        assert service.job_id
        (job,) = cluster.scheduler.submitted
        assert cluster.scheduler.known_by == {service.job_id: Sent(job.name, service.created_at.timestamp())}

    with_orchestrator(cluster, test)


@pytest.mark.parametrize("was_ready", [True, False])
@pytest.mark.parametrize(
    ("job", "told", "status"),
    [
        (TOLD, ("stopped", 4), "timeout"),
        (TOLD, ("stopped", 2), "failed"),
        (TOLD, ("failed", 4), "failed"),
        (JobState("ended", "timeout", "TimeLimit", 0, ("n1",)), ("stopped", 4), "timeout"),
        (JobState("ended", "cancelled", "", 143, ("n1",)), ("stopped", 4), "cancelled"),
        (JobState("ended", "node_fail", "NodeDown", 1, ("n1",)), ("stopped", 4), "failed"),
    ],
    ids=["signal", "early", "crash", "limit", "cancelled", "node"],
)
def test_a_service_at_its_time_limit_ends_as_that_and_a_crash_near_it_as_one(
    tmp_path: Path, was_ready: bool, job: JobState, told: tuple[str, int], status: str
) -> None:
    cluster, (how, minutes) = slurm(tmp_path), told

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {"resources": {"time_limit": 5}})
        if was_ready:
            await cluster.ready(orchestrator, service)
        else:
            cluster.put_job(service, RUNNING)
            await orchestrator.look()
        cluster.time.seconds += minutes * 60
        cluster.publish(service, 0, None, how, "what it says", ran_seconds=minutes * 60.0)
        if how == "stopped":
            await orchestrator.look()  # the wrapper has said so, and Slurm not yet
            assert orchestrator.get(service.id).status == ("running" if was_ready else "starting")
        cluster.put_job(service, job)
        await orchestrator.look()
        ended = orchestrator.get(service.id)
        assert ended.status == status
        assert (ended.reason == "the job reached its time limit of 5 min") == (status == "timeout")

    with_orchestrator(cluster, test)


def test_a_group_of_which_one_crashed_long_ago_still_ends_at_its_time_limit(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, FOUR, {"resources": {"time_limit": 60}})
        await cluster.ready(orchestrator, service)
        cluster.publish(service, 0, None, "failed", "the engine was killed by SIGSEGV", ran_seconds=100.0)
        for index in range(1, service.total_replicas):
            cluster.publish(service, index, None, "stopped", "the service was stopped", ran_seconds=3565.0)
        cluster.put_job(service, TOLD)
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "timeout"

    with_orchestrator(cluster, test)


def test_a_time_limit_that_came_while_nobody_looked_is_one(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {"resources": {"time_limit": 60}})
        cluster.publish(service, 0, None, "stopped", "the service was stopped", ran_seconds=3565.0)
        cluster.put_job(service, TOLD)
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "timeout"

    with_orchestrator(cluster, test)


@pytest.mark.parametrize("status", ["failed", "running", "starting"])
@pytest.mark.parametrize("seen", [True, False], ids=["in the queue", "on another node"])
def test_what_a_run_before_has_left_does_not_end_a_job_that_is_queued_again(
    tmp_path: Path, status: str, seen: bool
) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        (engine,) = await cluster.ready(orchestrator, service)
        if seen:
            engine.refuse = "reset"
        cluster.publish(service, 0, engine, status, "the node went down")
        if seen:
            cluster.put_job(service, PENDING)
            await orchestrator.look()
        cluster.put_job(service, RUNNING if seen else JobState("running", nodes=("n2",)))
        await orchestrator.look()
        again = orchestrator.get(service.id)
        assert again.status == ("configuring" if seen else "running")
        assert orchestrator.replicas(service.id) == ()
        cluster.publish(service, 0, None, "starting", "loads its model", node=again.nodes[0], run="7.1")
        cluster.shell.files[service.path / "job.run.1"] = b""
        await orchestrator.look()
        (replica,) = orchestrator.replicas(service.id)
        assert replica.reason == "loads its model"

    with_orchestrator(cluster, test)


def test_files_of_the_run_before_are_told_by_their_number(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.publish(service, 0, None, "failed", "the node went down", run="100.0")
        cluster.shell.files[service.path / "job.run.1"] = b""
        cluster.put_job(service, RUNNING)
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "configuring"

    with_orchestrator(cluster, test)


def test_while_slurm_is_silent_engines_are_looked_at_and_the_reason_says_so(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        ready, loading, queued = [await submitted(orchestrator, ONE, {}) for _ in range(3)]
        (engine,) = await cluster.ready(orchestrator, ready)
        cluster.put_job(loading, RUNNING)
        await orchestrator.look()
        cluster.scheduler.trouble = Unreachable("Slurm does not answer: timed out")
        cluster.time.seconds += 27
        engine.refuse = "reset"
        other = await cluster.engine(loading)
        cluster.publish(loading, 0, other, "running")
        await orchestrator.look()
        assert orchestrator.get(loading.id).status == "running"
        assert orchestrator.get(loading.id).reason == "Slurm has not answered for 20 s"
        assert orchestrator.get(queued.id).reason == "Resources; Slurm has not answered for 20 s"
        reason = orchestrator.get(ready.id).reason
        assert reason.startswith("the engine does not answer; ")
        assert reason.endswith("; Slurm has not answered for 20 s")

        row = orchestrator.get(ready.id)
        cluster.time.seconds += 2
        await orchestrator.look()
        assert orchestrator.get(ready.id) is row  # nothing is stored anew each second

        cluster.publish(ready, 0, engine, "failed", "the engine was killed by SIGKILL")
        await orchestrator.look()
        assert orchestrator.get(ready.id).status == "failed"
        assert "the engine was killed by SIGKILL" in orchestrator.get(ready.id).reason

        cluster.scheduler.trouble = None
        await orchestrator.look()
        assert orchestrator.get(loading.id).reason == ""
        assert orchestrator.get(queued.id).reason == "Resources"

    with_orchestrator(cluster, test)


class Forgetful(HandScheduler):
    """Answers, and lists no job yet."""

    async def states(self, ids: Collection[JobId], sent: Mapping[JobId, Sent] | None = None) -> dict[JobId, JobState]:
        await super().states(ids, sent)
        return {}


def test_a_slurm_that_answers_again_is_not_called_silent_although_it_lists_no_job_yet(tmp_path: Path) -> None:
    cluster = replace(slurm(tmp_path), scheduler=Forgetful())

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.scheduler.trouble = Unreachable("Slurm does not answer")
        cluster.time.seconds += 20
        await orchestrator.look()
        assert orchestrator.get(service.id).reason == "Slurm has not answered for 20 s"
        cluster.scheduler.trouble = None
        await orchestrator.look()
        assert orchestrator.get(service.id).reason == ""

    with_orchestrator(cluster, test)


class Hanging(HandScheduler):
    """Does not even fail: its commands hang."""

    hangs = False

    async def cancel(self, job: JobId, sent: object = None) -> None:
        if self.hangs:
            await asyncio.sleep(3600)
        await super().cancel(job, sent)

    async def states(self, ids: Collection[JobId], sent: Mapping[JobId, Sent] | None = None) -> dict[JobId, JobState]:
        if self.hangs:
            await asyncio.sleep(3600)
        return await super().states(ids, sent)


def test_a_slurm_that_hangs_keeps_nobody_from_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenstorm.orchestrator.jobs.PATIENCE_SECONDS", 0.01)
    scheduler = Hanging()
    cluster = replace(slurm(tmp_path), scheduler=scheduler)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service, broken = await submitted(orchestrator, ONE, {}), await submitted(orchestrator, ONE, {})
        cluster.put_job(service, RUNNING)
        cluster.put_job(broken, RUNNING)
        await orchestrator.look()
        scheduler.hangs = True
        cluster.publish(broken, 0, None, "failed", "no GPU")
        await orchestrator.look()
        assert orchestrator.get(broken.id).stopping  # its job is being cancelled from now on
        cluster.publish(service, 0, await cluster.engine(service), "running")
        cluster.time.seconds += 130
        await orchestrator.look()
        now = orchestrator.get(service.id)
        assert (now.status, now.reason) == ("running", "Slurm has not answered for 120 s")

    with_orchestrator(cluster, test)


def test_after_a_restart_engines_are_looked_at_although_slurm_is_silent(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)
    services: list[Service] = []

    async def first(orchestrator: ServiceOrchestrator) -> None:
        services.append(await submitted(orchestrator, ONE, {}))
        await cluster.ready(orchestrator, services[0])
        cluster.publish(services[0], 0, None, "failed", "the engine ended with status 1")
        cluster.scheduler.trouble = Unreachable("Slurm does not answer")

    async def second(orchestrator: ServiceOrchestrator) -> None:
        cluster.time.seconds += 60
        await orchestrator.look()
        assert orchestrator.get(services[0].id).status == "failed"
        assert "the engine ended with status 1" in orchestrator.get(services[0].id).reason

    with_orchestrator(cluster, first)
    with_orchestrator(cluster, second)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("bash: module: command not found\nsrun: error: n1: task 0: Exited with exit code 127\n",
         "the last it said: bash: module: command not found; "),
        ("srun: error: Unable to create step: Invalid generic resource\n", "the last it said: srun: error: Unable to create"),
        ("x" * 100_000 + "\nModuleNotFoundError: No module named 'tokenstorm'\n", "the last it said: ModuleNotFoundError: No"),
        ("", "the job ended with exit code 127: its log says why"),
    ],
    ids=["prologue", "srun", "long", "silent"],
)  # fmt: skip
def test_a_job_that_ends_before_its_engines_says_why_by_its_own_log(tmp_path: Path, said: str, words: str) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.shell.files[service.path / "stderr.log"] = said.encode()
        cluster.put_job(service, JobState("ended", "failed", "NonZeroExitCode", 127, ("n1",)))
        await orchestrator.look()
        assert words in orchestrator.get(service.id).reason

    with_orchestrator(cluster, test)


@pytest.mark.parametrize("was_ready", [True, False])
def test_a_service_whose_job_is_suspended_says_so_and_goes_on_later(tmp_path: Path, was_ready: bool) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.put_job(service, RUNNING)
        if was_ready:
            (engine,) = await cluster.ready(orchestrator, service)
            engine.refuse = "reset"
        cluster.put_job(service, replace(RUNNING, suspended=True))
        for _ in range(2):
            cluster.time.seconds += 10_000  # longer than any engine may take to be ready
            await orchestrator.look()
        now = orchestrator.get(service.id)
        assert (now.status, now.reason[:28]) == ("running" if was_ready else "starting", "Slurm has suspended the job:")
        cluster.put_job(service, RUNNING)
        cluster.time.seconds += SELDOM_SECONDS
        await cluster.ready(orchestrator, service)
        assert orchestrator.get(service.id).reason == ""

    with_orchestrator(cluster, test)


@pytest.mark.parametrize("state", [RUNNING, TOLD], ids=["before Slurm knows", "after it"])
def test_an_engine_that_failed_is_told_in_the_same_words_whoever_saw_it_first(tmp_path: Path, state: JobState) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.put_job(service, state)
        cluster.publish(service, 0, None, "failed", "the engine ended with status 2")
        await orchestrator.look()
        ended = orchestrator.get(service.id)
        assert (ended.status, ended.reason) == ("failed", "replica n1.0: the engine ended with status 2")

    with_orchestrator(cluster, test)


def test_slurm_is_asked_less_often_the_longer_nothing_changes_and_at_once_after_a_change(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        await cluster.ready(orchestrator, service)
        asked_at = []
        for second in range(40):
            before = len(cluster.scheduler.questions)
            await orchestrator.look()
            asked_at += [second] * (len(cluster.scheduler.questions) - before)
            cluster.time.seconds += 1
        assert asked_at == [0, 1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 24, 29, 34, 39]
        await submitted(orchestrator, ONE, {})
        await orchestrator.look()
        assert len(cluster.scheduler.questions[-1]) == 2

    with_orchestrator(cluster, test)
