"""Files of prompts: read by what they hold, whatever their name; refused by the name of what they are instead."""

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tokenstorm.errors import PlanError
from tokenstorm.loadgen.promptfile import Prompt, parse_prompts
from tokenstorm.loadgen.prompts import prompt_file


def read(content: str | bytes, name: str = "prompts.txt") -> list[Prompt]:
    return parse_prompts(content.encode() if isinstance(content, str) else content, name)


def texts(content: str | bytes, name: str = "prompts.txt") -> list[str | None]:
    return [prompt.text for prompt in read(content, name)]


def refusal(content: str | bytes, name: str = "prompts.txt") -> str:
    with pytest.raises(PlanError) as raised:
        read(content, name)
    message = str(raised.value)
    assert message.startswith(name)
    assert message.isprintable()
    return message


def lines(*records: object) -> str:
    return "\n".join(json.dumps(record) for record in records)


def zipped(text: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("prompts.txt", text)
    return whole.getvalue()


CONVERSATION = {"id": "a", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes?"}]}
TRACE = {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
BURST_GPT = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"

OTHER_FORMATS: dict[str, tuple[str | bytes, str]] = {
    "ShareGPT, cut off": (json.dumps([CONVERSATION] * 9, indent=2)[:500], "is a JSON array that looks like ShareGPT"),
    "Alpaca": (json.dumps([{"instruction": "x", "input": "", "output": "y"}]), "a JSON array that looks like instr"),
    "an array of texts": (json.dumps(["one", "two"]), "is a JSON array:"),
    "an array of prompts": (json.dumps([{"prompt": "one"}], indent=1), "is a JSON array:"),
    "an object, indented": (json.dumps({"prompt": "x"}, indent=2), "is a JSON object over several lines:"),
    "an array that breaks off": ("[\n", "is JSON over several lines, and broken"),
    "a table": ("prompt,category\nHello,chat\nBye,chat\n", "is CSV with the columns prompt, category"),
    "a table of unquoted commas": ("prompt,category\nHello, you there,chat\n", "is CSV with the columns prompt, categ"),
    "a table with quotes": ('"act","prompt"\n"Linux","I want\nyou to act"\n', "is CSV with the columns act, prompt"),
    "a table with blanks": ("prompt, answer\na, b\n", "is CSV with the columns prompt, answer"),
    "a table of one column": ("prompt\nHello, you there\nBye\n", "is CSV with the column prompt"),
    "a table with a column of its own": (
        "id,prompt,foo_3\n1,a,x\n2,b,y\n",
        "is CSV with the columns id, prompt, foo_3",
    ),
    "a table by tabs": ("question\tanswer\nWhy, then?\tSo\n", "is CSV with the columns question, answer"),
    "a table by semicolons": ("prompt;answer\na;b\n", "is CSV with the columns prompt, answer"),
    "a table with a mark": ("\ufeffprompt,answer\na,b\n", "is CSV with the columns prompt, answer"),
    "Azure": ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n", "is a trace of Azure"),
    "BurstGPT": (f"{BURST_GPT}\n5,1,2.5,ChatGPT,472,18,490,Conversation log\n", "is a BurstGPT trace"),
    "gzip": (gzip.compress(b"hello\n"), "is compressed by gzip (unpack it)"),
    "zip": (zipped(b"hello\n"), "is a zip archive"),
    "zstd": (b"(\xb5/\xfd\x04\x00\x31\x00\x00hello", "is compressed by zstd"),
    "xz": (b"\xfd7zXZ\x00\x00\x04", "is compressed by xz"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "is a PDF"),
    "a web page": ("<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a page of HTML"),
    "a web page without a doctype": ("\n<html>\n<body>404</body>\n</html>", "is a page of HTML"),
    "YAML": ("prompts:\n  - one\n  - two\n", "is YAML"),
    "Git LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "is a pointer of Git LFS"),
    "UTF-16": ("hello\nyou".encode("utf-16"), "is UTF-16 text, not UTF-8"),
    "UTF-16, big end first": (b"\xfe\xff" + "hello\nyou".encode("utf-16-be"), "is UTF-16 text, not UTF-8"),
    "UTF-16 without a mark": ("hello\nyou".encode("utf-16-le"), "is UTF-16 text, not UTF-8"),
    "UTF-16 without a mark, big end first": ("schön\nyou".encode("utf-16-be"), "is UTF-16 text, not UTF-8"),
    "UTF-32": ("hello".encode("utf-32"), "is UTF-32 text, not UTF-8"),
    "binary": (b"\x7fELF hello\nwo\0rld\n", "line 2: it holds a NUL"),
}


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "json", "parquet"])
@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_another_format_is_refused_by_its_name_whatever_the_file_is_called(name: str, suffix: str) -> None:
    content, words = OTHER_FORMATS[name]
    message = refusal(content, f"prompts.{suffix}")
    assert words in message
    assert "what is read is UTF-8 text with a prompt a line, or JSON lines with `prompt` or `messages`" in message


OTHER_LINES: dict[str, tuple[dict[str, Any], str]] = {
    "OpenAI batch, answered": ({"id": "x", "custom_id": "1", "response": {}}, "output of an OpenAI batch"),
    "Mooncake": (TRACE, "a Mooncake trace"),
    "Bailian": ({**TRACE, "chat_id": 1, "parent_chat_id": -1, "type": "text", "turn": 1}, "a Bailian trace"),
    "AIPerf": ({"text": "x", "output_length": 5}, "turns of AIPerf"),
    "AIPerf, sessions": ({"session_id": "x", "turns": []}, "sessions of AIPerf"),
    "Alpaca": ({"instruction": "x", "input": "", "output": "y"}, "instructions with answers (Alpaca)"),
    "Dolly": (
        {"instruction": "x", "context": "", "response": "y", "category": "z"},
        "instructions with answers (Dolly)",
    ),
    "fine-tuning": ({"prompt": "x", "completion": "y"}, "prompts with completions"),
    "questions": ({"question": "x", "answer": "y"}, "questions with answers"),
    "bodies": ({"model": "m", "messages": [{"role": "user", "content": "x"}]}, "bodies of requests"),
    "a corpus": ({"text": "x"}, "records with a `text`"),
}


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.txt"])
@pytest.mark.parametrize("format_", OTHER_LINES)
def test_a_line_with_other_keys_says_what_it_looks_like(format_: str, name: str) -> None:
    record, words = OTHER_LINES[format_]
    message = refusal(lines(record, record), name)
    assert message.startswith(f"{name}, line 1: there is no field ")
    assert f"this looks like {words}" in message.replace("looks like an ", "looks like ")
    assert "a line is an object with `prompt` or `messages`, and `max_tokens`" in message


def test_pieces_of_real_traces_are_refused_as_what_they_are() -> None:
    """The first lines of the conversation trace of Mooncake, and of the code trace of Azure."""
    mooncake = (
        '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2, 3, 4, 5, 6]}\n'
        '{"timestamp": 0, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14, 15, 16, 17]}\n'
    )
    azure = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        "2023-11-16 18:17:03.9799600,4808,10\r\n"
        "2023-11-16 18:17:04.0319600,3180,8\r\n"
    )
    assert "looks like a Mooncake trace" in refusal(mooncake, "conversation_trace.jsonl")
    assert "is a trace of Azure (CSV)" in refusal(azure, "code.csv")


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world\nWrite a poem, please\n",
        "Translate, then explain, this\nSort, filter, and count\n",
        "cats,dogs\nbirds,fish\n",
        "Text, images, audio\nCats, dogs, birds\n",
        "input, output\n",
        "question, answer me this\nwhy, because\n",
        "a;b\nc;d\n",
        "one\ttwo\nthree\tfour\n",
        "prompt",
        "[INST] Hello [/INST]\n[1] A footnote\n",
        '["a", "b"] is a list in which language?\nAnd {"a": 1}?\n',
        '{name}, what is {"a": 1}?\n{"a": 1} is JSON, is it not?\n',
        '{"a": 1, "b"} is no JSON: why?\nTell me.\n',
        '"Hello," she said.\n"prompt" is a word.\n',
        "<s>[INST] hi\n<|im_start|>user\n<html> is a tag: for what?\n",
        "prompts: what are they?\n- one\n- two\n",
        "# A title\n---\n| a | b |\n",
        "PAR is a word\nBZ too, and PK\n",
        "Question\nWhy is the sky blue?\n",
        "summary,article\nWrite both about the sea.\nThen translate, please.\n",
        "questions:\nWhy is the sky blue?\nWhat is rain?\n",
        "note: be brief\nprompts:\nWhy?\n",
        '"Quoted" and more\n"Hello"\n',
        "<p>one</p>\n<p>two</p>\n",
        "<html> is a tag: for what?\n",
        "one | two\nthree | four\n",
        "|x| is what?\n-- five\n",
        "{'a': 1} is what in Python?\n",
        "[1] and more\n[2]\n",
        ",\nwhat is this sign?\n",
        "日本語、テキスト\n\u2028 and é\n",
    ],
)
def test_a_text_stays_a_text_whatever_signs_are_in_its_lines(text: str) -> None:
    assert texts(text) == [line.strip() for line in text.split("\n") if line.strip()]


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.txt", "prompts", "prompts.json"])
def test_json_lines_are_read_whatever_the_file_is_called(name: str) -> None:
    content = lines({"prompt": "one", "max_tokens": 5}, {"messages": [{"role": "user", "content": "two"}]})
    first, second = read(content, name)
    assert (first.text, first.max_tokens) == ("one", 5)
    assert second.messages == [{"role": "user", "content": "two"}]


