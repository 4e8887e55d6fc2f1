"""Conversations as users have them: whole runs against an engine that remembers what it was asked."""

import contextlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from running import Run, Stage
from talking import Talker, talker


class Talked(NamedTuple):
    """A run, and the engine that it was sent to."""

    run: Run
    engine: Talker


SESSIONS, TURNS = 1000, 5


def bench(stage: Stage, url: str, *options: str, name: str = "run") -> Run:
    """A bench to its end. How far it is stands on standard error, where the machine is slow."""
    process, run = stage.starting(url, *options, name=name)
    ended = stage.ended(process)
    assert ended.code in {0, 3}, ended
    assert run.stderr == ""
    return run


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory, truthd: Callable[[], Path]) -> Talked:
    """1,000 sessions of 5 turns, with live history, from 2 ranks."""
    stage = Stage(tmp_path_factory.mktemp("thousand"), truthd)
    with contextlib.closing(stage), talker() as engine:
        options = (
            "--turns",
            str(TURNS),
            "--sessions",
            str(SESSIONS),
            "--ranks",
            "2",
            "--num-clients",
            "40",
            "--seed",
            "7",
        )
        lengths = ("--synthetic-words", "3:9", "--output-tokens", "5:40", "--turn-think", "exponential:0.002")
        run = bench(stage, engine.url, *options, *lengths, "--ramp-seconds", "0", name="thousand")
    return Talked(run, engine)


def test_the_text_that_is_sent_is_exactly_the_conversation_so_far(thousand: Talked) -> None:
    found = thousand.engine.conversations()
    assert len(found) == SESSIONS
    for turns in found.values():
        assert len(turns) == TURNS
        for before, after in pairwise(turns):
            heard = {"role": "assistant", "content": before.answer}
            assert after.messages[:-1] == [*before.messages, heard]
            assert after.messages[-1]["role"] == "user"


def test_each_turn_comes_after_its_own_answer(thousand: Talked) -> None:
    for turns in thousand.engine.conversations().values():
        assert all(after.received > before.ended for before, after in pairwise(turns))
    sessions: dict[int, dict[int, dict[str, Any]]] = {}
    for line in thousand.run.lines():
        at = line["conversation"]
        sessions.setdefault(at["session"], {})[at["turn"]] = line
    assert sorted(sessions) == list(range(SESSIONS))
    for number, lines in sessions.items():
        assert {line["rank"] for line in lines.values()} == {number % 2}  # a session lives on one rank
        assert [lines[turn]["conversation"]["session_end"] for turn in range(1, 6)] == [None] * 4 + ["completed"]
        assert all(lines[turn + 1]["scheduled"] >= lines[turn]["done"] for turn in range(1, TURNS))


def test_the_summary_tells_sessions_and_turns(thousand: Talked) -> None:
    summary = thousand.run.summary
    sessions, turns = summary["sessions"], summary["turns"]
    assert (sessions["started"], sessions["completed"]) == (SESSIONS, SESSIONS)
    assert (sessions["failed"], sessions["too_long"], sessions["cut"], sessions["turns_cut"]) == (0, 0, 0, 0)
    assert [(turn["turn"], turn["counts"]["succeeded"]) for turn in turns] == [(n, SESSIONS) for n in range(1, 6)]
    prompts = [turn["prompt_tokens"]["mean"] for turn in turns]
    assert prompts == sorted(prompts)
    assert prompts[-1] > 3 * prompts[0]
    assert all(0.3 < turn["cached"] <= 0.5 for turn in turns)
    assert all(turn["metrics"]["ttft_seconds"]["count"] == SESSIONS for turn in turns)


def test_the_lines_alone_tell_the_same_as_the_ranks(thousand: Talked, stage: Stage) -> None:
    ended = stage.command("report", str(thousand.run.root), "--rebuild", "--json")
    assert ended.code in {0, 3}, ended
    again, summary = json.loads(ended.out), thousand.run.summary
    assert again["sessions"] == summary["sessions"]
    assert [turn["counts"] for turn in again["turns"]] == [turn["counts"] for turn in summary["turns"]]


def said(engine: Talker) -> set[str]:
    """What users said in each session, whatever the answers were."""
    return {
        json.dumps([message for message in turns[-1].messages if message["role"] != "assistant"])
        for turns in engine.conversations().values()
    }


@pytest.mark.parametrize("arriving", [(), ("--sessions-per-second", "100", "--arrival", "poisson")])
def test_1_and_4_ranks_make_the_same_sessions(stage: Stage, arriving: tuple[str, ...]) -> None:
    found = []
    for ranks in ("1", "4"):
        with talker() as engine:
            bench(
                stage,
                engine.url,
                *("--turns", "1:4", "--sessions", "40", "--ranks", ranks, "--num-clients", "8", "--seed", "11"),
                *("--shared-prefix", "3x20+2:6", "--first-tokens", "10:20", "--output-tokens", "5:9", *arriving),
                name=f"ranks-{ranks}-{len(arriving)}",
            )
        found.append(said(engine))
        lengths = {body["max_tokens"] for body in (asked.body for asked in engine.asked)}
        assert lengths <= set(range(5, 10))
    assert found[0] == found[1]
    assert len(found[0]) == 40


