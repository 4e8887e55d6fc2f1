"""Whole runs against an engine that answers as servers were seen to: no answer ends a rank, and cuts change nothing."""

from typing import Any

import pytest

from oddserver import ANSWERS, ENDS, kind_of, odd_server
from running import Run, Stage

TIMES = frozenset(
    [
        "scheduled",
        "slot_free",
        "sent",
        "connected",
        "first_chunk",
        "first_token",
        "first_content",
        "last_token",
        "done",
        "coalesced",
        "resent",
    ]
)
EACH_ONCE = len(ANSWERS) * len(ENDS)


def odd_run(stage: Stage, seed: int, name: str) -> Run:
    with odd_server(seed) as url:
        options = ("--num-clients", "40", "--max-tokens", "3", "--timeout", "2", "--seed", "1")
        return stage.bench(url, *options, "--request-count", str(EACH_ONCE), "--duration", "60", name=name)


def recorded(run: Run) -> dict[int, dict[str, Any]]:
    """What was recorded of each request, but for the times."""
    return {line["seq"]: {name: value for name, value in line.items() if name not in TIMES} for line in run.lines()}


@pytest.mark.parametrize("seed", [1, 2])
def test_no_answer_ends_a_rank_and_what_is_recorded_does_not_depend_on_how_it_was_cut(stage: Stage, seed: int) -> None:
    first, second = odd_run(stage, 2 * seed, "first"), odd_run(stage, 2 * seed + 1, "second")
    for run in (first, second):
        counts = run.summary["counts"]
        assert counts["scheduled"] == counts["sent"] == counts["succeeded"] + counts["failed"] == EACH_ONCE
        assert "ranks_lost" not in run.reasons
        assert "internal" not in run.reasons
        assert len(run.lines()) == EACH_ONCE
    one, other = recorded(first), recorded(second)
    differ = {kind_of(seq): (one[seq], other[seq]) for seq in one if one[seq] != other[seq]}
    assert differ == {}


def test_every_failure_has_words_and_every_success_was_proven_complete(stage: Stage) -> None:
    by_name: dict[str, set[str]] = {}
    for seq, line in recorded(odd_run(stage, 7, "run")).items():
        name, end = kind_of(seq)
        if end == "stay":
            error = line["error"]
            assert error is None or error["detail"].strip()
            by_name[name] = {error["kind"] if error else "ok", *(line["warnings"] or ())}
    expected = {
        "well": {"ok"},
        "no end": {"truncated"},
        "usage everywhere, no end": {"truncated"},
        "huge usage": {"ok", "usage"},
        "negative usage": {"ok", "usage"},
        "error": {"stream_error"},
        "error event": {"stream_error"},
        "error line": {"stream_error"},
        "error, no end": {"stream_error"},
        "too many tokens": {"ok", "usage"},
        "gave up": {"stream_error"},
        "detail": {"stream_error", "no_token"},
        "whole": {"ok", "not_streamed"},
        "empty": {"ok", "no_token"},
        "tools": {"ok"},
        "surrogate": {"ok"},
        "not UTF-8": {"malformed"},
        "mark": {"ok"},
        "CR": {"ok"},
        "101": {"malformed"},
        "redirect": {"http_302"},
        "twice": {"ok"},
    }
    assert {name: by_name[name] for name in expected} == expected


def test_a_run_whose_answers_are_all_empty_is_not_valid_and_knows_no_token(stage: Stage) -> None:
    with odd_server(1, lambda _seq: (ANSWERS["empty"], "stay")) as url:
        run = stage.bench(url, "--request-count", "20", "--duration", "20", codes=(3,))
    assert run.summary["verdict"]["state"] == "invalid"
    assert "no_tokens" in run.reasons
    assert run.summary["rates"]["output_tokens_per_second"] is None
    assert {*run.summary["tokens"].values()} == {None}