def test_what_a_name_promises_is_asked_for() -> None:
    table = "user_says,expected\nhello,hi\n"
    assert "is CSV, by its name" in refusal(table, "prompts.csv")
    assert texts(table) == ["user_says,expected", "hello,hi"]
    assert "line 1: it is not JSON" in refusal("hello\n", "prompts.jsonl")
    assert "is JSON lines of arrays" in refusal('["one"]\n["two"]\n', "prompts.jsonl")


@pytest.mark.parametrize("suffix", ["csv", "TSV", "xml", "html", "yaml", "yml", "toml", "parquet", "xlsx", "db", "tar"])
def test_a_file_that_is_named_as_another_format_is_refused_unless_it_holds_json_lines(suffix: str) -> None:
    message = refusal("Hello, you\nWhy?\n", f"prompts.{suffix}")
    assert ", by its name: what is read is UTF-8 text" in message
    assert message.endswith("name it `.txt` if it is text")
    assert texts('{"prompt": "one"}\n', f"prompts.{suffix}") == ["one"]


TABLES: dict[str, str] = {
    "pandas": ",prompt,response\n0,Hi there,ok\n1,Why,so\n",
    "pandas, columns of its own": ",prompt,foo\n0,Hi there,ok\n1,Why,so\n",
    "pandas, read and written again": "Unnamed: 0,prompt\n0,Hi there\n1,Why\n",
    "a comma at the end": "prompt,answer,\na,b,\nc,d,\n",
    "a comma at the end of the header": "prompt,answer,\na,b\nc,d\n",
    "a hash": "#prompt,answer\na,b\n",
    "a hash and a blank": "# prompt\tanswer\na\tb\n",
    "Excel": "sep=,\nprompt,foo\na,b\n",
    "Excel, semicolons": "sep=;\na;b\nc;d\n",
    "bars": "id|prompt|answer\n1|a|b\n",
    "German": "Frage;Antwort\nWarum?;Darum\n",
    "French": "question,réponse\nPourquoi ?,Parce que\n",
    "Chinese": "提示,回答\n你好,好\n",
    "letters beyond ASCII": "id,prompt,größe\n1,a,b\n2,c,d\n",
    "quotes below one column": 'Question\n"Why, then?"\n"He said ""so"", did he?"\n',
}


