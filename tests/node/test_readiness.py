"""An engine is ready when it generates; one that lacks a call is judged by those it has."""

import asyncio
import json
from typing import Any

import pytest

from tokenstorm.node.readiness import Answer, Verdict, judge
from tokenstorm.node.service import Wanted

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOKEN = {"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "length"}]}
TEXT = {"choices": [{"text": " there", "finish_reason": "length"}]}
Engine = dict[str, Any]
"""What an engine answers by path: a status, or a body with 200, or both; what is not there is 404."""


def names(*models: str | dict[str, Any]) -> dict[str, Any]:
    cards = [model if isinstance(model, dict) else {"id": model, "object": "model"} for model in models]
    return {"object": "list", "data": cards}


VLLM: Engine = {"/health": (200, b""), "/v1/models": names("m"), CHAT: TOKEN, COMPLETIONS: TEXT}


class Asked:
    """Answers as an engine would, and keeps what it was asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.calls: list[tuple[str, Any]] = []
        self.said: list[str] = []

    async def __call__(self, path: str, body: bytes | None) -> Answer:
        self.calls.append((path, None if body is None else json.loads(body)))
        found = self.engine.get(path, (404, {"detail": "Not Found"}))
        if isinstance(found, Answer):
            return found
        status, content = (
            found if isinstance(found, tuple) else (found, b"") if isinstance(found, int) else (200, found)
        )
        return Answer(status, content if isinstance(content, bytes) else json.dumps(content).encode())


def judged(engine: Engine, **wanted: Any) -> tuple[Verdict, Asked]:
    asked = Asked(engine)
    return asyncio.run(judge(Wanted(**{"model": "m", **wanted}), asked, asked.said.append)), asked


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(VLLM, id="vLLM"),
        pytest.param({"/v1/models": names("m"), CHAT: TOKEN}, id="Ollama: no /health"),
        pytest.param({"/health": (200, b""), CHAT: TOKEN}, id="no list of models"),
        pytest.param({"/health": (200, b""), "/v1/models": (200, b"<html>"), CHAT: TOKEN}, id="a page for a list"),
        pytest.param({CHAT: TOKEN}, id="neither"),
        pytest.param({**VLLM, "/health": 401}, id="a health call with a key of its own"),
        pytest.param({"/health": 405, "/v1/models": 501, COMPLETIONS: TEXT}, id="other ways to say so, and no chat"),
        pytest.param({**VLLM, CHAT: (400, {"error": {"message": "no chat template"}})}, id="a base model"),
        pytest.param({**VLLM, CHAT: {"choices": [{"message": {"content": ""}}]}}, id="an empty token"),
        pytest.param({**VLLM, CHAT: {"choices": [{"message": {"reasoning_content": "a"}}]}}, id="a thought"),
    ],
)
def test_an_engine_that_generates_a_token_is_ready(engine: Engine) -> None:
    verdict, _ = judged(engine)
    assert (verdict.state, verdict.reason) == ("ready", "")


@pytest.mark.parametrize(
    ("engine", "state", "words"),
    [
        ({"/health": 503}, "waiting", "/health answers 503"),
        ({"/health": Answer(None, trouble="within 5 s")}, "waiting", "/health gives no answer (within 5 s)"),
        ({"/v1/models": 503}, "waiting", "/health answers 404; /v1/models answers 503"),
        ({**VLLM, "/v1/models": 401}, "denied", "/v1/models answers 401"),
        ({CHAT: 403}, "denied", "/v1/chat/completions answers 403"),
        (
            {**VLLM, CHAT: (500, {"error": {"message": "CUDA error"}}), COMPLETIONS: 500},
            "failing",
            "a first request failed: /v1/chat/completions answers 500: CUDA error",
        ),
        ({**VLLM, CHAT: {"error": {"message": "EngineDeadError"}}, COMPLETIONS: 500}, "failing", "EngineDeadError"),
        ({**VLLM, CHAT: (200, b"<html>"), COMPLETIONS: 500}, "failing", "not an answer in JSON"),
        ({**VLLM, CHAT: Answer(None, trouble="it closed the connection")}, "failing", "it closed the connection"),
        (
            {"/v1/models": names("a", "b"), CHAT: (404, {"error": {"message": 'model "m" not found, try pulling it'}})},
            "failing",
            "try pulling it; 'm' is not among its models, which are a, b",
        ),
    ],
)
def test_an_engine_that_does_not_is_not_and_says_why_in_its_own_words(engine: Engine, state: str, words: str) -> None:
    verdict, _ = judged(engine)
    assert verdict.state == state
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("engine", "state", "known_by"),
    [
        pytest.param({"/health": 200, "/v1/models": names("m")}, "ready", "ready by /health alone", id="embeddings"),
        pytest.param({"/v1/models": names("m")}, "ready", "ready by /v1/models alone", id="without health"),
        pytest.param(
            {**VLLM, **dict.fromkeys((CHAT, COMPLETIONS), (400, {"message": "The model does not support Completions API"}))},
            "ready",
            "ready by /health alone",
            id="vLLM says it in words",
        ),
        pytest.param(
            {"/health": 200, CHAT: (501, {"error": {"message": "This server does not support completions."}})},
            "ready",
            "ready by /health alone",
            id="llama.cpp --embeddings",
        ),
        pytest.param({}, "bare", "it listens, and that is all that is known", id="nothing to ask"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_generate_is_known_by_what_it_has_and_says_so(
    engine: Engine, state: str, known_by: str
) -> None:
    verdict, _ = judged(engine)
    assert verdict.state == state
    assert "it has no call that generates" in verdict.reason
    assert known_by in verdict.reason


def test_a_recipe_can_have_an_engine_asked_for_no_token() -> None:
    verdict, asked = judged({"/v2/health/ready": 200}, generates=False, health_path="/v2/health/ready")
    assert verdict.state == "ready"
    assert verdict.reason == "its recipe has it asked for no token: it is ready by /v2/health/ready alone"
    assert all(body is None for _, body in asked.calls)


def test_one_token_is_asked_for_of_the_model_that_clients_ask_for_and_not_of_an_adapter() -> None:
    lora = {"id": "lora", "parent": "/models/m"}
    _, asked = judged({**VLLM, "/v1/models": names(lora, "/models/m")})
    path, body = asked.calls[-1]
    assert path == CHAT
    assert body["model"] == "/models/m"
    assert set(body) == {"model", "messages", "max_tokens", "stream"}
    assert (body["max_tokens"], body["stream"]) == (1, False)
    assert asked.said == ["a first request (/v1/chat/completions, one token) has no answer yet"]
