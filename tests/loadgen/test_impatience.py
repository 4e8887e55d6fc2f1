"""Requests that are given up: which, when, and what is counted."""

import re

import pytest

from plans import plan
from running import Stage, fetch, wait_for
from scripted import run as run_in_loop
from tokenstorm.errors import PlanError
from tokenstorm.load_parts import Cancel
from tokenstorm.loadgen.impatience import Impatience

LIGHT = ("--request-count", "60", "--requests-per-second", "60", "--num-clients", "60", "--seed", "3", "--ignore-eos")


def aborted(url: str) -> int:
    """How many requests the engine ended because its client had left."""
    text = fetch(f"{url}/metrics")[1].decode()
    found = re.search(r'vllm:request_success_total\{.*finished_reason="abort".*\} (\d+)', text)
    assert found
    return int(found[1])


@pytest.mark.parametrize(("when", "tokens"), [("50%@20tokens", 20), ("50%@0.2s", None)], ids=["tokens", "seconds"])
def test_what_is_given_up_is_counted_apart_and_ends_the_engines_work(
    stage: Stage, when: str, tokens: int | None
) -> None:
    engine = stage.simulate(preset="medium")
    run = stage.bench(
        engine.url, *LIGHT, "--max-tokens", "60", "--cancel", when, "--slo", "latency=60s", "--drain", "20"
    )
    counts, lines = run.summary["counts"], run.lines()
    given_up = [line for line in lines if line["error"] and line["error"]["kind"] == "cancelled"]
    assert counts["cancelled"] == len(given_up)
    assert 15 < len(given_up) < 45
    assert counts["failed"] == counts["censored"] == counts["unsent"] == 0
    assert counts["sent"] == counts["succeeded"] + counts["cancelled"] == 60
    assert run.summary["goodput"]["ratio"] == 1, "of those that were not given up"
    assert not {"failures", "censored"} & set(run.reasons)
    wait_for(lambda: aborted(engine.url) >= len(given_up), "the engine goes on with what nobody waits for")
    if tokens is not None:
        assert all(tokens <= line["chunks"] < 60 for line in given_up), "a read may bring several"
    said = stage.command("report", str(run.root)).out
    assert f"{len(given_up)} given up" in said
    assert "cancelled" not in run.summary["failures"]


def test_the_choice_follows_from_the_seed_and_the_number_alone() -> None:
    async def main() -> None:
        some = Impatience(Cancel(rate=0.25, after_seconds=1), 7)
        chosen = [seq for seq in range(4000) if some.chooses(seq)]
        assert 900 < len(chosen) < 1100
        assert chosen == [seq for seq in range(4000) if Impatience(Cancel(rate=0.25, after_tokens=9), 7).chooses(seq)]
        assert chosen != [seq for seq in range(4000) if Impatience(Cancel(rate=0.25, after_seconds=1), 8).chooses(seq)]
        assert all(Impatience(Cancel(rate=1, after_seconds=1), 7).chooses(seq) for seq in range(1000))

    run_in_loop(main)


@pytest.mark.parametrize("fields", [{"endpoint": "embeddings"}, {"stream": False}])
def test_tokens_of_what_does_not_stream_cannot_be_waited_for(fields: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="use `after_seconds`"):
        plan(cancel={"rate": 0.5, "after_tokens": 2}, **fields)