@pytest.mark.parametrize("name", ["prompts.txt", "prompts", "prompts.csv"])
@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_refused_however_its_header_is_written(table: str, name: str) -> None:
    assert "is CSV " in refusal(TABLES[table], name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('"Hello there"\n"Why?"\n', "is JSON lines of texts (leave the quotes out"),
        ("[1,2,3]\n[4]\n", "is JSON lines of arrays"),
        ('["human","hi"]\n["human", "why?"]\n', "is JSON lines of arrays"),
        ("{'prompt': 'Hi'}\n{'prompt': \"Don't\"}\n", "is records of Python, not JSON"),
        ("{'prompt': 'Hi'}", "is records of Python, not JSON"),
        ("| prompt | answer |\n|---|:--|\n| a | b |\n", "is a table of Markdown"),
        ("prompt | answer\n--- | ---\na | b\n", "is a table of Markdown"),
        ("<prompts>\n<prompt>Hi</prompt>\n</prompts>\n", "is a page of HTML or XML"),
        ("<html>\n<body>Sign in\n", "is a page of HTML or XML"),
        ("<html lang='en'><head>\n", "is a page of HTML or XML"),
        ("version: 1\nprompts:\n  - one\n", "is YAML"),
        ("prompts: |\n  one\n", "is YAML"),
        ("- prompt: one\n- prompt: two\n", "is YAML"),
        ("prompts:\r\n  - one\r\n", "is YAML"),
        (f'prompt,answer\n"{"x" * 140_000}",b\n', "is CSV with the columns prompt, answer"),
    ],
)
def test_structured_text_is_refused_by_its_name_also_in_a_txt_file(content: str, words: str) -> None:
    assert words in refusal(content, "prompts.txt")


