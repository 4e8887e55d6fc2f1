"""What was typed, as a plan; what is wrong with it, by the names that were typed."""

import argparse
import json
from pathlib import Path

import pytest

from tokenstorm.cli.commands import add_commands
from tokenstorm.cli.parser import Parser
from tokenstorm.cli.request import request_of
from tokenstorm.errors import UsageError
from tokenstorm.options import add_load_options, plan_of
from tokenstorm.plan import Plan
from tokenstorm.sdk import GroupRequest


def typed(*options: str) -> Plan:
    parser = Parser()
    add_load_options(parser)
    args = parser.parse_args(options)
    return plan_of(argparse.Namespace(**vars(args), url=["http://127.0.0.1:1"], record_chunks=False))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ranks", "20", "--num-clients", "2"], "--ranks: 20 is above --num-clients (2)"),
        (["--arrival", "poisson"], "--arrival: the kind `poisson` needs --requests-per-second"),
        (
            ["--ramp", "1:5", "--requests-per-second", "5"],
            "--requests-per-second: the rates of --arrival are given as well",
        ),
        (["--ramp", "1:5", "--request-count", "5"], "--arrival: a --ramp needs --duration"),
        (["--ramp", "1:5", "--stages", "1x2"], "--arrival: give --ramp or --stages, not both"),
        (["--burstiness", "2", "--requests-per-second", "5"], "--arrival: --burstiness belongs to kind `gamma`"),
        (["--ramp", "0:0"], "--ramp: `from_rps` and `to_rps` cannot both be 0"),
        (["--stages", "0x5"], "--arrival: --stages need one `rps` above 0"),
        (["--stages", "5x0"], "--stages: must be above 0"),
        (["--stages", "5x5", "--duration", "9"], "--duration: must be what the --stages add up to: 5"),
        (["--think-time", "1", "--requests-per-second", "5"], "--think-time: belongs to a closed loop"),
        (["--warmup", "-1"], "--warmup: must be at least 0"),
        (["--drain", "nan"], "--drain: must be at least 0"),
        (["--temperature", "3"], "--temperature: must be at most 2"),
        (["--trace", "t.csv", "--prompt", "x"], "--trace says what is asked: leave --prompt out"),
        (["--trace-speed", "2"], "--trace-speed belongs to --trace"),
        (["--trace", "t.csv", "--trace-speed", "0"], "--trace-speed: must be at least 0.001"),
        (["--trace", "t.csv", "--requests-per-second", "5"], "--requests-per-second: the trace says when"),
        (["--mix", "5/9:3"], "--mix: `low` (9) is above `high` (3)"),
        (["--mix", "5"], "--mix: '5' must look like 500/100@3"),
        (["--output-tokens", "5"], "--output-tokens belongs to prompts that are made up"),
        (["--input-tokens", "5", "--output-tokens", "1:9x"], "--output-tokens '1:9x' must look like"),
        (
            ["--synthetic-words", "9:3"],
            "--input-tokens, --synthetic-words or --synthetic-tokens: `low` (9) is above `high` (3)",
        ),
        (["--synthetic-tokens", "9"], '--endpoint: must be "completions" or "embeddings" for prompts of token ids'),
        (["--prompt", "fine", "--prompt", " \t"], "--prompt: it is blank"),
    ],
)
def test_what_is_wrong_is_told_by_the_options_that_were_typed(options: list[str], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        typed(*options)
    assert str(raised.value).startswith(words)


@pytest.mark.parametrize("key", ["temperature", "seed", "max_tokens_", "ranks", "arrival.ramp"])
def test_the_words_of_an_error_are_not_rewritten_where_they_only_look_like_a_field(key: str, tmp_path: Path) -> None:
    """`temperature` is a key of the line of a file here, and no option that was typed."""
    path = tmp_path / "`num_clients`.jsonl"
    path.write_text('{"prompt": "fine"}\n' + json.dumps({"prompt": "x", key: 1}))
    with pytest.raises(UsageError) as raised:
        typed("--prompts-file", str(path))
    assert str(raised.value).startswith(f"{path}, line 2: there is no field {key!r}:")


def asked_of_a_group(*options: str) -> GroupRequest:
    parser = Parser()
    add_commands(parser.add_subparsers())
    return request_of(parser.parse_args(["group", "create", "abc", *options]))


def test_a_group_is_asked_for_with_the_prompts_that_bench_would_read(tmp_path: Path) -> None:
    """By one reader: JSON lines are known by what they hold, whatever the file is called."""
    path = tmp_path / "prompts.txt"
    path.write_text('\ufeff{"prompt": " one "}\r\n\r\n{"prompt": "two"}\r\n')
    assert asked_of_a_group("--prompts-file", str(path))["prompts"] == [" one ", "two"]
    path.write_text('{"prompt": "one", "max_tokens": 5}')
    with pytest.raises(UsageError, match="put the file into the folder `datasets`"):
        asked_of_a_group("--prompts-file", str(path))
