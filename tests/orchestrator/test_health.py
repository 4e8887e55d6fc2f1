"""Engines of any kind are looked after by the calls they have, and known by the model that their clients ask for."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrating import RUNNING, Cluster, slurm, submitted, with_orchestrator
from tokenstorm.orchestrator.routing import PromptRequest, Router, ask
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.web import Problem

ONE = "inference/sim-single-node"
ABSENT = (404, b'{"detail":"Not Found"}')
BASE = "sim-model"
LORA = {"id": "a-lora", "parent": BASE}


def models(*cards: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"object": "list", "data": [*cards]}).encode()


async def started(cluster: Cluster, orchestrator: ServiceOrchestrator, reason: str = "", **instead: Any) -> Any:
    """A service whose node says that its engine runs, which has been looked at once; and its engine."""
    service = await submitted(orchestrator, ONE, {})
    engine = await cluster.engine(service)
    engine.instead = {f"/{path.replace('_', '/')}": answer for path, answer in instead.items()}
    cluster.put_job(service, RUNNING)
    cluster.publish(service, 0, engine, "running", reason)
    await orchestrator.look()
    return orchestrator.get(service.id), engine


@pytest.mark.parametrize(
    ("instead", "names"),
    [
        ({"health": ABSENT}, (BASE,)),
        ({"v1_models": ABSENT}, (BASE,)),
        ({"health": (401, b"")}, (BASE,)),
        ({"health": (405, b""), "v1_models": (501, b"")}, (BASE,)),
        ({"v1_models": (200, b"<html>")}, (BASE,)),
        ({"v1_models": (200, b'{"object": "list", "data": null}')}, (BASE,)),
        ({"v1_models": models(LORA, {"id": "other"}, {"id": BASE})}, (BASE, "other", "a-lora")),
    ],
)
def test_an_engine_that_lacks_a_call_can_be_used(tmp_path: Path, instead: Any, names: tuple[str, ...]) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service, engine = await started(cluster, orchestrator, **instead)
        assert (service.status, service.reason, service.model) == ("running", "", BASE)
        assert orchestrator.replicas(service.id)[0].models == names
        assert set(engine.asked) == {"/health", "/v1/models"}  # no token is asked for beside a load
        engine.refuse = 503
        engine.instead = {}
        await orchestrator.look()
        assert orchestrator.replicas(service.id)[0].status == "failed"

    with_orchestrator(cluster, test)


def test_what_the_node_says_of_an_engine_that_runs_is_told(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service, _ = await started(cluster, orchestrator, "it is ready by /health alone")
        assert (service.status, service.reason) == ("running", "it is ready by /health alone")

    with_orchestrator(cluster, test)


def test_what_an_engine_that_starts_answers_is_told_from_the_first_moment(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, ONE, {})
        cluster.put_job(service, RUNNING)
        cluster.publish(service, 0, await cluster.engine(service), "starting", "/health answers 404")
        await orchestrator.look()
        assert orchestrator.get(service.id).reason == "the engine does not answer yet; n1.0: /health answers 404"

    with_orchestrator(cluster, test)


@pytest.mark.parametrize("served", ["/models/sim-model", f"owner/{BASE}", "./other.gguf"])
def test_a_model_that_is_served_under_its_path_is_asked_for_by_it(tmp_path: Path, served: str) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        listed = models({"id": "a-lora", "parent": served}, {"id": served})
        service, _ = await started(cluster, orchestrator, v1_models=listed)
        assert (service.status, service.model) == ("running", served)

    with_orchestrator(cluster, test)


def test_a_prompt_goes_to_the_services_model_and_a_wrong_one_is_told_those_there_are(tmp_path: Path) -> None:
    cluster = slurm(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service, _ = await started(cluster, orchestrator, v1_models=models(LORA, {"id": BASE}))
        router = Router(orchestrator.replicas, orchestrator._http)
        answer = await ask(router, service.id, PromptRequest(prompt="Hi", max_tokens=1, temperature=0, model=None))
        assert answer.model == BASE
        with pytest.raises(Problem, match=r"wrong.*is not among its models, which are sim-model, a-lora") as told:
            await ask(router, service.id, PromptRequest(prompt="Hi", max_tokens=1, temperature=0, model="wrong"))
        assert told.value.status == 404

    with_orchestrator(cluster, test)
