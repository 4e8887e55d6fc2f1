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
from tokenstorm.loadgen.datasets import NO_COLUMNS, Columns, read_prompts
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
    with pytest.raises(PlanError, match='"chat" does'):
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
    file, finer = io.BytesIO(), pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))  # than Python's own moments
    parquet.write_table(pa.table({"prompt": ["Why?"], "at": finer}), file)
    with pytest.raises(PlanError, match=r"is a Parquet file that cannot be read: .*[Nn]anosecond"):
        asked(file.getvalue())


def table(text: str, name: str = "data.csv", columns: Columns = NO_COLUMNS) -> list[tuple[str | None, int | None]]:
    found = read_prompts(text.encode(), name, columns).prompts
    return [(prompt.text, prompt.max_tokens) for prompt in found]


@pytest.mark.parametrize(
    "text",
    [
        "id,prompt,output_tokens\n1,Why?,7\n2,How?,\n",
        "\ufeffPrompt;Output Tokens\r\nWhy?;7.0\r\nHow?;\r\n",
        "sep=;\nprompt;max_tokens\nWhy?;7\nHow?;\n",
        "prompt\tcategory\toutput_tokens\nWhy?\tx\t7\nHow?\ty\t\n",
        ",prompt,output_tokens,\n0,Why?,7,\n1,How?,\n",
    ],
)
def test_a_table_with_a_column_of_prompts_is_read_however_it_is_written(text: str) -> None:
    assert table(text) == table(text, "data") == [("Why?", 7), ("How?", None)]


def test_a_prompt_of_a_table_may_have_commas_quotes_and_lines() -> None:
    text = 'prompt,category\n"Hello, you\nsaid ""so""?",chat\nBye,chat\n'
    assert table(text) == [('Hello, you\nsaid "so"?', None), ("Bye", None)]
    assert table("prompt\nHello, you\nBye\n") == [("Hello, you", None), ("Bye", None)]
    assert table(f"id,prompt\n1,{'x' * 200_000}\n2,y\n")[1] == ("y", None)


def test_columns_of_other_names_are_named() -> None:
    """In a table, in Parquet, and in JSON whose records nobody knows."""
    rows = [{"question": "Why?", "tokens": 7, "sys": "Be brief."}, {"question": "How?", "tokens": None, "sys": None}]
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file)
    text = "question,tokens,sys\nWhy?,7,Be brief.\nHow?,,\n"
    columns: Columns = {"prompt": "question", "output_tokens": "tokens", "system": "sys"}
    for data in (text.encode(), file.getvalue(), lines(*rows), json.dumps(rows).encode()):
        first, second = read_prompts(data, "data", columns).prompts
        assert first.messages == [{"role": "system", "content": "Be brief."}, question("Why?")]
        assert (first.max_tokens, second.text, second.max_tokens) == (7, "How?", None)
        with pytest.raises(PlanError, match="data has no column 'ask': there is question, tokens, sys"):
            read_prompts(data, "data", {"prompt": "ask"})
    assert table("user_says,expected\nhello,hi\n", "x.txt", {"prompt": "user_says"}) == [("hello", None)]


def test_parquet_with_a_column_of_prompts_is_read_without_naming_it() -> None:
    file = io.BytesIO()
    parquet.write_table(pa.table({"prompt": ["Why?", None], "category": ["a", "b"]}), file)
    stock = read_prompts(file.getvalue(), "data")
    assert ([one.text for one in stock.prompts], stock.left_out) == (["Why?"], {"its question is blank": 1})


def test_rows_of_a_table_that_cannot_be_asked_are_counted_with_the_reason() -> None:
    text = "prompt,output_tokens\nWhy?,3\nHow, then?,3\n ,3\nWho?,many\n"
    stock = read_prompts(text.encode(), "data.csv")
    assert [prompt.text for prompt in stock.prompts] == ["Why?"]
    assert stock.left_out == {
        "it has another number of fields than the header": 1,
        "its question is blank": 1,
        "its `output_tokens` are no count": 1,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question,answer\nWhy?,So\n", r"is CSV with the columns question, answer: .*--column prompt=NAME"),
        (
            "prompt,answer\n" + "Why?,So\n" * 9 + '"Why?,So\n',
            r"line 11: it is no record of a table: unexpected end of data",
        ),
        ("prompt,answer\nWhy?,So\nWie gr\udce4\udcdf?,So\n", "not UTF-8 text"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4808,10\n", "is a trace of Azure"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        asked(text.encode(errors="surrogateescape"))


def test_columns_belong_to_a_file_of_prompts() -> None:
    with pytest.raises(PlanError, match="belongs to a file of prompts"):
        plan(columns={"prompt": "question"})
