"""Each operation, by a real run against the simulator: counts, tokens and errors are right, as the engine counts them too."""

import json
import re
import shlex
from pathlib import Path

import pytest

from running import Run, Stage, fetch
from tokenstorm.load import Load, make

OPTIONS = (
    "--request-count",
    "20",
    "--requests-per-second",
    "100",
    "--max-tokens",
    "6",
    "--seed",
    "1",
    "--num-clients",
    "20",
)
OTHERS = ("responses", "messages", "embeddings", "rerank", "score")
GENERATING = {"responses", "messages"}


def counters(url: str) -> dict[str, float]:
    """What the engine has counted, by name; over its labels."""
    text = fetch(f"{url}/metrics")[1].decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+:\w+_total)\{.*\} (\S+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("endpoint", OTHERS)
def test_an_operation_counts_what_the_engine_counts(stage: Stage, endpoint: str) -> None:
    engine = stage.simulate()
    run = stage.bench(engine.url, "--endpoint", endpoint, *OPTIONS)
    summary, lines = run.summary, run.lines()
    assert (summary["counts"]["scheduled"], summary["counts"]["succeeded"]) == (20, 20)
    assert summary["warnings"] == {}
    told = counters(engine.url)
    tries = lines[0]["prompt_tokens"]  # the first request, before the start, has the same prompt
    assert sum(line["prompt_tokens"] for line in lines) + tries == told["vllm:prompt_tokens_total"]
    times = {name for name, metric in summary["metrics"].items() if metric["count"]}
    of_tokens = {
        "ttft_seconds",
        "ttft_content_seconds",
        "ttft_from_schedule_seconds",
        "tpot_seconds",
        "inter_chunk_seconds",
    }
    if endpoint in GENERATING:
        assert summary["tokens"] == {**summary["tokens"], "output": 120, "source": "usage"}
        assert of_tokens <= times
        assert {line["chunks"] for line in lines} == {6}
    else:
        assert (summary["tokens"]["output"], summary["rates"]["output_tokens_per_second"]) == (None, None)
        assert told["vllm:generation_tokens_total"] == 0
        assert not of_tokens & times, "an answer in numbers has no first token"


def text_of(stage: Stage, run: Run) -> str:
    return stage.command("report", str(run.root)).out


@pytest.mark.parametrize("endpoint", ["responses", "embeddings"])
def test_a_fault_of_an_operation_is_counted_by_its_kind_and_reported(stage: Stage, endpoint: str) -> None:
    engine = stage.simulate("--error-500", "0.2", "--malformed", "0.3", "--seed", "7")
    run = stage.bench(engine.url, "--endpoint", endpoint, *OPTIONS)
    counts, kinds = run.summary["counts"], run.summary["counts"]["failed_by_kind"]
    assert counts["succeeded"] + sum(kinds.values()) == 20
    assert set(kinds) == {"http_500", "malformed"}
    said = text_of(stage, run)
    assert f": {endpoint}, {'streamed' if endpoint in GENERATING else '1 text in each request'}" in said
    assert ("output tok/s" in said) == (endpoint in GENERATING)


def test_what_the_service_does_not_know_ends_the_run_before_it_starts(stage: Stage) -> None:
    engine = stage.simulate()
    url = engine.url + "/v1/embeddings"
    assert "say embeddings here" in stage.command("bench", url).err
    ended = stage.command("bench", url, "--endpoint", "embeddings", "--model", "other")
    assert (ended.code, "The model `other` does not exist" in ended.err) == (1, True), ended
    ended = stage.command("bench", engine.url, "--endpoint", "rerank", "--slo", "ttft=1s")
    assert (ended.code, "no request could meet `ttft_seconds`" in ended.err) == (2, True), ended


def test_what_the_page_shows_works(stage: Stage) -> None:
    """Each command of docs/endpoints.md that loads a simulated engine does so, and its request of one's own is one."""
    page = (Path(__file__).parents[1] / "docs" / "endpoints.md").read_text()
    (written,) = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    make({"num_clients": 1, "endpoint": "custom", "custom": json.loads(written)}, Load)
    commands = re.findall(r"^tokenstorm bench \$URL (.*)$", page, re.MULTILINE)
    assert len(commands) == 3
    engine = stage.simulate()
    for number, command in enumerate(commands):
        run = stage.bench(engine.url, *shlex.split(command), name=f"run{number}")
        assert run.summary["counts"]["succeeded"] == run.summary["counts"]["scheduled"] == 20
