"""A field of a load is declared once: the plan, the request, the options and the SDK have it from there; so are answers."""

import argparse
import ast
import inspect
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import TypeAdapter

import tokenstorm
from tokenstorm.api.groups import GroupRequest, shown_fields
from tokenstorm.cli.commands import add_commands
from tokenstorm.cli.parser import Parser
from tokenstorm.cli.request import request_of
from tokenstorm.client_api.schemas import TakenGroup
from tokenstorm.load import Load, make
from tokenstorm.plan import Plan, PromptFile, PromptList, Prompts, TraceFile, plan_for
from tokenstorm.sdk import Client
from tokenstorm.targets import Target

OF_A_LOAD = [name for name in Load.__struct_fields__ if name != "prompts"]
DOCUMENT: dict[str, Any] = TypeAdapter(TakenGroup).json_schema()


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="tokenstorm")
    add_commands(parser.add_subparsers())
    return parser


def parsed(*options: str) -> argparse.Namespace:
    return parser().parse_args(["group", "create", "abc", *options])


def test_a_field_of_a_load_or_of_an_answer_stands_in_one_class() -> None:
    owners = {
        "think_time_seconds": ["Load"],
        "total_replicas": ["ServiceInfo"],
        "load_config": ["Info"],
        "routed_to": ["PromptAnswer"],
    }
    declaring: dict[str, list[str]] = {field: [] for field in owners}
    for path in Path(tokenstorm.__file__).parent.rglob("*.py"):
        classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        for node in classes:
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and (field := ast.unparse(line.target)) in declaring:
                    declaring[field].append(node.name)
    assert declaring == owners


def as_json(value: object) -> object:
    return msgspec.json.decode(msgspec.json.encode(value))


@pytest.mark.parametrize("name", OF_A_LOAD)
def test_a_field_of_a_load_is_documented_typed_and_taken_everywhere(name: str) -> None:
    assert name in Plan.__struct_fields__
    assert name in inspect.signature(Client.create_group).parameters
    assert hasattr(parsed(), name), "it is an option"
    assert DOCUMENT["properties"][name]["description"]
    default = DOCUMENT["properties"][name].get("default")
    assert (name in DOCUMENT["required"]) or default == as_json(shown_fields(make(LEAST, GroupRequest))[name])


LEAST: dict[str, object] = {"service_id": "abc", "num_clients": 10, "prompts": ["hello"]}
TYPED = {
    "name": ("--name", "nightly"),
    "labels": ("--label", "team=hpc"),
    "endpoint": ("--endpoint", "completions"),
    "inputs": ("--endpoint", "embeddings", "--inputs", "3"),
    "models": ("--models", "a@3,b"),
    "cancel": ("--cancel", "10%@20tokens"),
    "custom": ("--custom", "ollama-chat"),
    "headers": ("--header", "x-tenant=hpc"),
    "api_key_header": ("--api-key-header", "x-api-key"),
    "model": ("--model", "m"),
    "stream": ("--no-stream",),
    "max_tokens": ("--max-tokens", "7"),
    "temperature": ("--temperature", "1.5"),
    "ignore_eos": ("--ignore-eos",),
    "extra_body": ("--extra-body", '{"top_k": 5}'),
    "trace": ("--trace", "t.jsonl", "--trace-lengths"),
    "conversation": ("--turns", "2:8", "--turn-think", "exponential:5"),
    "columns": ("--dataset", "d.csv", "--column", "prompt=question"),
    "no_repeat": ("--no-repeat",),
    "cache": ("--cache", "salt"),
    "unique_prompts": ("--unique",),
    "num_clients": ("--num-clients", "12"),
    "requests_per_second": ("--requests-per-second", "3"),
    "arrival": ("--stages", "1x2,3x4"),
    "think_time_seconds": ("--think-time", "2"),
    "ramp_seconds": ("--ramp-seconds", "3"),
    "seed": ("--seed", "5"),
    "warmup_seconds": ("--warmup", "6"),
    "duration_seconds": ("--duration", "7"),
    "request_count": ("--request-count", "8"),
    "drain_seconds": ("--drain", "9"),
    "request_timeout_seconds": ("--timeout", "10"),
    "slo": ("--slo", "ttft=500ms"),
    "ranks": ("--ranks", "2"),
    "engine_metrics": ("--no-engine-metrics",),
    "gpu_exporters": ("--gpu-exporter", "http://n1:9400"),
    "start": ("--start", "manual"),
    "hold_seconds": ("--hold", "11"),
}


def prompts_of(request: GroupRequest) -> Prompts:
    if request.trace:
        return TraceFile(path="t", sha256="0")
    return PromptFile(path="d", sha256="0") if request.dataset else PromptList(prompts=("x",))


@pytest.mark.parametrize("name", OF_A_LOAD)
def test_what_is_typed_reaches_the_plan(name: str) -> None:
    """From the options to the request that is sent, from that to the plan; whatever is not typed has its default."""
    assert TYPED.keys() == {*OF_A_LOAD}, "a field that is new needs its option here"
    request, plain = (make(request_of(parsed(*options)), GroupRequest) for options in (TYPED[name], ()))
    plan, without = (
        plan_for(
            each,
            run_id="0" * 32,
            targets=[Target(replica="0", url="http://h")],
            prompts=prompts_of(each),
            seed=each.seed or 1,
            ranks=each.ranks or 1,
        )
        for each in (request, plain)
    )
    changed = {field for field in Plan.__struct_fields__ if getattr(plan, field) != getattr(without, field)}
    along = {
        "inputs": "endpoint",
        "custom": "endpoint",
        "arrival": "duration_seconds",
        "request_count": "duration_seconds",
        "trace": "prompts",
        "columns": "prompts",
    }
    rated = {"num_clients"} if name in {"requests_per_second", "arrival", "trace"} else set()  # as many as it needs
    assert changed == {name, along.get(name, name)} | rated


def test_help_tells_what_the_documentation_tells(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    told = " ".join(capsys.readouterr().out.split())
    for words in ("sent, but not counted (0 s)", "what the --stages add up to, or none with --request-count"):
        assert words in told


def test_the_key_of_a_request_does_not_show() -> None:
    request = make({**LEAST, "api_key": "sk-secret"}, GroupRequest)
    assert "sk-secret" not in f"{request!r} {shown_fields(request)}"
