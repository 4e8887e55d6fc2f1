"""The command line of a report does the same run again."""

import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plans import plan as made
from tokenstorm.cli.commands import add_commands
from tokenstorm.cli.parser import Parser
from tokenstorm.options import plan_of
from tokenstorm.plan import Plan
from tokenstorm.report.again import command_line, not_default

STAGES = [{"rps": 0.125, "seconds": 2.5}, {"rps": 200 / 3, "seconds": 1}]


def typed(plan: Plan) -> Plan:
    """The plan that the command line asks for, with what no command line says from the first one."""
    parser = Parser()
    add_commands(parser.add_subparsers())
    args = parser.parse_args(shlex.split(command_line(plan) or "")[1:])
    return msgspec.structs.replace(plan_of(args), run_id=plan.run_id)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "num_clients": 7,
            "requests_per_second": 2.5,
            "duration_seconds": 12,
            "warmup_seconds": 0.25,
            "drain_seconds": 3,
        },
        {"requests_per_second": 10, "arrival": {"kind": "gamma", "burstiness": 0.5}},
        {"arrival": {"stages": STAGES}, "duration_seconds": 3.5},
        {"arrival": {"ramp": {"from_rps": 0.00001, "to_rps": 20}}},
        {"slo": {"ttft_seconds": 0.5, "tpot_seconds": 0.0125, "share": 0.95}},
        {"slo": {"latency_seconds": 5, "inter_chunk_p99_seconds": 0.1}},
        {"request_count": 100, "duration_seconds": None, "think_time_seconds": 0.5, "ramp_seconds": 0},
        {"stream": False, "ignore_eos": True, "max_tokens": 7, "temperature": 0, "extra_body": {"top_k": 5}},
        {"name": "it's $HOME; a name", "labels": {"a": "b=c", "team": "x y"}, "model": "m", "unique_prompts": True},
        {"prompts": {"kind": "list", "prompts": ["one\ntwo", "--three", "$(four)"]}, "ranks": 2, "record_chunks": True},
        {"prompts": {"kind": "synthetic", "unit": "words", "length": {"kind": "uniform", "low": 5, "high": 9}}},
        {
            "prompts": {
                "kind": "synthetic",
                "unit": "text",
                "length": {"kind": "lognormal", "mean": 9.5, "stddev": 2},
                "output": {"kind": "histogram", "bins": [{"low": 1, "high": 5, "weight": 2.5}]},
            }
        },
        {
            "prompts": {
                "kind": "synthetic",
                "unit": "text",
                "mix": [{"input": {"n": 5}, "output": {"kind": "uniform", "low": 2, "high": 3}, "weight": 3}],
            }
        },
        {
            "prompts": {"kind": "synthetic", "unit": "tokens", "length": {"kind": "normal", "mean": 9.5, "stddev": 2}},
            "endpoint": "completions",
        },
    ],
)
def test_the_command_asks_for_the_same_plan(fields: dict[str, Any]) -> None:
    plan = made(**fields)
    assert typed(plan) == plan


def test_a_file_of_prompts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "my prompts.txt"
    path.write_text("one\ntwo\n")
    plan = made(prompts={"kind": "file", "path": str(path), "sha256": "0"})
    assert msgspec.structs.asdict(typed(plan).prompts)["path"] == str(path)


def test_what_no_option_says_has_no_command_line() -> None:
    bounded = {"kind": "normal", "mean": 9.5, "stddev": 2, "low": 3}
    assert command_line(made(prompts={"kind": "synthetic", "unit": "text", "length": bounded})) is None
    assert command_line(made(prompts={"kind": "list", "prompts": [str(number) for number in range(99)]})) is None


def test_fields_that_were_left_alone_are_not_listed() -> None:
    assert "drain_seconds" not in not_default(made())
    assert {"drain_seconds", "num_clients", "seed", "prompts"} <= {*not_default(made(drain_seconds=3))}
