"""Engines that are not vLLM, from a recipe to results: without a health call, with adapters, with a model of another name."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import standin
from running import Stage, wait_for
from serving import Up, end_all, start_up
from standin import CHAT, TOKEN

pytestmark = pytest.mark.integration

RECIPE = """
name: inference/other
engine: other
model: m
command: [{python}, {engine}, "{{port}}", {folder}, "{{host}}"]
ports: [8101]
resources: {{time_limit: 1:00:00}}
api_key: {{variable: OTHER_API_KEY}}
"""


@pytest.fixture
def other(stage: Stage) -> Iterator[Callable[[dict[str, Any]], Up]]:
    """Starts an `up` with a recipe for an engine that answers so."""

    def start(answers: dict[str, Any]) -> Up:
        recipes = stage.folder / "recipes"
        recipes.mkdir()
        engine, folder = Path(standin.__file__), stage.folder / "engine"
        standin.answer(folder, answers)
        text = RECIPE.format(python=sys.executable, engine=engine, folder=folder)
        (recipes / "other.yaml").write_text(text)
        return start_up(stage, "--recipes", str(recipes))

    yield start
    end_all(stage)


def test_the_load_of_a_service_asks_for_its_model_and_not_for_the_adapter_listed_first(
    stage: Stage, other: Callable[[dict[str, Any]], Up]
) -> None:
    listed = [
        200,
        {"object": "list", "data": [{"id": "lora", "parent": "/m"}, {"id": "/m"}, {"id": "tuned", "parent": "/m"}]},
    ]
    up = other({"/": [200, "Ollama is running"], "/v1/models": listed, CHAT: TOKEN})
    with up.sdk() as client:
        service = client.wait_until_ready(client.create_service("inference/other").id)
        assert (service.status, service.model) == ("running", "/m")
        created = client.create_group(
            service_id=service.id,
            num_clients=1,
            prompts=["Hi"],
            requests_per_second=5,
            duration_seconds=1,
            stream=False,
        )
        group = client.wait_until_stopped(created.group_id)
        summary = client.results(group.group_id)
        assert summary.counts.scheduled == summary.counts.succeeded == 5
    posts = [line.split(" ", 2) for line in standin.asked(stage.folder / "engine") if line.startswith(CHAT)]
    assert {json.loads(body)["model"] for _, _, body in posts} == {"/m"}
    assert len(posts) == 1 + 1 + 5  # before it was ready, the first look of the run, and the load


def test_an_engine_whose_every_answer_fails_does_not_run_and_says_why(
    other: Callable[[dict[str, Any]], Up],
) -> None:
    up = other(
        {
            "/health": [200, ""],
            "/v1/models": [200, {"data": [{"id": "m"}]}],
            CHAT: [500, {"error": {"message": "no kernel image"}}],
        }
    )
    with up.sdk() as client:
        service = client.create_service("inference/other")
        wait_for(lambda: "no kernel image" in client.get_service(service.id).reason, "nobody said why it does not run")
        assert client.get_service(service.id).status == "starting"
    assert "/v1/chat/completions answers 500: no kernel image" in up.command("service", "show", service.id).out
