"""Each operation's answers: what they say, what is odd, and what is wrong with them."""

import hashlib
import json
from typing import Any

import msgspec
import pytest

from plans import plan
from tokenstorm.errors import PlanError
from tokenstorm.load_parts import Operation, Slo
from tokenstorm.loadgen.answers import Answer
from tokenstorm.loadgen.openai import body_of
from tokenstorm.loadgen.operations import answers_of
from tokenstorm.loadgen.prompts import Prompt, load_prompts


def answer(endpoint: Operation, *pieces: object, stream: bool = True, status: int = 200) -> Answer:
    """What an answer is read as whose pieces come 10 apart, from 1000 on. What is no bytes is an event, or the whole body."""
    found = answers_of(plan(endpoint=endpoint, stream=stream))(status, None)
    for number, piece in enumerate(pieces):
        found.receive(piece if isinstance(piece, bytes) else as_bytes(piece, stream=stream), 1000 + 10 * number)
    found.finish(status)
    return found


def as_bytes(value: object, *, stream: bool) -> bytes:
    data = json.dumps(value)
    kind = value.get("type", "x") if isinstance(value, dict) else "x"
    return f"event: {kind}\ndata: {data}\n\n".encode() if stream else data.encode()


def failure(found: Answer) -> tuple[str, str] | None:
    return None if found.failure is None else (found.failure.kind, found.failure.detail)


USAGE = {"input_tokens": 7, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}}
CREATED = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}}
WORD = {"type": "response.output_text.delta", "delta": "hi", "sequence_number": 4}
COMPLETED = {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "usage": USAGE}}
START = {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 5, "output_tokens": 1}}}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}
STOPPING = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 2}}
STOP = {"type": "message_stop"}


def test_a_streamed_response_has_the_times_of_its_tokens_and_the_counts_of_its_usage() -> None:
    thought = {"type": "response.reasoning_text.delta", "delta": "hm"}
    found = answer("responses", CREATED, thought, WORD, COMPLETED)
    assert failure(found) is None
    assert (found.first_chunk, found.first_token, found.first_content, found.last_token) == (1000, 1010, 1020, 1020)
    assert (found.prompt_tokens, found.output_tokens, found.chunks, found.finish_reason) == (7, 2, 2, "stop")
    assert (found.server_id, found.hidden_tokens, found.warnings) == ("resp_1", None, frozenset())


def test_reasoning_of_a_response_that_is_only_counted_is_hidden() -> None:
    assert answer("responses", CREATED, WORD, COMPLETED).hidden_tokens == 1


def test_a_streamed_message_has_the_times_of_its_tokens_and_the_counts_of_its_usage() -> None:
    found = answer("messages", START, {"type": "ping"}, TEXT, TEXT, STOPPING, STOP)
    assert failure(found) is None
    assert (found.first_token, found.last_token, found.chunks, found.finish_reason) == (1020, 1030, 2, "max_tokens")
    assert (found.prompt_tokens, found.output_tokens, found.server_id) == (5, 2, "msg_1")


