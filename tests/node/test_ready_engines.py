"""The wrapper on a node waits for an engine until it generates, and says from the first moment what it waits for."""

import sys
from typing import Any

import pytest

import standin
from running import Stage, wait_for
from standin import CHAT, TOKEN
from wrapped import Service


class Engine:
    """A service whose engine answers what the test says, also later."""

    def __init__(self, stage: Stage, answers: dict[str, Any], *words: str, **fields: Any) -> None:
        self.folder = stage.folder / "engine"
        self.answer(answers)
        command = [sys.executable, standin.__file__, "{port}", str(self.folder), *words]
        self.service = Service(stage, command=command, model="m", **fields).start()

    def answer(self, answers: dict[str, Any]) -> None:
        standin.answer(self.folder, answers)

    def says(self, words: str) -> None:
        """It is not ready, and this is why."""

        def said() -> bool:
            found = self.service.published()
            assert found["status"] in ("starting", None), found
            return words in found.get("reason", "")

        wait_for(said, f"{words!r} was never said: {self.service.published()}")


def test_an_engine_that_is_healthy_and_answers_nothing_is_not_running_until_it_does(stage: Stage) -> None:
    broken = [500, {"error": {"message": "CUDA error: out of memory for sk-of-this-service"}}]
    engine = Engine(stage, {"/health": [200, ""], "/v1/models": [200, {"data": [{"id": "m"}]}], CHAT: broken})
    engine.says("a first request failed: /v1/chat/completions answers 500: CUDA error: out of memory for …")
    engine.answer({"/health": [200, ""], CHAT: TOKEN})
    assert engine.service.reaches("running")["reason"] == ""


def test_an_engine_that_has_no_health_call_says_so_from_the_first_moment_and_is_used(stage: Stage) -> None:
    engine = Engine(stage, {CHAT: TOKEN}, "wait")
    engine.says("/health answers 404; /v1/models answers 404; a first request")
    (engine.folder / "go").touch()
    engine.service.reaches("running")


def test_a_first_request_that_compiles_for_long_is_waited_for_and_not_sent_twice(stage: Stage) -> None:
    engine = Engine(stage, {"/health": [200, ""], CHAT: TOKEN}, "wait")
    engine.says("a first request (/v1/chat/completions, one token) has no answer yet")
    (engine.folder / "go").touch()
    engine.service.reaches("running")
    assert [line.split()[1] for line in standin.asked(engine.folder) if line.startswith(CHAT)] == ["1"]


def test_a_first_request_is_waited_for_no_longer_than_the_recipe_says(stage: Stage) -> None:
    engine = Engine(stage, {"/health": [200, ""], CHAT: TOKEN}, "wait", ready_seconds=2)
    reason = engine.service.reaches("failed")["reason"]
    assert reason.startswith("it was not ready in 2 s: ")
    assert "a first request (/v1/chat/completions, one token) has no answer yet" in reason


@pytest.mark.parametrize(
    ("answers", "fields", "reason"),
    [
        ({"/health": [200, ""]}, {}, "it has no call that generates: it is ready by /health alone"),
        ({CHAT: [500, ""], "/v2/ok": [200, ""]}, {"generates": False, "health_path": "/v2/ok"}, "asked for no token"),
        ({}, {}, "it listens, and that is all that is known"),
    ],
)
def test_an_engine_without_a_call_that_generates_runs_and_says_by_what(
    stage: Stage, answers: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    engine = Engine(stage, answers, **fields)
    assert reason in engine.service.reaches("running")["reason"]
