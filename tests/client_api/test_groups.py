"""A group's life over a scheduler that a test plays: nothing is lost, nothing starts twice, nothing is half made."""

import asyncio
from pathlib import Path

import pytest

from groups import GROUPS, SMALL, Api, Jobs, Services, api
from tokenstorm.client_api.services import ServiceInfo
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.scheduler import JobId, JobState
from tokenstorm.errors import CommandFailed, RefusedJob, RunError, TokenstormError, Unconfirmed, Unreachable
from tokenstorm.jobs.settler import UNCONFIRMED
from waiting import finish, until


def test_an_unknown_service_is_a_404_and_one_that_ended_a_409_with_its_status(tmp_path: Path) -> None:
    async def work() -> None:
        services = Services({"old": ServiceInfo(status="cancelled", reason="by its user")})
        async with api(tmp_path, services=services) as it:
            unknown = await it.post(service_id="nope", num_clients=1, prompts=["x"])
            assert unknown.status_code == 404
            assert "there is old" in unknown.json()["detail"]
            ended = await it.post(service_id="old", num_clients=1, prompts=["x"])
            assert ended.status_code == 409
            assert "cancelled: by its user" in ended.json()["detail"]
            assert (await it.get()).json() == {"groups": [], "count": 0}

    finish(work())


def test_a_group_waits_for_its_service_and_starts_by_itself(tmp_path: Path) -> None:
    async def work() -> None:
        services = Services({"new": ServiceInfo(status="starting", reason="loading the model")}, api_key="engine-key")
        async with api(tmp_path, services=services) as it:
            answer = await it.post(service_id="new", num_clients=1, prompts=["x"])
            assert answer.status_code == 201
            group = answer.json()["group_id"]
            info = await it.info(group)
            assert info["status"] == "pending"
            assert "'new', which is starting: loading the model" in info["reason"]
            assert it.jobs.submits == []
            services.known["new"] = ServiceInfo(status="running", engine="simulated")
            info = await it.until(group, job_state="pending", reason="Priority")
            assert info["engine"] == "simulated"
            assert len(it.jobs.submits) == 1
            it.jobs.found[info["job_id"]] = JobState("running", nodes=("n1",))
            assert (await it.until(group, status="running"))["started_at"]

    finish(work())


class NeverRan(Jobs):
    """Cancels jobs that are pending as Slurm's accounting tells it: with status 0."""

    async def cancel(self, job: JobId, sent: object = None) -> None:
        self.found[job] = JobState("ended", "cancelled", exit_code=0)


@pytest.mark.parametrize(
    ("reason", "means"),
    [
        ("PartitionNodeLimit", "no node or limit of the partition fits it: stop it, and ask for fewer nodes"),
        ("PartitionTimeLimit", "stop it, and ask for fewer minutes"),
        ("JobHeldUser", "release it with `scontrol release`"),
        ("InvalidQOS", "stop it, and correct the profile"),
    ],
)
def test_a_group_that_pends_for_ever_says_what_that_means_and_stopped_waits_for_nothing(
    tmp_path: Path, reason: str, means: str
) -> None:
    async def work() -> None:
        async with api(tmp_path, NeverRan(first=JobState("pending", reason=reason))) as it:
            group = await it.create()
            await until(lambda: it.manager.get(group).reason != "submitted")
            said = (await it.info(group))["reason"]
            assert said.startswith(f"{reason}: ")
            assert means in said
            assert it.manager.stop(group).reason == "stopping: its job, which has not begun, is cancelled"
            info = await it.until(group, status="stopped")
            assert (info["outcome"], info["reason"]) == ("cancelled", "stopped")

    finish(work())


def test_a_group_whose_service_ends_before_it_is_ready_fails_with_the_reason(tmp_path: Path) -> None:
    async def work() -> None:
        services = Services({"new": ServiceInfo(status="pending")})
        async with api(tmp_path, services=services) as it:
            group = await it.create(target_url=None, service_id="new")
            services.known["new"] = ServiceInfo(status="failed", reason="no GPU")
            info = await it.until(group, status="stopped")
            assert info["outcome"] == "failed"
            assert "ended (failed: no GPU)" in info["reason"]

    finish(work())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unreachable("no route to the cluster"), 502),
        (CommandFailed(["sbatch"], 1, b"", b"down"), 502),
        (RefusedJob("no such account"), 422),
    ],
)
def test_a_failed_submit_leaves_nothing_behind(error: TokenstormError, status: int, tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path, Jobs(refuse=error)) as it:
            answer = await it.client.post(GROUPS, json=SMALL, headers={"idempotency-key": "k"})
            assert answer.status_code == status
            assert (await it.get()).json()["count"] == 0
            runs = tmp_path / "cluster" / "runs"
            await until(lambda: not [*runs.iterdir()])
            it.jobs.refuse = None
            again = await it.client.post(GROUPS, json=SMALL, headers={"idempotency-key": "k"})
            assert again.status_code == 201
            assert again.json()["group_id"] == 2, "an id is never given twice"

    finish(work())


@pytest.mark.parametrize("taken", [True, False])
def test_a_submit_that_may_have_arrived_is_a_504_and_the_group_is_adopted(tmp_path: Path, *, taken: bool) -> None:
    async def work() -> None:
        async with api(tmp_path, Jobs(refuse=Unconfirmed("lost on the way"), taken=taken)) as it:
            answer = await it.post(**SMALL)
            assert answer.status_code == 504
            group = answer.json()["group_id"]
            assert (await it.info(group))["reason"] == UNCONFIRMED
            it.jobs.refuse = None
            info = await it.until(group, job_state="pending", reason="Priority")
            assert it.jobs.by_name == {f"tokenstorm-{info['run_id']}": info["job_id"]}

    finish(work())