def test_tokens_of_a_message_that_came_from_a_cache_are_tokens_of_the_prompt() -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 1}
    body = {"id": "m", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": usage}
    assert answer("messages", body, stream=False).prompt_tokens == 125


@pytest.mark.parametrize(
    ("endpoint", "events"),
    [("responses", (CREATED, WORD)), ("messages", (START, TEXT, STOPPING))],
    ids=["responses", "messages"],
)
def test_a_stream_without_its_last_event_is_truncated(endpoint: Operation, events: tuple[object, ...]) -> None:
    kind, words = failure(answer(endpoint, *events)) or ("", "")
    assert (kind, "the stream ended" in words) == ("truncated", True)


BAD: list[tuple[Operation, bool, object, str, str]] = [
    (
        "responses",
        True,
        {"type": "response.failed", "response": {"error": {"message": "no GPU"}}},
        "stream_error",
        "no GPU",
    ),
    (
        "responses",
        True,
        {"type": "error", "code": "server_error", "message": "overloaded"},
        "stream_error",
        "overloaded",
    ),
    ("responses", False, {"error": {"message": "too long"}}, "stream_error", "too long"),
    ("responses", False, {"id": "r"}, "malformed", "an answer without an `output`"),
    (
        "messages",
        True,
        {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
        "stream_error",
        "busy",
    ),
    ("messages", False, {"type": "error", "error": {"message": "busy"}}, "stream_error", "busy"),
    ("messages", False, {"id": "m"}, "malformed", "an answer without a `content`"),
    ("embeddings", False, {"object": "list", "data": []}, "malformed", "an answer without embeddings"),
    ("embeddings", False, {"data": [{"embedding": []}]}, "malformed", "an embedding without numbers"),
    ("embeddings", False, {"error": {"message": "no such model"}}, "stream_error", "no such model"),
    ("rerank", False, {"results": []}, "malformed", "an answer without `results`"),
    ("rerank", False, {"results": [{"index": 0}]}, "malformed", "a result without a `relevance_score`"),
    ("score", False, {"data": [{"index": 0}]}, "malformed", "an entry without a `score`"),
    ("score", False, {"message": "bad pair", "code": 400}, "stream_error", "bad pair"),
    ("embeddings", False, b"[1, 2", "malformed", "not an answer in JSON"),
]


@pytest.mark.parametrize(("endpoint", "stream", "body", "kind", "words"), BAD)
def test_an_error_in_a_200_or_an_answer_without_what_was_asked_fails_in_words(
    endpoint: Operation, stream: bool, body: object, kind: str, words: str
) -> None:
    found = failure(answer(endpoint, body, stream=stream)) or ("", "")
    assert (found[0], words in found[1]) == (kind, True), found


@pytest.mark.parametrize("endpoint", ["responses", "messages", "embeddings", "rerank", "score"])
def test_a_refusal_has_its_status_and_the_servers_words(endpoint: Operation) -> None:
    found = answer(endpoint, b'{"error": {"message": "unknown model"}}', status=404)
    assert failure(found) == ("http_404", "unknown model")


def test_a_response_that_is_whole_though_a_stream_was_asked_for_is_told() -> None:
    body = {"id": "r", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "usage": USAGE}
    found = answer(
        "responses", json.dumps({**body, "output": [{"type": "message", "content": [{"text": "a"}]}]}).encode()
    )
    assert (failure(found), found.finish_reason, found.output_tokens) == (None, "length", 2)
    assert found.warnings == {"not_streamed"}


def test_an_answer_without_text_is_odd_and_no_failure() -> None:
    found = answer("messages", {"id": "m", "content": [], "stop_reason": "end_turn"}, stream=False)
    assert (failure(found), list(found.warnings)) == (None, ["no_token"])


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        ("embeddings", {"data": [{"embedding": "AAAA"}], "usage": {"prompt_tokens": 9, "total_tokens": 9}}, 9),
        ("embeddings", {"data": [{"embedding": [0.5, 1]}]}, None),
        ("rerank", {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 30}}, 30),
        ("rerank", [{"index": 0, "score": 0.5}], None),
        ("rerank", {"results": [{"relevance_score": 1}], "meta": {"tokens": {"input_tokens": 12}}}, 12),
        ("score", {"data": [{"score": 0.1}], "usage": {"prompt_tokens": 4}}, 4),
    ],
)
def test_an_answer_in_numbers_succeeds_with_the_tokens_that_were_counted(
    endpoint: Operation, body: object, tokens: int | None
) -> None:
    found = answer(endpoint, body, stream=False)
    assert (failure(found), found.prompt_tokens, found.output_tokens) == (None, tokens, None)
    assert found.warnings == frozenset()


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "be short"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "see"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        ],
    },
]


def test_messages_of_chat_become_those_of_the_operation() -> None:
    prompt = Prompt(messages=MESSAGES)
    anthropic = body_of(plan(endpoint="messages", max_tokens=5), "m", prompt)
    source = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    assert anthropic["system"] == "be short"
    assert anthropic["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image", "source": source}]}
    ]
    openai = body_of(plan(endpoint="responses", max_tokens=5), "m", prompt)
    assert (openai["max_output_tokens"], openai["store"], openai["stream"]) == (5, False, True)
    assert openai["input"][0] == MESSAGES[0]
    assert [part["type"] for part in openai["input"][1]["content"]] == ["input_text", "input_image"]


def bodies(count: int, **fields: Any) -> list[dict[str, Any]]:
    some = plan(**fields)
    source = load_prompts(some)
    return [msgspec.json.decode(msgspec.json.encode(body_of(some, "m", source.get(seq)))) for seq in range(count)]


TEXTS = {"kind": "list", "prompts": [f"text {number}" for number in range(12)]}


def test_each_text_is_embedded_once_before_any_comes_again() -> None:
    asked = bodies(4, endpoint="embeddings", inputs=3, prompts=TEXTS)
    assert sorted(text for body in asked for text in body["input"]) == sorted(TEXTS["prompts"])


def test_a_query_is_held_against_as_many_documents_as_were_asked() -> None:
    (body,) = bodies(1, endpoint="rerank", prompts=TEXTS)
    assert (len(body["documents"]), len({body["query"], *body["documents"]})) == (10, 11)
    (body,) = bodies(1, endpoint="score", prompts=TEXTS)
    assert isinstance(body["text_2"], str)


def test_a_file_says_which_documents_go_with_a_query(tmp_path: Any) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "q", "documents": ["a", "b"]}\n')
    file = {"kind": "file", "path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert bodies(1, endpoint="rerank", prompts=file) == [{"model": "m", "query": "q", "documents": ["a", "b"]}]
    with pytest.raises(PlanError, match='only "rerank" and "score" take'):
        load_prompts(plan(endpoint="chat", prompts=file))
    with pytest.raises(PlanError, match="says which documents"):
        load_prompts(plan(endpoint="rerank", inputs=2, prompts=file))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"endpoint": "embeddings", "slo": Slo(ttft_seconds=1)}, "no request could meet `ttft_seconds`"),
        ({"endpoint": "chat", "stream": False, "slo": Slo(tpot_seconds=1)}, "no request could meet `tpot_seconds`"),
        ({"endpoint": "rerank", "ignore_eos": True}, "generates nothing"),
        ({"endpoint": "chat", "inputs": 2}, "a request of chat has one prompt"),
    ],
)
def test_what_an_operation_has_not_is_refused_before_the_start(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(**fields)
