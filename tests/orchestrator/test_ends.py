"""How a service that waits or ended says so: by its job, and by the last that its engines said."""

from pathlib import Path

import pytest

from orchestrating import slurm, with_orchestrator
from tokenstorm.cluster.scheduler import JobState, Sent
from tokenstorm.orchestrator.services import ServiceOrchestrator

ONE = "inference/vllm-single-node"


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
        ("Reservation", ""),
    ],
)
def test_a_service_that_pends_for_ever_says_what_that_means(tmp_path: Path, reason: str, means: str) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await orchestrator.create(ONE, {})
        cluster.put_job(service, JobState("pending", reason=reason))
        await orchestrator.look()
        now = orchestrator.get(service.id)
        assert now.status == "pending"
        assert (now.reason == reason) if not means else (now.reason.startswith(f"{reason}: ") and means in now.reason)

    with_orchestrator(cluster, test)


def test_a_job_is_asked_for_by_its_name_and_when_it_was_submitted(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await orchestrator.create(ONE, {})
        await orchestrator.look()
        assert service.job_id
        (job,) = cluster.scheduler.submitted
        assert cluster.scheduler.known_by == {service.job_id: Sent(job.name, service.created_at.timestamp())}

    with_orchestrator(cluster, test)
