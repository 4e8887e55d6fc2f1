"""Sessions of conversations, without a clock or a socket: what is due when, what it says, and what is left out."""

import json
from typing import Any

import msgspec
import pytest

from plans import plan
from tokenstorm.errors import PlanError
from tokenstorm.loadgen.conversations import Conversations
from tokenstorm.loadgen.datasets import Stock, read_prompts
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.prompts import conversations_of, talks_of
from tokenstorm.loadgen.sessions import Sessions
from tokenstorm.plan import Plan
from tokenstorm.result import CENSORED, SCHEMA, Failure, Result

SECOND = 10**9
MADE_UP = {"kind": "synthetic", "unit": "words", "length": {"kind": "uniform", "low": 2, "high": 9}}


def talks(conversation: dict[str, Any], **fields: Any) -> Plan:
    usual = {"prompts": MADE_UP, "requests_per_second": None, "num_clients": 1, "ramp_seconds": 0.0}
    return plan(**{**usual, "conversation": conversation, **fields})


def line(seq: int, at: int, done: int, **fields: Any) -> Result:
    """The line of a request that was answered, or failed."""
    return Result(SCHEMA, seq, 0, "0", "measured", at, at, sent=at, done=done, http_status=200, **fields)


def begun(some: Plan, **more: Any) -> tuple[Sessions, Conversations]:
    says = Conversations(some)
    return Sessions(some, 0, 1, says, **more), says


def taken(sessions: Sessions, says: Conversations) -> tuple[int, int, list[dict[str, Any]]]:
    """Let the next turn fall due and be sent: its number, its time and its messages."""
    sessions.fall_due()
    seq, at = sessions.take()
    dialogue = says.get(seq).dialogue
    assert dialogue is not None
    return seq, at, json.loads(bytes(dialogue))


def test_a_turn_is_due_when_its_user_has_thought_about_the_answer_and_says_that_again() -> None:
    sessions, says = begun(talks({"turns": 2, "think_seconds": 3, "sessions": 2}))
    seq, at, first = taken(sessions, says)
    assert (seq, at, sessions.next_at, sessions.exhausted) == (0, 0, None, False)
    ended = sessions.ended(line(0, 0, SECOND), ["He", 'llo "you"', "\ud800"])
    assert ended.conversation is not None
    assert (ended.conversation.turn, ended.conversation.turns, ended.conversation.session_end) == (1, 2, None)
    assert sessions.next_at == 4 * SECOND
    seq, at, second = taken(sessions, says)
    assert (seq, at) == (1, 4 * SECOND)
    assert second[:-1] == [*first, {"role": "assistant", "content": 'Hello "you"?'}]
    ended = sessions.ended(line(1, at, 5 * SECOND), [])
    assert ended.conversation is not None
    assert ended.conversation.session_end == "completed"
    assert sessions.next_at == 5 * SECOND  # the client begins its next session at once
    assert not sessions.exhausted


def test_a_run_of_so_many_sessions_is_over_when_their_last_turns_are_sent() -> None:
    sessions, says = begun(talks({"turns": 2, "sessions": 1}))
    taken(sessions, says)
    assert not sessions.exhausted
    sessions.ended(line(0, 0, SECOND), ["x"])
    taken(sessions, says)
    assert sessions.exhausted


@pytest.mark.parametrize(("kind", "end"), [("http_500", "failed"), (CENSORED, None)])
def test_after_a_failed_turn_nobody_goes_on(kind: str, end: str | None) -> None:
    sessions, says = begun(talks({"turns": 5, "sessions": 1}))
    taken(sessions, says)
    ended = sessions.ended(line(0, 0, SECOND, error=Failure(kind, "")), None)
    assert ended.conversation is not None
    assert ended.conversation.session_end == end
    assert (sessions.next_at, sessions.exhausted) == (None, True)