def test_toml_is_refused_unless_the_file_is_named_a_text() -> None:
    toml = '[run]\nprompts = ["one", "two"]\n'
    assert "is TOML" in refusal(toml, "prompts")
    assert texts(toml) == ["[run]", 'prompts = ["one", "two"]']
    assert texts("x = 5\n", "prompts") == ["x = 5"]


def test_one_name_of_a_column_in_small_letters_is_a_header_unless_the_file_is_named_a_text() -> None:
    assert "is CSV with the column question (name it `.txt` if it is text)" in refusal("question\nWhy?\n", "prompts")
    assert texts("question\nWhy?\n") == ["question", "Why?"]


def test_a_number_that_is_none_is_said_without_the_words_of_a_decoder() -> None:
    message = refusal('{"prompt": "a", "max_tokens": 1.5}', "prompts.jsonl")
    assert "line 1: `max_tokens`: expected `int | null`, got `float`" in message
    assert "$" not in message


def test_a_text_with_json_lines_in_it_is_neither() -> None:
    assert "line 3: it is JSON, but line 2 is text" in refusal('\nhello\n{"prompt": "x"}\n')
    assert "line 1: it is not JSON" in refusal('{"prompt": "x"\n{"prompt": "y"}\n')


@pytest.mark.parametrize(
    ("content", "read_as"),
    [
        (b"\xef\xbb\xbfone\ntwo", ["one", "two"]),
        (b"one\r\n\r\ntwo\r\n", ["one", "two"]),
        (b"one\r\r\ntwo\r", ["one", "two"]),
        (b'\xef\xbb\xbf{"prompt": "one"}\r\n{"prompt": "two"}\r\n', ["one", "two"]),
        (b" one \n\t\n \ntwo", ["one", "two"]),
    ],
)
def test_a_mark_of_utf_8_both_ends_of_lines_and_blank_lines_are_no_trouble(content: bytes, read_as: list[str]) -> None:
    assert texts(content) == read_as


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("one\rtwo\rthree", "line 1: it holds a carriage return alone (CR): end lines with LF or CRLF"),
        ("one\ntwo\rthree\n", "line 2: it holds a carriage return alone (CR)"),
        ('{"prompt": "one"}\r{"prompt": "two"}\r', "line 1: it holds a carriage return alone (CR)"),
        ('{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}', "line 2: the key 'prompt' is there twice"),
        ('{"prompt": "a", "max_tokens": 1, "max_tokens": 2}', "line 1: the key 'max_tokens' is there twice"),
        ('{"messages": [{"role": "user", "role": "system", "content": "x"}]}', "line 1: the key 'role' is there twice"),
        ('{"prompt": "a"}\n{"prompt": " "}', "line 2: its `prompt` is blank"),
        ('{"prompt": "\\n\\t\\u2003"}', "line 1: its `prompt` is blank"),
        ('{"messages": [{"role": "user", "content": " "}]}', "line 1: its `messages` are blank"),
        ('{"messages": [{"content": [{"type": "text", "text": "\\n"}]}]}', "line 1: its `messages` are blank"),
        ('{"prompt": "a", "promt": "b"', "line 1: it is not JSON"),
        ('{"messages": [{"role": "user", "content": "x", "n": NaN}]}', "line 1: it is not JSON"),
        ('{"prompt": "a\\ud83d"}', "line 1: it is not JSON"),
        ("caf\xe9\n".encode("latin-1"), "line 1: not UTF-8 text"),
        ("\n \r\n\t", "holds no prompt"),
        ("", "holds no prompt"),
    ],
)
def test_what_would_be_read_otherwise_than_meant_is_refused_with_its_line(content: str | bytes, words: str) -> None:
    assert words in refusal(content, "prompts.jsonl")


def test_messages_without_text_are_prompts_where_they_hold_something_else() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": [image]}]
    (prompt,) = read(lines({"messages": messages}))
    assert prompt.messages == messages


def test_what_is_quoted_from_a_file_is_printable() -> None:
    message = refusal('{"prompt": "x", "\\u001b[2J\\u202e": 1, "\\u0007": 2}', "prompts.jsonl")
    assert r"'\x07', '\x1b[2J\u202e'" in message
    assert r"'\x1b[2J' is there twice" in refusal('{"\\u001b[2J": 1, "\\u001b[2J": 2}', "prompts.jsonl")


def test_many_unknown_keys_and_long_ones_are_cut_short() -> None:
    keys = {f"{number}{'x' * 10_000}": 1 for number in range(1000)}
    assert len(refusal(lines(keys), "prompts.jsonl")) < 1000


def test_the_plan_is_not_made_with_a_file_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": "x", "output": "y"}]))
    with pytest.raises(PlanError, match=r"alpaca\.json is a JSON array that looks like instructions"):
        prompt_file(path)
