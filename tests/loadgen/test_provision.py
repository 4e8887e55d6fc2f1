"""What a run asks is made ready before its ranks start: a long file of prompts is prepared, and read in stripes."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plans import plan
from tokenstorm.errors import PlanError
from tokenstorm.loadgen.conversations import Conversations
from tokenstorm.loadgen.prompts import Drawn, load_prompts, prompt_file
from tokenstorm.loadgen.provision import IN_MEMORY_BYTES, Provided, provide
from tokenstorm.loadgen.workload import read_workload
from tokenstorm.metrics.reports import PromptStock
from tokenstorm.plan import Plan
from tokenstorm.runs import RunPaths

COUNT = 600


def provided(some: Plan, folder: Path) -> Provided:
    return provide(some, RunPaths(folder))


@pytest.fixture
def long(tmp_path: Path) -> dict[str, Any]:
    """A file that is too long for the memory of each rank: every prompt is there twice, and some rows are none."""
    path = tmp_path / "long.jsonl"
    filling = "word " * (IN_MEMORY_BYTES // COUNT // 5 + 1)
    records = [{"prompt": f"{number // 2} {filling}", "output_tokens": 1 + number // 2} for number in range(COUNT)]
    path.write_text("\n".join(map(json.dumps, [{"prompt": " ", "output_tokens": 1}, *records])))
    found: dict[str, Any] = msgspec.to_builtins(prompt_file(path))
    return found


@pytest.mark.parametrize("fields", [{}, {"unique_prompts": True}])
def test_a_long_file_gives_each_rank_the_same_prompts_as_if_it_were_in_memory(
    tmp_path: Path, long: dict[str, Any], fields: dict[str, Any]
) -> None:
    some = plan(prompts=long, **fields)
    made, memory = provided(some, tmp_path), load_prompts(some)
    assert made.workload
    assert made.stock == PromptStock(COUNT, COUNT // 2, {"its question is blank": 1})
    assert isinstance(memory, Drawn)
    for rank in range(3):
        stored = read_workload(some, made.workload, rank, 3)
        assert not stored.cacheable, "or all of them would be kept"
        for seq in range(rank, 2 * COUNT, 3):
            assert stored.get(seq) == memory.get(seq)
    assert made.prompts.preflight() == memory.preflight()


def test_a_run_over_a_long_file_may_end_before_a_prompt_comes_again(tmp_path: Path, long: dict[str, Any]) -> None:
    made = provided(plan(prompts=long, no_repeat=True), tmp_path)
    assert made.plan.request_count == COUNT
    assert len(made.notes) == 1


def test_a_short_file_is_read_by_each_rank(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("one\ntwo\n")
    made = provided(plan(prompts=msgspec.to_builtins(prompt_file(tmp_path / "short.txt"))), tmp_path)
    assert (made.workload, made.stock) == (None, PromptStock(2, 2, {}))
    assert made.prompts.cacheable


def test_a_long_file_of_conversations_is_asked_in_conversations(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    said = [{"role": role, "content": "word " * 2000} for role in ("user", "assistant") * 2]
    path.write_text("\n".join(json.dumps({"messages": said}) for _ in range(IN_MEMORY_BYTES // 40_000 + 1)))
    some = plan(prompts=msgspec.to_builtins(prompt_file(path)), conversation={"sessions": 5})
    made = provided(some, tmp_path)
    assert isinstance(made.prompts, Conversations)
    assert made.prompts.script(0).turns == 2
    assert isinstance(read_workload(some, made.workload, 0, 2), Conversations), "a rank's, too"


def test_a_long_file_that_the_endpoint_does_not_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    record = {"messages": [{"role": "user", "content": "word " * 10_000}]}
    path.write_text("\n".join(json.dumps(record) for _ in range(100)))
    file = msgspec.to_builtins(prompt_file(path))
    with pytest.raises(PlanError, match='endpoint "completions" does not take'):
        provided(plan(prompts=file, endpoint="completions"), tmp_path)
    path.write_text("other")
    with pytest.raises(PlanError, match="has changed since the plan was made"):
        provided(plan(prompts=file), tmp_path)
    path.unlink()
    with pytest.raises(PlanError, match="cannot read the prompts"):
        provided(plan(prompts=file), tmp_path)