def test_a_session_ends_before_it_is_longer_than_the_model_takes() -> None:
    sessions, says = begun(talks({"turns": 5, "sessions": 1}, max_tokens=50), context=200)
    taken(sessions, says)
    assert sessions.ended(line(0, 0, SECOND, prompt_tokens=60, output_tokens=40), ["x"]).conversation is not None
    taken(sessions, says)
    ended = sessions.ended(line(1, SECOND, 2 * SECOND, prompt_tokens=105, output_tokens=40), ["x"])
    assert ended.conversation is not None
    assert ended.conversation.session_end == "too_long"
    assert sessions.exhausted


def test_what_is_due_and_was_not_sent_is_told_with_its_turn_and_what_is_not_due_is_not() -> None:
    some = talks({"turns": 3, "think_seconds": 2, "sessions_per_second": 1}, duration_seconds=5.0)
    sessions, says = begun(some)
    taken(sessions, says)  # session 0, at 0 s
    sessions.ended(line(0, 0, SECOND), ["x"])  # its second turn is due at 3 s
    rest = list(sessions.rest(5 * SECOND))
    told = sorted((one.first // SECOND, one.turn.session, one.turn.turn) for one in rest if one.turn)
    assert told == [(1, 1, 1), (2, 2, 1), (3, 0, 2), (3, 3, 1), (4, 4, 1)]
    assert len({one.seq for one in rest} | {0}) == 6


def test_a_session_says_and_thinks_the_same_whoever_runs_it() -> None:
    some = talks({"turns": {"kind": "uniform", "low": 1, "high": 5}, "first": 20}, seed=5)
    one, other = Conversations(some), Conversations(some)
    numbers = range(50)
    backwards = {number: [*other.script(number).steps] for number in reversed(numbers)}
    assert all([*one.script(number).steps] == backwards[number] for number in numbers)
    assert {len(steps) for steps in backwards.values()} == {1, 2, 3, 4, 5}
    assert all(len(json.loads(steps[0].said)["content"].split()) == 20 for steps in backwards.values())


def test_a_salt_is_of_the_session_and_not_of_the_turn() -> None:
    texts = [[*Conversations(talks({"turns": 2}, unique_prompts=salted)).script(0).steps] for salted in (False, True)]
    assert texts[0] != texts[1]
    listed = conversations_of(talks({"turns": 3}, unique_prompts=True, prompts={"kind": "list", "prompts": ["one?"]}))
    said = [json.loads(step.said)["content"] for step in listed.script(0).steps]
    assert said[0].endswith("] one?")
    assert said[1:] == ["one?", "one?"]


def test_what_cannot_be_had_as_a_conversation_is_left_out_by_its_reason() -> None:
    turns = [("human", "hi"), ("gpt", "yes"), ("human", "why?"), ("gpt", "so")]
    records = [turns, turns[1:], [("human", " "), ("gpt", "x")], [("parrot", "hi")]]
    data = json.dumps([{"conversations": [{"from": who, "value": what} for who, what in one]} for one in records])
    stock = read_prompts(data.encode(), "f.json", whole=True)
    some = talks({}, prompts={"kind": "file", "path": "f.json", "sha256": "0"})
    found = talks_of(some, stock, "f.json")
    assert found.script(0).turns == 2
    assert found.count() == (1, 1)
    assert found.left_out == {
        "nobody knows who 'parrot' is in it": 1,
        "a question of it is blank": 1,
        "it does not begin with a question": 1,
    }


def test_a_conversation_with_tools_is_had_with_its_recorded_answers_alone() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}], "content": None}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        call,
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    stock = Stock([Prompt(messages=messages)])
    file = {"kind": "file", "path": "f.jsonl", "sha256": "0"}
    with pytest.raises(PlanError, match="recorded history"):
        talks_of(talks({}, prompts=file), stock, "f.jsonl")
    recorded = talks_of(talks({"history": "recorded"}, prompts=file), stock, "f.jsonl")
    steps = [*recorded.script(0).steps]
    assert [json.loads(step.said)["role"] for step in steps] == ["user", "tool"]
    assert msgspec.json.decode(steps[0].answer or b"") == call