def test_one_idempotency_key_makes_one_group_however_often_and_at_once_it_is_sent(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            key = {"idempotency-key": "once"}
            answers = await asyncio.gather(*(it.client.post(GROUPS, json=SMALL, headers=key) for _ in range(5)))
            assert {(answer.status_code, answer.json()["group_id"]) for answer in answers} == {(201, 1)}
            assert len(it.jobs.submits) == 1
            other = await it.client.post(GROUPS, json={**SMALL, "num_clients": 1}, headers=key)
            assert other.status_code == 422
            assert "Idempotency-Key" in other.json()["detail"]
        async with api(tmp_path, it.jobs) as it:
            again = await it.client.post(GROUPS, json=SMALL, headers=key)
            assert (again.status_code, again.json()["group_id"]) == (201, 1)

    finish(work())


def test_a_restart_finds_every_group_where_it_was(tmp_path: Path) -> None:
    async def work() -> None:
        services = Services({"new": ServiceInfo(status="starting")})
        async with api(tmp_path, services=services) as it:
            waiting = await it.create(target_url=None, service_id="new")
            queued = await it.create()
            running = await it.create()
            gone = await it.create()
            it.jobs.found[(await it.info(running))["job_id"]] = JobState("running")
            await it.until(running, status="running")
            it.jobs.refuse = Unconfirmed("lost")
            unsure = (await it.post(**SMALL)).json()["group_id"]
            job = (await it.info(gone))["job_id"]
            jobs = it.jobs
        jobs.found[job] = JobState("ended", "node_fail", "the node died")
        jobs.refuse = None
        services.known["new"] = ServiceInfo(status="running")
        async with api(tmp_path, jobs, services) as it:
            assert (await it.until(gone, status="stopped"))["outcome"] == "node_fail"
            for group in (waiting, queued, unsure):
                await it.until(group, job_state="pending", reason="Priority")
            assert (await it.info(running))["status"] == "running"
            assert len(jobs.by_name) == 5
            assert (await it.get(status="stopped")).json()["groups"] == [gone]

    finish(work())


@pytest.mark.parametrize(
    "outcome", ["timeout", "node_fail", "preempted", "out_of_memory", "lost", "cancelled", "failed"]
)
def test_a_job_that_ends_badly_gives_the_group_its_outcome(outcome: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create()
            job = (await it.info(group))["job_id"]
            it.jobs.found[job] = JobState("ended", outcome, f"because of {outcome}")  # type: ignore[arg-type]
            info = await it.until(group, status="stopped")
            failed = "the load generator ended before its first request (because of failed): its logs may say why"
            assert (info["outcome"], info["reason"]) == (
                outcome,
                {"failed": failed}.get(outcome, f"because of {outcome}"),
            )
            results = await it.get(f"/{group}/results")
            assert results.status_code == 404
            assert f"because of {outcome}" in results.json()["detail"]

    finish(work())


async def _stop(it: Api, group: int) -> None:
    answer = await it.client.post(f"{GROUPS}/{group}/stop")
    assert answer.status_code == 200


def test_a_group_that_has_not_started_is_stopped_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path, services=Services({"new": ServiceInfo(status="starting")})) as it:
            waiting, queued = await it.create(target_url=None, service_id="new"), await it.create()
            for group in (waiting, queued):
                await _stop(it, group)
                assert (await it.until(group, status="stopped"))["outcome"] == "cancelled"
                await _stop(it, group)
            assert it.jobs.cancelled == ["100"]

    finish(work())


def test_a_group_ends_with_its_service(tmp_path: Path) -> None:
    async def work() -> None:
        services = Services({"sim": ServiceInfo(status="running")})
        async with api(tmp_path, services=services) as it:
            group = await it.create(target_url=None, service_id="sim")
            services.known["sim"] = ServiceInfo(status="timeout")
            info = await it.until(group, status="stopped")
            assert (info["outcome"], info["reason"]) == ("failed", "the service 'sim' ended (timeout)")

    finish(work())


def test_only_held_groups_are_released_all_or_none(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            held, other = await it.create(start="manual"), await it.create()
            assert (await it.post("/run", group_ids=[held, other])).status_code == 409
            assert (await it.post("/run", group_ids=[held, 99])).status_code == 404
            past = await it.post("/run", group_ids=[held], start_at="2020-01-01T00:00:00Z")
            assert past.status_code == 422
            assert past.json()["errors"][0]["field"] == "start_at"
            assert (await it.post("/run", group_ids=[held], start_at="2099-01-01T00:00:00Z")).status_code == 422
            assert (await it.post(f"/{held}/run")).json() == {"status": "released", "group_id": held}

    finish(work())


def test_two_apis_never_share_a_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "client.db")
    with pytest.raises(RunError, match="another Client API uses"):
        Store.open(tmp_path / "client.db")
    store.close()
    Store.open(tmp_path / "client.db").close()
    assert (tmp_path / "client.db").stat().st_mode & 0o777 == 0o600


def test_a_list_of_groups_does_not_carry_their_prompts(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create(prompts=["p" * 1_000_000], seed=2**62 + 1, labels={"prompts": "$.prompts"})
            (listed,) = (await it.get(detail=True)).json()["groups"]
            whole = (await it.info(group))["load_config"]
            assert whole.pop("prompts") == ["p" * 1_000_000]
            assert listed["info"]["load_config"] == whole

    finish(work())
