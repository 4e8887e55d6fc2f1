"""Prompts that come again, within a run or from an earlier one, are told before the start; a run may end before that."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from plans import plan
from tokenstorm.errors import PlanError
from tokenstorm.loadgen.arrivals import scheduled_count
from tokenstorm.loadgen.prompts import prompt_file
from tokenstorm.loadgen.repeated import LOOKED_AT, end_before_repeats, sent_before
from tokenstorm.loadgen.schedule import ClosedLoop
from tokenstorm.plan import Plan, encode_plan
from tokenstorm.runs import RunPaths

FILE = {"kind": "file", "path": "p.txt", "sha256": "0"}
RATE = {"requests_per_second": 10.0, "duration_seconds": 5.0}
COUNT = {"request_count": 50, "duration_seconds": None}


@pytest.mark.parametrize("load", [RATE, {**RATE, "request_count": 50}, {**COUNT, "requests_per_second": 3.0}, COUNT])
def test_a_dataset_that_is_too_small_for_the_run_is_said(load: dict[str, Any]) -> None:
    some = plan(prompts=FILE, **load)
    kept, said = end_before_repeats(some, 20)
    assert kept is some
    assert said
    assert "about 50 requests take 20 prompts, so that these come again, up to 3 times each" in said
    assert end_before_repeats(some, 50) == (some, None)


def test_prompts_that_are_meant_to_repeat_are_not_told_of() -> None:
    assert end_before_repeats(plan(**RATE), 1)[1] is None, "a list that was typed"
    assert end_before_repeats(plan(prompts=FILE, **RATE), 0)[1] is None, "each request has its own"
    assert end_before_repeats(plan(prompts=FILE, unique_prompts=True, **RATE), 1)[1] is None, (
        "no cache finds a salted one"
    )
    assert end_before_repeats(plan(prompts=FILE, duration_seconds=5.0), 1)[1] is None, "nobody knows: a closed loop"


@pytest.mark.parametrize("kind", ["constant", "poisson"])
def test_a_run_that_is_not_to_repeat_ends_when_its_prompts_are_used_up(kind: str) -> None:
    some = plan(prompts=FILE, no_repeat=True, warmup_seconds=1.0, arrival={"kind": kind}, **RATE)
    kept, said = end_before_repeats(some, 35)
    assert sum(scheduled_count(kept, 0, 1, kept.window_end_ns or 0)) == 35
    assert kept.request_count is not None
    assert said == (
        f"the run ends after {kept.request_count} measured requests at the latest: none of the 35 prompts is to come again"
    )
    assert end_before_repeats(some, 1000)[1] is None


def test_each_rank_of_a_closed_loop_ends_with_its_share_of_the_prompts() -> None:
    kept, said = end_before_repeats(plan(prompts=FILE, no_repeat=True, ranks=3, ramp_seconds=0.0), 10)
    assert said
    asked = []
    for rank in range(3):
        loop = ClosedLoop(kept, rank, 3)
        while loop.next_at is not None:
            loop.fall_due()
            asked.append(loop.take()[0])
            loop.answered(loop.next_at or 0, failed=False)
    assert sorted(asked) == [*range(10)]


def test_a_run_that_cannot_keep_from_repeating_is_refused() -> None:
    with pytest.raises(PlanError, match="the warm-up alone takes all 10 prompts"):
        end_before_repeats(plan(prompts=FILE, no_repeat=True, warmup_seconds=1.0, **RATE), 10)
    with pytest.raises(PlanError, match="`no_repeat`: needs a rate, or no warm-up"):
        plan(prompts=FILE, no_repeat=True, warmup_seconds=1.0)


def begun(folder: Path, number: int, **fields: Any) -> tuple[Plan, RunPaths]:
    """A run that was begun."""
    some = plan(run_id=f"{number:032x}", **fields)
    paths = RunPaths(folder / f"run{number}")
    paths.root.mkdir()
    paths.plan.write_bytes(encode_plan(some))
    paths.timeline.write_text("{}\n")
    return some, paths


@pytest.mark.parametrize(
    ("fields", "is_said"),
    [
        ({}, True),
        ({"num_clients": 9, "max_tokens": 7}, True),
        ({"seed": 2}, False),
        ({"prompts": {"kind": "list", "prompts": ["other"]}}, False),
        ({"targets": [{"replica": "0", "url": "http://other"}]}, False),
        ({"cache": "salt"}, False),
        ({"cache": "reset"}, False),
        ({"unique_prompts": True}, False),
    ],
)
def test_the_same_seed_twice_for_the_same_engine_is_said(tmp_path: Path, fields: dict[str, Any], is_said: bool) -> None:
    begun(tmp_path, 1)
    said = sent_before(*begun(tmp_path, 2, **fields))
    assert (said is not None) == is_said
    if said:
        assert said.startswith("the run run1 sent the same prompts to the same address with the same seed")


def test_only_the_latest_runs_that_were_begun_are_looked_at(tmp_path: Path) -> None:
    _, old = begun(tmp_path, 0)
    os.utime(old.root, (1, 1))
    for number in range(1, LOOKED_AT + 1):
        begun(tmp_path, number, seed=2)
    assert sent_before(*begun(tmp_path, 900)) is None
    _, never = begun(tmp_path, 901, seed=3)
    never.timeline.unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.json").write_text(json.dumps({"schema": 1}))
    assert sent_before(*begun(tmp_path, 902, seed=3)) is None
    assert sent_before(plan(), RunPaths(tmp_path / "nowhere" / "run")) is None


def test_the_first_prompt_of_a_file_is_not_taken_for_another_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n")
    file = prompt_file(tmp_path / "p.txt")
    begun(tmp_path, 1, prompts={**FILE, "path": file.path, "sha256": file.sha256})
    assert sent_before(*begun(tmp_path, 2, prompts={**FILE, "path": file.path, "sha256": "1"})) is None