def test_a_failed_turn_ends_its_session_and_the_rest_counts_as_cut(stage: Stage) -> None:
    with talker(fails="stop") as engine:
        path = stage.folder / "talks.jsonl"
        good = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "x"},
            {"role": "user", "content": "two"},
        ]
        bad = [
            good[0],
            good[1],
            {"role": "user", "content": "stop"},
            good[1],
            {"role": "user", "content": "never asked"},
        ]
        path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in (good, bad)))
        run = bench(
            stage,
            engine.url,
            "--prompts-file",
            str(path),
            "--turns",
            "all",
            "--sessions",
            "10",
            "--num-clients",
            "2",
            "--ranks",
            "1",
        )
    sessions = run.summary["sessions"]
    assert (sessions["started"], sessions["completed"], sessions["failed"]) == (10, 5, 5)
    assert (sessions["cut"], sessions["turns_cut"]) == (0, 5)
    assert not any("never" in asked.messages[-1]["content"] for asked in engine.asked)


def test_recorded_answers_are_said_instead_of_the_engines(stage: Stage) -> None:
    with talker() as engine:
        path = stage.folder / "sharegpt.json"
        turns = [("human", "hi"), ("gpt", "the recorded answer"), ("human", "and then?"), ("gpt", "the end")]
        path.write_text(
            json.dumps([{"id": "a", "conversations": [{"from": who, "value": what} for who, what in turns]}])
        )
        run = bench(
            stage,
            engine.url,
            *(
                "--prompts-file",
                str(path),
                "--turns",
                "all",
                "--history",
                "recorded",
                "--sessions",
                "3",
                "--ranks",
                "1",
            ),
        )
    second = [asked.messages for asked in engine.asked if len(asked.messages) > 1]
    assert (
        second
        == [
            [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "the recorded answer"},
                {"role": "user", "content": "and then?"},
            ]
        ]
        * 3
    )
    assert run.summary["sessions"]["completed"] == 3


def test_a_conversation_that_grows_too_long_for_the_model_ends_and_is_counted(stage: Stage) -> None:
    with talker(context=200) as engine:
        run = bench(
            stage,
            engine.url,
            *("--turns", "50", "--synthetic-words", "20", "--max-tokens", "10", "--sessions", "6", "--ranks", "2"),
            "--no-stream",
        )
    summary = run.summary
    assert (summary["counts"]["failed"], summary["sessions"]["too_long"]) == (0, 6)
    assert summary["sessions"]["turns_cut"] == 6 * 50 - summary["counts"]["sent"]
    assert any(len(asked.messages) > 3 for asked in engine.asked)


def test_sessions_that_the_end_of_the_window_cuts_are_counted(stage: Stage) -> None:
    with talker() as engine:
        run = bench(
            stage,
            engine.url,
            *("--turns", "1000", "--synthetic-words", "2", "--sessions-per-second", "20", "--turn-think", "0.05"),
            *("--duration", "1", "--ranks", "2", "--num-clients", "4", "--drain", "5"),
        )
    sessions = run.summary["sessions"]
    assert sessions["started"] + sessions["unsent"] == 20
    assert sessions["cut"] == sessions["started"] > 0
    assert sessions["requested_per_second"] == 20
    assert run.summary["rates"]["requested_rps"] is None


def test_what_makes_no_sense_is_refused_with_what_to_do(stage: Stage) -> None:
    for options, words in (
        (("--turns", "3", "--requests-per-second", "5"), "--sessions-per-second"),
        (("--turns", "3", "--request-count", "5"), "--sessions"),
        (("--turns", "3", "--think-time", "5"), "--turn-think"),
        (("--turns", "3", "--no-repeat"), "--sessions"),
        (("--turns", "3", "--endpoint", "completions"), "chat"),
        (("--turns", "all"), "--turns"),
        (("--turns", "3", "--history", "recorded"), "recorded"),
        (("--sessions", "3"), "--turns"),
        (("--turns", "3", "--ramp", "1:5"), "--sessions-per-second"),
        (("--turns", "3", "--arrival", "poisson"), "--sessions-per-second"),
    ):
        ended = stage.command("bench", "http://127.0.0.1:9", *options)
        assert ended.code == 2, (options, ended)
        assert words in ended.err
        assert "Traceback" not in ended.err


def test_a_file_of_questions_needs_a_number_of_turns(stage: Stage) -> None:
    path = Path(stage.folder / "questions.txt")
    path.write_text("one?\ntwo?\n")
    ended = stage.command("bench", "http://127.0.0.1:9", "--prompts-file", str(path), "--turns", "all")
    assert ended.code == 2, ended
    assert "--turns" in ended.err
