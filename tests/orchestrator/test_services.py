"""From a recipe to an engine that answers, and to its end: whatever the scheduler, the nodes and the engines do."""

import asyncio
import contextlib
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrating import PENDING, RUNNING, laptop, slurm, submitted, with_orchestrator
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.cluster.site import Site
from tokenstorm.errors import RunError, Unknown, Unreachable
from tokenstorm.orchestrator.launch import ConfigError
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.orchestrator.watch import LATE_AT_MOST

ONE = "inference/vllm-single-node"
FOUR = "inference/vllm-replicas"


def test_a_service_goes_from_the_queue_to_an_engine_that_answers(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        assert (service.status, service.engine, service.note) == ("pending", "vllm", "")
        await orchestrator.look()
        assert orchestrator.get(service.id).reason == "Resources"

        cluster.put_job(service, RUNNING)
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "configuring"
        assert orchestrator.get(service.id).nodes == ("n1",)

        cluster.publish(service, 0, None, "starting", "loads its model")
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "starting"
        assert "loads its model" in orchestrator.get(service.id).reason

        engine = await cluster.engine(service)
        engine.refuse = 503
        cluster.publish(service, 0, engine, "running")
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "starting"
        assert "/health answers 503" in orchestrator.get(service.id).reason

        engine.refuse = None
        await orchestrator.look()
        assert (orchestrator.get(service.id).status, orchestrator.get(service.id).reason) == ("running", "")
        (replica,) = orchestrator.replicas(service.id)
        assert replica.models == (service.model,)
        assert replica.api_key == service.api_key
        assert replica.url == f"http://127.0.0.1:{engine.port}"

    with_orchestrator(cluster, test)


def test_the_job_asks_for_what_the_recipe_and_the_user_say(tmp_path: Path) -> None:
    cluster = slurm(tmp_path, interface="ib0")

    async def test(orchestrator: ServiceOrchestrator) -> None:
        resources = {"nodes": 2, "cpu": 32, "memory": "128G", "gpu": 8, "gpu_per_replica": 2, "time_limit": 240}
        service = await submitted(orchestrator, FOUR, {"resources": resources})
        (job,) = cluster.scheduler.submitted
        assert (job.nodes, job.cpus_per_task, job.memory_mb, job.gpus_per_node) == (2, 32, 131_072, 8)
        assert (job.kind, job.time_limit_minutes, job.folder) == ("gpu", 240, service.path)
        assert job.command == ("srun", "--nodes=2", "python3.11", "-m", "tokenstorm.node", service.folder)
        assert service.total_replicas == 8
        content = cluster.content(service)
        assert (content["replicas_per_node"], content["gpus_per_replica"], content["host"]) == (4, 2, "ib0")

    with_orchestrator(cluster, test)


def test_the_key_is_each_services_own_and_only_in_files_for_the_user_alone(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        services = [
            await submitted(orchestrator, f"inference/{name}", {}) for name in ("vllm-cpu", "sglang", "llama-cpp")
        ]
        assert len({service.api_key for service in services}) == len({service.id for service in services}) == 3
        for service, job in zip(services, cluster.scheduler.submitted, strict=True):
            assert service.api_key not in repr(service)
            assert service.api_key not in repr(job)
            holders = {path for path, data in cluster.shell.files.items() if service.api_key.encode() in data}
            assert service.path / "service.json" in holders
            assert {cluster.shell.modes[path] for path in holders} == {0o600}
            assert service.api_key not in cluster.content(service)["command"]
        options = cluster.shell.files[services[1].path / "options.yaml"].decode()
        assert options == f'api-key: "{services[1].api_key}"\n'
        assert stat.S_IMODE((tmp_path / "services.db").stat().st_mode) == 0o600

    with_orchestrator(cluster, test)


def test_hostile_text_reaches_the_node_as_typed(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)
    hostile = ["$(touch x)`id`", "a'b\"c\\", "x\ny\tz", "{port} {api_key_file}", "; rm -rf ~", "--flag", "été 🐍", " "]

    async def test(orchestrator: ServiceOrchestrator) -> None:
        for text in hostile:
            service = await submitted(
                orchestrator, ONE, {"model": text, "extra_args": [text], "environment": {"A": text}}
            )
            content = cluster.content(service)
            assert content["command"][2] == content["command"][4] == content["command"][-1] == text
            assert content["environment"]["A"] == text
            places = [2, 4, len(content["command"]) - 1]
            assert content["literal"] == (places if "{port}" in text else [])
            assert text not in cluster.scheduler.submitted[-1].command

    with_orchestrator(cluster, test)


def test_a_machine_without_the_gpu_serves_by_the_simulator_and_says_so(tmp_path: Path) -> None:
    cluster = laptop(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, FOUR, {"model": "big"})
        assert (service.engine, service.model, service.is_group, service.total_replicas) == (
            "simulated",
            "big",
            True,
            4,
        )
        assert "no GPU for vllm" in service.note
        content = cluster.content(service)
        assert content["command"][:3] == ["/opt/py/bin/python", "-m", "tokenstorm.simulator"]
        assert (content["host"], content["gpus_per_replica"], content["replicas_per_node"]) == ("127.0.0.1", 0, 4)
        assert (cluster.scheduler.submitted[0].kind, cluster.scheduler.submitted[0].gpus_per_node) == ("cpu", 0)
        cpu_only = await submitted(orchestrator, "inference/vllm-cpu", {})
        assert (cpu_only.engine, cpu_only.note) == ("vllm", "")
        with pytest.raises(ConfigError, match=r"config.resources.nodes: must be 1"):
            await submitted(orchestrator, FOUR, {"resources": {"nodes": 2}})

    with_orchestrator(cluster, test)


def test_a_machine_with_a_gpu_runs_the_engine_itself(tmp_path: Path) -> None:
    cluster = replace(laptop(tmp_path), has_gpu=True)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        assert (await submitted(orchestrator, ONE, {})).engine == "vllm"

    with_orchestrator(cluster, test)


def test_the_time_to_be_ready_is_counted_from_when_the_job_runs(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.time.seconds += 100_000  # in the queue
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "pending"
        cluster.put_job(service, RUNNING)
        await orchestrator.look()
        cluster.time.seconds += 1799
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "configuring"
        cluster.time.seconds += 2
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "failed"
        assert "not ready after 1800 s" in orchestrator.get(service.id).reason
        await orchestrator.look()
        assert cluster.scheduler.cancelled == [service.job_id]
        await orchestrator.look()
        assert cluster.scheduler.cancelled == [service.job_id]

    with_orchestrator(cluster, test)


def test_a_group_is_running_when_all_its_replicas_are(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, FOUR, {})
        cluster.put_job(service, RUNNING)
        for index in range(3):
            cluster.publish(service, index, await cluster.engine(service), "running")
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "starting"
        assert "3 of 4 replicas answer yet" in orchestrator.get(service.id).reason
        cluster.publish(service, 3, await cluster.engine(service), "running")
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "running"
        assert [replica.id for replica in orchestrator.replicas(service.id)] == ["n1.0", "n1.1", "n1.2", "n1.3"]

    with_orchestrator(cluster, test)


def test_a_replica_that_cannot_start_fails_the_service_at_once_with_its_reason(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, FOUR, {})
        cluster.put_job(service, RUNNING)
        cluster.publish(service, 2, None, "failed", "vllm: no such file")
        await orchestrator.look()
        found = orchestrator.get(service.id)
        assert found.status == "failed"
        assert "n1.2: vllm: no such file" in found.reason
        await orchestrator.look()
        assert cluster.scheduler.cancelled == [service.job_id]

    with_orchestrator(cluster, test)


@pytest.mark.parametrize("failure", [503, "reset"])
def test_a_replica_that_fails_is_left_out_and_comes_back_when_it_answers(tmp_path: Path, failure: Any) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, FOUR, {})
        engines = await cluster.ready(orchestrator, service)
        engines[1].refuse = failure
        await orchestrator.look()
        assert [replica.status for replica in orchestrator.replicas(service.id)].count("failed") == 1
        assert orchestrator.replicas(service.id)[1].status == "failed"
        assert orchestrator.get(service.id).status == "running"
        assert "3 of 4 replicas answer; n1.1: " in orchestrator.get(service.id).reason
        engines[1].refuse = None
        await orchestrator.look()
        assert {replica.status for replica in orchestrator.replicas(service.id)} == {"running"}
        assert orchestrator.get(service.id).reason == ""

    with_orchestrator(cluster, test)


def test_a_replica_whose_engine_died_stays_failed_and_the_others_go_on(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, FOUR, {})
        await cluster.ready(orchestrator, service)
        cluster.publish(service, 3, None, "failed", "ended by signal 9")
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "running"
        assert orchestrator.replicas(service.id)[3].reason == "ended by signal 9"
        assert not cluster.scheduler.cancelled

    with_orchestrator(cluster, test)


def test_a_busy_engine_may_be_late_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenstorm.orchestrator.watch.ASK_SECONDS", 0.05)
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        (engine,) = await cluster.ready(orchestrator, service)
        engine.refuse = "silence"
        for _ in range(LATE_AT_MOST - 1):
            await orchestrator.look()
            assert orchestrator.replicas(service.id)[0].status == "running"
        await orchestrator.look()
        assert orchestrator.replicas(service.id)[0].status == "failed"
        assert "no answer within" in orchestrator.get(service.id).reason

    with_orchestrator(cluster, test)


def test_an_engine_with_another_key_is_not_ours(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service, other = await submitted(orchestrator, ONE, {}), await submitted(orchestrator, ONE, {})
        cluster.put_job(service, RUNNING)
        cluster.publish(service, 0, await cluster.engine(other), "running")
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "starting"
        assert "/v1/models answers 401" in orchestrator.get(service.id).reason

    with_orchestrator(cluster, test)


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        (JobState("ended", "completed"), "completed", ""),
        (JobState("ended", "failed", exit_code=1), "failed", "exit code 1"),
        (JobState("ended", "cancelled"), "cancelled", ""),
        (JobState("ended", "timeout"), "timeout", "time limit"),
        (JobState("ended", "node_fail"), "failed", "a node failed"),
        (JobState("ended", "preempted"), "failed", "preempted"),
        (JobState("ended", "out_of_memory"), "failed", "out of memory"),
        (JobState("ended", "lost"), "failed", "knows nothing of the job"),
    ],
)
def test_the_end_of_the_job_is_the_end_of_the_service(
    tmp_path: Path, state: JobState, status: str, reason: str
) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        await cluster.ready(orchestrator, service)
        cluster.put_job(service, state)
        await orchestrator.look()
        found = orchestrator.get(service.id)
        assert found.status == status
        assert reason in found.reason
        assert found.ended_at is not None
        assert orchestrator.replicas(service.id) == ()
        questions = len(cluster.scheduler.questions)
        await orchestrator.look()
        assert len(cluster.scheduler.questions) == questions

    with_orchestrator(cluster, test)


def test_the_last_words_of_the_engines_are_in_the_reason(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.put_job(service, JobState("ended", "failed", exit_code=1))
        cluster.publish(service, 0, None, "failed", "vllm: no such file")
        await orchestrator.look()
        assert "replica n1.0: vllm: no such file" in orchestrator.get(service.id).reason

    with_orchestrator(cluster, test)


def test_a_job_that_is_put_back_into_the_queue_begins_anew(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        await cluster.ready(orchestrator, service)
        cluster.put_job(service, PENDING)
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "pending"
        cluster.time.seconds += 10_000
        cluster.put_job(service, RUNNING)
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "running"

    with_orchestrator(cluster, test)


def test_all_jobs_are_asked_about_in_one_question(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        jobs = {(await submitted(orchestrator, ONE, {})).job_id for _ in range(5)}
        await orchestrator.look()
        assert cluster.scheduler.questions == [jobs]

    with_orchestrator(cluster, test)


def test_cancelling_ends_the_job_and_can_be_said_twice(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        await cluster.ready(orchestrator, service)
        assert (await orchestrator.cancel(service.id)).status == "cancelled"
        assert (await orchestrator.cancel(service.id)).status == "cancelled"
        assert cluster.scheduler.cancelled == [service.job_id]
        assert orchestrator.replicas(service.id) == ()
        with pytest.raises(Unknown, match=f"there is no service 'x': there are {service.id}"):
            await orchestrator.cancel("x")

    with_orchestrator(cluster, test)


def test_a_service_that_cannot_be_cancelled_now_is_not_said_to_be(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.scheduler.trouble = Unreachable("the cluster is away")
        with pytest.raises(Unreachable):
            await orchestrator.cancel(service.id)
        assert orchestrator.get(service.id).status == "pending"

    with_orchestrator(cluster, test)


def test_a_replicas_file_that_is_broken_fails_that_replica(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.scheduler.state["100"] = RUNNING
        cluster.shell.files[service.path / "replica.n1.0.json"] = b'{"replica": "\xff'
        await orchestrator.look()
        ended = orchestrator.get(service.id)
        assert ended.status == "failed"
        assert "n1.0: " in ended.reason
        assert orchestrator.trouble is None

    with_orchestrator(cluster, test)


async def _nothing(orchestrator: ServiceOrchestrator) -> None:
    assert orchestrator.list() == []


def test_while_the_site_is_out_of_reach_all_stays_as_it_was_known(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        await cluster.ready(orchestrator, service)
        for place in (cluster.scheduler, cluster.shell):
            place.trouble = Unreachable("the cluster is away")
            await orchestrator.look()
            assert orchestrator.trouble == "the cluster is away"
            assert orchestrator.get(service.id).status == "running"
            assert orchestrator.replicas(service.id)[0].status == "running"
            place.trouble = None
        await orchestrator.look()
        assert orchestrator.trouble is None

    with_orchestrator(cluster, test)


def test_a_restart_finds_every_service_with_its_state(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)
    before: dict[str, Any] = {}

    async def first(orchestrator: ServiceOrchestrator) -> None:
        running, starting, ended = [await submitted(orchestrator, ONE, {"model": name}) for name in "abc"]
        await orchestrator.cancel(ended.id)
        cluster.put_job(starting, RUNNING)
        await cluster.ready(orchestrator, running)
        before.update({service.id: service for service in orchestrator.list()})

    async def second(orchestrator: ServiceOrchestrator) -> None:
        assert {service.id: service for service in orchestrator.list()} == before
        running, starting, _ = orchestrator.list()
        cluster.time.seconds += 1801  # it was starting all the while nobody looked
        await cluster.ready(orchestrator, running)
        assert orchestrator.replicas(running.id)[0].models == ("a",)
        assert "not ready after" in orchestrator.get(starting.id).reason

    with_orchestrator(cluster, first)
    with_orchestrator(cluster, second)


def test_what_happened_while_it_was_away_is_known_after_the_first_look(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def first(orchestrator: ServiceOrchestrator) -> None:
        await submitted(orchestrator, ONE, {})

    async def second(orchestrator: ServiceOrchestrator) -> None:
        (service,) = orchestrator.list()
        cluster.put_job(service, JobState("ended", "node_fail"))
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "failed"

    with_orchestrator(cluster, first)
    with_orchestrator(cluster, second)


def test_it_can_be_closed_in_the_moment_something_changes(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test() -> None:
        site = Site(cluster.profile, cluster.shell, cluster.scheduler, has_gpu=True)
        orchestrator = ServiceOrchestrator(site, cluster.recipes, tmp_path / "services.db")
        await orchestrator.start()
        for _ in range(10):
            await asyncio.sleep(0)
        await submitted(orchestrator, ONE, {})
        async with asyncio.timeout(10):
            await orchestrator.close()
        assert orchestrator.trouble == "the orchestrator has been closed"

    asyncio.run(test())


def test_two_orchestrators_never_look_after_the_same_services(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        with pytest.raises(RunError, match="another orchestrator uses it"):
            async with cluster.orchestrator():
                pass

    with_orchestrator(cluster, test)


def test_a_store_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "services.db").write_bytes(b"not a database at all, but long enough to be taken for a header" * 10)
    with pytest.raises(RunError, match=r"services.db: file is not a database; move it away"):
        with_orchestrator(slurm(tmp_path), _nothing)


def test_a_store_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    with_orchestrator(slurm(tmp_path), _nothing)
    with contextlib.closing(sqlite3.connect(tmp_path / "services.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(RunError, match=r"another version .*schema 99"):
        with_orchestrator(slurm(tmp_path), _nothing)
    with contextlib.closing(sqlite3.connect(tmp_path / "services.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_key_that_lies_across_two_pieces_of_a_log_is_masked_too(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        for before in range(200, 260):
            text = "." * before + service.api_key + "." * 300
            cluster.shell.files[service.path / "stderr.log"] = text.encode()
            whole, after = "", None
            while piece := await orchestrator.logs(service.id, source="job", after=after, limit=256):
                if not piece[0]:
                    break
                whole, after = whole + piece[0], piece[1]
            assert whole.replace("ts-***", "***") == "." * before + "***" + "." * 300

    with_orchestrator(cluster, test)


def test_a_source_of_logs_that_there_is_not_is_refused_with_those_there_are(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, "inference/vllm-replicas", {})
        with pytest.raises(Unknown, match=r"there is no source 'xx' of its logs: there is job$"):
            await orchestrator.logs(service.id, source="xx")
        assert (await orchestrator.logs(service.id, source="job"))[0] == ""
        cluster.put_job(service, JobState("running", nodes=("n1",)))
        await orchestrator.look()
        assert (await orchestrator.logs(service.id, source="n1.3"))[0] == "", "it has written nothing yet"
        cluster.shell.files[service.path / "replica.old.0.log"] = b"before it was put back into the queue"
        listed = "there is job, n1.0, n1.1, n1.2, n1.3, old.0"
        with pytest.raises(Unknown, match=f"there is no source '' of its logs: {listed}$"):
            await orchestrator.logs(service.id, source="")

    with_orchestrator(cluster, test)


def test_logs_come_in_pieces_with_the_key_masked(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        files, path = cluster.shell.files, service.path
        files[path / "stderr.log"] = b"starting\n"
        files[path / "replica.n1.0.log"] = f"args: api_key={service.api_key}\né".encode()[:-1]
        text, after = await orchestrator.logs(service.id)
        assert text == "==> replica.n1.0.log <==\nargs: api_key=***\n==> stderr.log <==\nstarting\n"
        assert await orchestrator.logs(service.id, after=after) == ("", after)
        files[path / "replica.n1.0.log"] += "é".encode()[1:] + b"\nready"
        assert (await orchestrator.logs(service.id, source="n1.0", after=after))[0] == "é\nready"
        assert (await orchestrator.logs(service.id, source="job"))[0] == "starting\n"
        assert (await orchestrator.logs(service.id, source="job", limit=5))[0] == "start"

    with_orchestrator(cluster, test)


def test_the_metrics_of_a_group_are_one_text_with_a_label_for_each_replica(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, FOUR, {})
        with pytest.raises(Unreachable, match="it is pending"):
            await orchestrator.engine_metrics(service.id)
        await cluster.ready(orchestrator, service)
        text = await orchestrator.engine_metrics(service.id)
        lines = text.splitlines()
        assert len([line for line in lines if line.startswith("# TYPE vllm:num_requests_running ")]) == 1
        running = [line for line in lines if line.startswith("vllm:num_requests_running{")]
        assert [line.split(",")[0] for line in running] == [
            f'vllm:num_requests_running{{replica="n1.{index}"' for index in range(4)
        ]
        place = lines.index(running[0])
        assert lines[place : place + 4] == running

    with_orchestrator(cluster, test)
