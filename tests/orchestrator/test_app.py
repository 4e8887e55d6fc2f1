"""The orchestrator's API: what its calls answer, and how it says no."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrating import Cluster, slurm, submitted, with_orchestrator
from tokenstorm.errors import Unreachable
from tokenstorm.orchestrator.app import create_app
from tokenstorm.orchestrator.routing import Router
from tokenstorm.orchestrator.services import ServiceOrchestrator

FOUR = {"recipe_name": "inference/vllm-replicas"}
ONE = {"recipe_name": "inference/vllm-single-node"}

Test = Callable[[httpx.AsyncClient, ServiceOrchestrator], Awaitable[None]]


def with_api(cluster: Cluster, test: Test, *, near: bool = True) -> None:
    """Run one test with a client of the API."""

    async def run(orchestrator: ServiceOrchestrator) -> None:
        async with httpx.AsyncClient() as engines:
            app = create_app(orchestrator, Router(orchestrator.replicas, engines), near=near)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000/api/v1") as client:
                await test(client, orchestrator)

    with_orchestrator(cluster, run)


def test_a_service_is_created_listed_and_cancelled(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        created = await api.post("/services", json=ONE)
        assert created.status_code == 201
        service = created.json()
        assert (service["status"], service["group_id"], service["total_replicas"]) == ("pending", None, 1)
        assert service["created_at"].endswith("Z")
        await orchestrator.settled()
        service |= {"job_id": "100", "reason": ""}
        assert (await api.get("/services")).json() == {"services": [service], "count": 1}
        assert (await api.get("/services", params={"status": "running"})).json()["count"] == 0
        await cluster.ready(orchestrator, orchestrator.get(service["id"]))
        found = (await api.get(f"/services/{service['id']}")).json()
        (replica,) = orchestrator.replicas(service["id"])
        assert (found["status"], found["healthy_replicas"], found["endpoint"]) == ("running", 1, replica.url)
        assert (await api.get(f"/services/{service['id']}/status")).json() == {"status": "running", "reason": ""}
        said = await api.post(f"/services/{service['id']}/status", json={"status": "cancelled"})
        assert (said.status_code, said.json()["status"]) == (200, "cancelled")
        assert (await api.delete(f"/services/{service['id']}")).json()["status"] == "cancelled"

    with_api(cluster, test)


def test_a_group_shows_its_replicas_node_by_node(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        created = (await api.post("/services", json=FOUR)).json()
        assert created["group_id"] == created["id"]
        assert (created["type"], created["total_replicas"]) == ("replica_group", 4)
        single = (await api.post("/services", json=ONE)).json()
        await orchestrator.settled()
        group = (await api.get(f"/service-groups/{created['id']}")).json()
        assert group["node_jobs"] == []
        service = orchestrator.get(created["id"])
        cluster.put_job(service, cluster.scheduler.state[service.job_id or ""].__class__("running", nodes=("n1",)))
        cluster.publish(service, 0, await cluster.engine(service), "running")
        await orchestrator.look()
        (node,) = (await api.get(f"/service-groups/{created['id']}")).json()["node_jobs"]
        assert (node["node"], node["job_id"]) == ("n1", service.job_id)
        assert [(replica["id"], replica["status"]) for replica in node["replicas"]] == [
            ("n1.0", "running"),
            ("n1.1", "pending"),
            ("n1.2", "pending"),
            ("n1.3", "pending"),
        ]
        listed = (await api.get("/service-groups")).json()
        assert [group["id"] for group in listed["groups"]] == [created["id"]]
        refused = await api.get(f"/service-groups/{single['id']}")
        assert refused.status_code == 404
        assert "is one service, not a group" in refused.json()["detail"]
        assert (await api.get(f"/services/{created['id']}")).status_code == 200
        assert (await api.delete(f"/service-groups/{created['id']}")).json()["status"] == "cancelled"
        assert (await api.get(f"/service-groups/{created['id']}/status")).json()["status"] == "cancelled"

    with_api(cluster, test)


@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        ({"recipe_name": "inference/nothing"}, 404, None, "there are inference/llama-cpp, inference/sglang"),
        ({**ONE, "config": {"modle": "x"}}, 422, "config.modle", "there are dtype"),
        ({**ONE, "config": {"resources": {"gpu": 1e9}}}, 422, "config.resources.gpu", "whole number"),
        ({**ONE, "more": 1}, 422, "more", "there is no such field: /docs lists"),
        ({"config": {}}, 422, "recipe_name", "must be given"),
        ({**ONE, "config": []}, 422, "config", "must be an object"),
        ({"recipe_name": 5}, 422, "recipe_name", "must be text in quotes"),
        ([], 422, "body", "must be an object"),
    ],
)
def test_a_request_that_is_wrong_is_answered_with_its_field(
    tmp_path: Path, body: object, status: int, field: str | None, says: str
) -> None:
    async def test(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        refused = await api.post("/services", json=body)
        assert refused.status_code == status
        assert refused.headers["content-type"] == "application/problem+json"
        assert says in refused.json()["detail"]
        assert [error["field"] for error in refused.json().get("errors", [])] == ([field] if field else [])
        assert orchestrator.list() == []

    with_api(slurm(tmp_path), test)


def test_the_same_request_with_the_same_key_is_one_service(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)
    body, key = {**ONE, "config": {"model": "a"}}, {"Idempotency-Key": "k1"}

    async def before(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        first, again = [await api.post("/services", json=body, headers=key) for _ in range(2)]
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json()["id"] == again.json()["id"]
        await orchestrator.settled()

    async def after_a_restart(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        (service,) = orchestrator.list()
        assert (await api.post("/services", json=body, headers=key)).json()["id"] == service.id
        other = await api.post("/services", json=ONE, headers=key)
        assert other.status_code == 422
        assert "the Idempotency-Key 'k1' was used for another request" in other.json()["detail"]
        keyless = [(await api.post("/services", json=body)).json()["id"] for _ in range(2)]
        assert len({service.id, *keyless}) == 3
        assert (await api.post("/services", json=ONE, headers={"Idempotency-Key": "two words"})).status_code == 422

    with_api(cluster, before)
    with_api(cluster, after_a_restart)


def test_access_is_given_once_an_engine_answers(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, "inference/vllm-replicas", {})
        early = await api.get(f"/services/{service.id}/access")
        assert (early.status_code, early.json()["service_status"]) == (409, "pending")
        await cluster.ready(orchestrator, service)
        sampler = {"node": "n1", "url": "http://10.0.0.7:4/metrics", "gpus": 4}
        for name, content in {"n1": sampler, "elsewhere": {**sampler, "node": "elsewhere"}, "torn": "{"}.items():
            cluster.shell.files[service.path / f"gpus.{name}.json"] = json.dumps(content).encode()
        access = (await api.get(f"/services/{service.id}/access")).json()
        assert access["gpu_samplers"] == [sampler]
        assert access["api_key"] == service.api_key
        assert [endpoint["replica"] for endpoint in access["endpoints"]] == ["n1.0", "n1.1", "n1.2", "n1.3"]
        for call in ("/services", f"/services/{service.id}", f"/service-groups/{service.id}", "/services/targets"):
            assert service.api_key not in (await api.get(call)).text
        await orchestrator.cancel(service.id)
        late = await api.get(f"/services/{service.id}/access")
        assert (late.status_code, late.json()["service_status"]) == (409, "cancelled")

    with_api(cluster, test)


def test_prometheus_finds_the_engines_through_this_api(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        assert (await api.get("/services/targets")).json() == []
        service = await submitted(orchestrator, "inference/vllm-single-node", {})
        assert (await api.get(f"/services/{service.id}/metrics")).status_code == 503
        await cluster.ready(orchestrator, service)
        (target,) = (await api.get("/services/targets")).json()
        assert target["targets"] == ["localhost:8000"]
        metrics = await api.get(f"http://localhost:8000{target['labels']['__metrics_path__']}")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "vllm:num_requests_running" in metrics.text
        own = (await api.get("http://localhost:8000/metrics")).text
        assert 'tokenstorm_services{status="running"} 1' in own
        assert 'tokenstorm_replicas{state="running"} 1' in own

    with_api(cluster, test)


def test_logs_are_read_on_from_where_they_ended(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, "inference/vllm-single-node", {})
        assert (await api.get(f"/services/{service.id}/logs")).json() == {"logs": "", "next": ""}
        log = service.path / "replica.n1.0.log"
        cluster.shell.files[log] = b"one\n"
        first = (await api.get(f"/services/{service.id}/logs")).json()
        assert first["logs"] == "==> replica.n1.0.log <==\none\n"
        cluster.shell.files[log] += b"two\n"
        params = {"after": first["next"], "source": "n1.0"}
        assert (await api.get(f"/services/{service.id}/logs", params=params)).json()["logs"] == "two\n"
        for place in ("x", "../secret:0", "stdout.log:-1", "stdout.log:9999999999999999999"):
            assert (await api.get(f"/services/{service.id}/logs", params={"after": place})).status_code == 422

    with_api(cluster, test)


def test_recipes_tell_what_can_be_changed(tmp_path: Path) -> None:
    async def test(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        listed = (await api.get("/recipes")).json()
        assert listed["count"] == len(listed["recipes"]) == 9
        recipe = (await api.get("/recipes/inference/vllm-replicas")).json()
        assert (recipe["resources"]["gpu"], recipe["resources"]["replicas_per_node"]) == (4, 4)
        by_name: dict[str, Any] = {parameter["name"]: parameter for parameter in recipe["parameters"]}
        assert by_name["max_model_len"]["type"] == "integer"
        assert by_name["extra_args"]["default"] == []
        unknown = await api.get("/recipes/inference/nothing")
        assert (unknown.status_code, "inference/sglang" in unknown.json()["detail"]) == (404, True)

    with_api(slurm(tmp_path), test)


def test_it_tells_where_it_is(tmp_path: Path) -> None:
    async def test(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        found = (await api.get("/orchestrator/endpoint")).json()
        assert found == {"endpoint": None, "local_url": "http://localhost:8000", "api_key": None}

    with_api(slurm(tmp_path), test, near=False)


def test_it_is_ready_while_it_can_look_after_its_services(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(api: httpx.AsyncClient, orchestrator: ServiceOrchestrator) -> None:
        assert (await api.get("http://localhost:8000/ready")).status_code == 200
        await submitted(orchestrator, "inference/vllm-single-node", {})
        cluster.scheduler.trouble = Unreachable("the cluster is away")
        await orchestrator.look()
        refused = await api.get("http://localhost:8000/ready")
        assert (refused.status_code, refused.json()["detail"]) == (503, "the cluster is away")

    with_api(cluster, test)
