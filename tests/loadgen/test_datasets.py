"""Datasets that people publish are read as they come; what cannot be asked is left out and counted with the reason."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from plans import plan
from tokenstorm.errors import PlanError
from tokenstorm.loadgen.datasets import read_prompts
from tokenstorm.loadgen.openai import body_of
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.prompts import load_prompts, prompt_file

SHAREGPT: list[dict[str, Any]] = [
    {"id": "a", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
    {"id": "b", "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "How?"}]},
    {"id": "c", "conversations": [{"from": "gpt", "value": "Hello!"}, {"from": "human", "value": "Hi"}]},
    {"id": "d", "conversations": [{"from": "human", "value": "  "}]},
    {"id": "e", "conversations": []},
]
WILDCHAT = [
    {
        "conversation_hash": "x",
        "model": "m",
        "conversation": [{"role": "user", "content": "Why?", "language": "English"}],
    },
    {"conversation_hash": "y", "model": "m", "conversation": [{"role": "assistant", "content": "So."}]},
]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Why?"}], "top_p": 0.5}


def lines(*records: object) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


def asked(data: bytes) -> list[Prompt]:
    return read_prompts(data, "data").prompts


def question(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    "data", [json.dumps(SHAREGPT).encode(), json.dumps(SHAREGPT, indent=2).encode(), lines(*SHAREGPT)]
)
def test_the_first_question_of_a_sharegpt_conversation_is_asked_with_what_the_system_said(data: bytes) -> None:
    stock = read_prompts(data, "data")
    assert [prompt.messages for prompt in stock.prompts] == [
        [question("Why?")],
        [{"role": "system", "content": "Be brief."}, question("How?")],
    ]
    assert [prompt.index for prompt in stock.prompts] == [0, 1]
    assert stock.left_out == {"it does not begin with a question": 2, "its question is blank": 1}


def test_wildchat_and_lmsys_are_read_from_json_lines_and_from_parquet_alike() -> None:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(WILDCHAT), file)
    for data in (lines(*WILDCHAT), file.getvalue()):
        stock = read_prompts(data, "data")
        assert [prompt.messages for prompt in stock.prompts] == [[question("Why?")]]
        assert stock.left_out == {"it does not begin with a question": 1}


def test_vllms_custom_dataset_tells_how_long_an_answer_is() -> None:
    data = lines(
        {"prompt": "a"},
        {"prompt": "b", "output_tokens": 7},
        {"prompt": " ", "output_tokens": 7},
        {"prompt": "c", "output_tokens": 0},
    )
    stock = read_prompts(data, "data")
    assert [(prompt.text, prompt.max_tokens) for prompt in stock.prompts] == [("a", None), ("b", 7)]
    assert stock.left_out == {"its question is blank": 1, "its `output_tokens` are no count": 1}


def test_the_body_of_a_batch_line_is_sent_as_it_is() -> None:
    """But for whether it streams, which is how answers are read, and for a model that is named."""
    batch = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    other = {"custom_id": "2", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
    stock = read_prompts(lines(batch, other, {"custom_id": "3", "body": {}}), "data")
    assert stock.left_out == {"its `url` is '/v1/embeddings'": 1, "it has no `body`": 1}
    (prompt,) = stock.prompts
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    assert body_of(plan(), "served", prompt) == {**CHAT, **usage}
    assert body_of(plan(stream=False), "served", prompt) == {**CHAT, "stream": False}
    assert body_of(plan(model="mine"), "mine", prompt) == {**CHAT, **usage, "model": "mine"}
    assert body_of(plan(extra_body={"top_p": None}), "served", prompt).get("top_p") is None


def test_a_batch_is_drawn_salted_and_tried_like_any_prompts(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    path.write_bytes(lines({"custom_id": "1", "body": CHAT}, {"custom_id": "2", "body": {}}))
    file = msgspec.to_builtins(prompt_file(path))
    source = load_prompts(plan(prompts=file))
    assert (source.count(), source.left_out) == ((1, 1), {"it has no `body`": 1})
    tried = source.preflight().body
    assert tried
    assert tried["messages"][0]["content"] != "Why?"
    salted = load_prompts(plan(prompts=file, unique_prompts=True)).get(0).body
    assert salted
    assert salted["messages"][0]["content"].endswith("] Why?")
    with pytest.raises(PlanError, match='only endpoint "chat" takes'):
        load_prompts(plan(prompts=file, endpoint="completions"))


def test_a_file_with_nothing_to_ask_says_what_its_records_lack() -> None:
    with pytest.raises(PlanError, match=r"holds nothing that can be asked \(1 records: its question is blank\)"):
        asked(lines(SHAREGPT[3]))


def test_a_record_with_odd_values_is_left_out_alone() -> None:
    """Half of a surrogate pair is valid JSON, and no text: it would end the run when it is sent."""
    half = b'{"conversations": [{"from": "human", "value": "Why \\ud83d?"}]}\n'
    good = {"conversations": [{"from": "system", "value": None}, {"from": "human", "value": "Why?"}]}
    stock = read_prompts(half + lines({"conversations": [{"from": ["human"], "value": "Why?"}]}, good), "data")
    assert [prompt.messages for prompt in stock.prompts] == [[{"role": "user", "content": "Why?"}]]
    assert stock.left_out == {"its text cannot be sent: it is not UTF-8": 1, "it does not begin with a question": 1}
    counts = (True, 0, 10**40, 5)
    told = read_prompts(lines(*({"prompt": "Why?", "output_tokens": count} for count in counts)), "data")
    assert ([prompt.max_tokens for prompt in told.prompts], told.left_out.total()) == ([5], 3)


def test_a_parquet_file_that_is_broken_or_holds_something_else_is_refused() -> None:
    with pytest.raises(PlanError, match="is a Parquet file that cannot be read"):
        asked(b"PAR1\x15\x04\x15\x10" + bytes(20) + b"PAR1")
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([{"a": 1}]), file)
    with pytest.raises(PlanError, match="is a Parquet file"):
        asked(file.getvalue())
