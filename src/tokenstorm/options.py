"""From what was typed to a load: the options that `bench` and `group create` share are made from the fields of `Load`."""

import argparse
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

from tokenstorm.api.groups import GroupRequest
from tokenstorm.errors import NOT_JSON, PlanError, UsageError
from tokenstorm.lengths import Conversation
from tokenstorm.load import Load, make
from tokenstorm.load_parts import Arrival, Trace
from tokenstorm.loadgen.endpoint import endpoints_of
from tokenstorm.loadgen.promptfile import read_file
from tokenstorm.loadgen.prompts import prompt_file
from tokenstorm.loadgen.replay import settle_trace
from tokenstorm.loadgen.sizing import cores, fewest_ranks, open_files
from tokenstorm.plan import Plan, new_run_id, plan_for
from tokenstorm.report.conditions import check_bound
from tokenstorm.strict import Option
from tokenstorm.typed import (
    OF_CONVERSATIONS,
    add_conversation_options,
    add_synthetic_options,
    named_values,
    number,
    seconds,
    typed_cancel,
    typed_conversation,
    typed_custom,
    typed_models,
    typed_slo,
    typed_synthetic,
    typed_url,
)
from tokenstorm.typed_series import RATE_CLIENTS

DEFAULT_PROMPT = "Explain in a few sentences what a supercomputer is used for."
_OF_PROMPTS = {
    "prompts.length": "--input-tokens, --synthetic-words or --synthetic-tokens",
    "prompts.output": "--output-tokens",
    "prompts.mix": "--mix",
    "prompts.groups": "--shared-prefix",
    "prompts.prefix": "--shared-prefix",
    "prompts.question": "--shared-prefix",
    "prompts.zipf": "--shared-prefix",
    "prompts": "--prompt",
}
"""Options that are more than a field."""
_OTHER_NAMES: dict[str, tuple[str, Callable[[str], float]]] = {
    "--rps": ("requests_per_second", float),
    "--request-rate": ("requests_per_second", float),
    "--concurrency": ("num_clients", int),
    "-c": ("num_clients", int),
    "-n": ("request_count", int),
}
"""What people type who know other tools. One spelling is documented."""


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what load to send."""
    load, request = parser.add_argument_group("load"), parser.add_argument_group("requests")
    for section in (load, request, parser.add_argument_group("the run")):
        _add_options(section, Load)
        _add_options(section, Conversation, prefix="conversation_")
    _add_options(load, Arrival)
    _add_options(load, Trace, prefix="trace_")
    request.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the API key")
    add_conversation_options(load)
    prompts = request.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", action="append", metavar="TEXT", help=f'may be given more than once ("{DEFAULT_PROMPT}")'
    )
    prompts.add_argument(
        "--prompts-file",
        type=Path,
        metavar="FILE",
        help="a prompt a line, JSON lines with prompt or messages, or a dataset: ShareGPT, WildChat, an OpenAI batch, …",
    )
    add_synthetic_options(prompts, request)
    for name, (field, of) in _OTHER_NAMES.items():
        parser.add_argument(name, dest=field, type=of, default=None, help=argparse.SUPPRESS)


def add_group_options(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """The options that say where and when a group sends its load, as a section that may get more."""
    section = parser.add_argument_group("where and when")
    _add_options(section, GroupRequest)
    return section


def _add_options(section: "argparse._ArgumentGroup", kind: type[msgspec.Struct], prefix: str = "") -> None:
    """An option for each field of that section. One that is not typed is None: then the field's own default is taken."""
    for field in _fields(kind):
        option = _option_of(field)
        if option is None or option.section != section.title:
            continue
        default = option.default if field.default is NODEFAULT else field.default
        how: dict[str, Any] = {
            "dest": prefix + field.name,
            "default": None,
            "help": option.help or _help(field, default),
        }
        match _plain(field.type):
            case inspect.BoolType():
                how["action"] = "store_true" if default is False else argparse.BooleanOptionalAction
            case inspect.LiteralType(values=values):
                how["choices"] = values
            case inspect.DictType() | inspect.VarTupleType() if option.metavar in {"KEY=VALUE", "PART=NAME", "URL"}:
                how |= {"action": "append", "metavar": option.metavar}
            case plain:
                number_of = seconds if field.name.endswith("_seconds") else float
                of_number = {inspect.IntType: int, inspect.FloatType: number_of}
                how |= {"type": of_number.get(type(plain), str), "metavar": option.metavar}
        section.add_argument(option.name, **how)


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    found = inspect.type_info(kind)
    assert isinstance(found, inspect.StructType)
    return found.fields


def _option_of(field: inspect.Field) -> Option | None:
    extra = field.type.extra if isinstance(field.type, inspect.Metadata) else None
    option: Option | None = (extra or {}).get("option")
    return option


def _plain(kind: inspect.Type) -> inspect.Type:
    """The type of what is typed, where None or a whole structure are taken too."""
    if isinstance(kind, inspect.Metadata):
        return _plain(kind.type)
    if isinstance(kind, inspect.UnionType):
        plain = [_plain(one) for one in kind.types if not isinstance(one, inspect.NoneType | inspect.StructType)]
        texts = [one for one in plain if isinstance(one, inspect.StrType)]  # what may be text is text
        return next(iter((*texts, *plain)), kind.types[0])
    return kind


def _help(field: inspect.Field, default: object) -> str:
    """The field's description in the terms of the command line, with its default."""
    assert isinstance(field.type, inspect.Metadata), "a field with an option is annotated"
    said = str((field.type.extra_json_schema or {})["description"])
    words = re.sub(r"`(\w+)`", _in_help, f"{said[0].lower()}{said[1:]}")
    if default is True:
        return f"{words} ({_options()[field.name]})"
    if default is None or default is False or default == "":
        return words
    if field.name == "num_clients":
        return f"{words} ({default}; at a rate as many as it needs, up to {RATE_CLIENTS} a node)"
    unit = " s" if field.name.endswith("_seconds") else ""
    return f"{words} ({default:g}{unit})" if isinstance(default, int | float) else f"{words} ({default})"


def _in_help(name: re.Match[str]) -> str:
    """The option for a field that a description names."""
    return _options().get(name[1]) or _options().get(f"arrival.{name[1]}") or name[0]


@cache
def _options() -> dict[str, str]:
    """The option for each field of a load, of its arrivals, and of a group's request."""
    ours = {field.name: option.name for field in _fields(GroupRequest) if (option := _option_of(field))}
    parts = {f"arrival.{field.name}": option.name for field in _fields(Arrival) if (option := _option_of(field))}
    parts |= {f"trace.{field.name}": option.name for field in _fields(Trace) if (option := _option_of(field))}
    parts |= {
        f"conversation.{field.name}": option.name for field in _fields(Conversation) if (option := _option_of(field))
    }
    return {**parts, **OF_CONVERSATIONS, **ours, **_OF_PROMPTS}


def _option(field: str) -> str:
    """The option for a field of a load, or for a part of that field; the field's own name where there is no option."""
    for known, option in _options().items():
        if field == known or field.startswith((f"{known}.", f"{known}[")):
            return option
    return f"`{field}`"


@contextmanager
def by_options() -> Iterator[None]:
    """What is wrong with a field is told by its option."""
    try:
        yield
    except PlanError as error:
        raise UsageError(error.told(_option)) from None


def load_fields(args: argparse.Namespace, kind: type[Load]) -> dict[str, Any]:
    """The fields that were typed, and those for which the command line has a default. Raises `UsageError`."""
    fields: dict[str, Any] = {}
    for field in _fields(kind):
        option = _option_of(field)
        value = getattr(args, field.name, None)
        if value is None and option and field.default is NODEFAULT:
            value = _clients(args) if field.name == "num_clients" else option.default
        if option and value is not None:
            fields[field.name] = value
    for name, read in _FORMS.items():
        if name in fields:
            fields[name] = read(fields[name])
    if "custom" in fields:
        fields.setdefault("endpoint", "custom")
    for name, typed in (("labels", "--label"), ("columns", "--column"), ("headers", "--header")):
        if name in fields:
            fields[name] = named_values(typed, fields[name])
    fields |= typed_conversation(args)
    if trace := _trace(args):
        fields["trace"] = trace
    return fields | {"arrival": _arrival(args)}


def _clients(args: argparse.Namespace) -> int:
    """How many clients there are where nobody says: at a rate as many as it needs."""
    rated = (args.requests_per_second, args.ramp, args.stages, args.trace)
    return 10 if all(one is None for one in rated) else RATE_CLIENTS * (getattr(args, "nodes", None) or 1)


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the options and the URLs ask for. Raises `UsageError` naming the option that is wrong."""
    with by_options():
        load = make(load_fields(args, Load), Load)
        settled = _settled(args, load)
        plan = plan_for(
            load,
            run_id=new_run_id(),
            targets=[{"replica": str(number), "url": url} for number, url in enumerate(map(typed_url, args.url))],
            seed=secrets.randbits(48) if load.seed is None else load.seed,
            ranks=load.ranks or fewest_ranks(load, cores(), open_files(), settled.get("arrival")),
            record_chunks=args.record_chunks,
            **settled,
        )
        endpoints_of((target.url for target in plan.targets), plan.endpoint)
    refuse_other_text(plan)
    return plan


def refuse_unjudged(args: argparse.Namespace, slo: object) -> None:
    """Raises `UsageError` where a run is to fail on objectives that it has not, or on what says nothing."""
    for text in args.fail_on:
        check_bound(text)
    if "slo" in args.fail_on and not slo:
        message = "--fail-on slo needs the objectives of a request: --slo ttft=500ms,tpot=50ms"
        raise UsageError(message)


def refuse_other_text(typed: object) -> None:
    """Raises `UsageError` for what was typed in another encoding than UTF-8."""
    try:
        msgspec.json.encode(typed)
    except UnicodeEncodeError as error:
        message = f"{error.object!r} is not UTF-8 text: put prompts of another encoding into a file, as UTF-8"
        raise UsageError(message) from None


def api_key_of(args: argparse.Namespace) -> str | None:
    """The API key, from the variable that was named."""
    if args.api_key_env is None:
        return None
    key = os.environ.get(args.api_key_env)
    if not key:
        message = f"the environment variable {args.api_key_env} of --api-key-env is not set"
        raise UsageError(message)
    return key


def _arrival(args: argparse.Namespace) -> dict[str, object]:
    arrival: dict[str, object] = {"kind": args.arrival or "constant"}
    if args.stages is not None:
        arrival["stages"] = _stages(args.stages)
    if args.burstiness is not None:
        arrival["burstiness"] = args.burstiness
    if args.ramp is not None:
        match = re.fullmatch(r"([\d.]+):([\d.]+)", args.ramp)
        if not match:
            message = f"--ramp {args.ramp!r} must look like 1:50 (requests per second, from and to)"
            raise UsageError(message)
        arrival["ramp"] = {"from_rps": number("--ramp", match[1]), "to_rps": number("--ramp", match[2])}
    return arrival


def _stages(text: str) -> list[dict[str, float]]:
    return [_stage(part) for part in text.split(",")]


def _stage(text: str) -> dict[str, float]:
    match = re.fullmatch(r"([\d.]+)x([\d.]+)", text.strip())
    if not match:
        message = f"--stages: {text!r} must look like 5x30 (5 requests per second for 30 seconds)"
        raise UsageError(message)
    return {"rps": number("--stages", match[1]), "seconds": number("--stages", match[2])}


def typed_prompts(args: argparse.Namespace, load: Load) -> dict[str, Any]:
    """The prompts that the options ask for, as a plan has them. Raises `UsageError`."""
    if args.prompts_file is not None:
        found: dict[str, Any] = msgspec.to_builtins(prompt_file(args.prompts_file, load.columns, load.custom))
        return found
    return typed_synthetic(args) or {"kind": "list", "prompts": args.prompt or [DEFAULT_PROMPT]}


def _settled(args: argparse.Namespace, load: Load) -> dict[str, Any]:
    """The prompts, and what a trace says of the times. Raises `UsageError`."""
    if load.trace is None:
        return {"prompts": typed_prompts(args, load)}
    path = Path(load.trace.path).absolute()
    return settle_trace(load, load.trace, read_file(path), str(path))


def _trace(args: argparse.Namespace) -> dict[str, Any]:
    """What of a trace is replayed. Raises `UsageError` for prompts beside it."""
    found = {
        field.name: value
        for field in _fields(Trace)
        if (value := getattr(args, f"trace_{field.name}", None)) is not None
    }
    if args.trace is None:
        if found:
            message = f"{_options()[f'trace.{next(iter(found))}']} belongs to --trace: give that too"
            raise UsageError(message)
        return {}
    beside = (
        "prompt",
        "prompts_file",
        "input_tokens",
        "synthetic_words",
        "synthetic_tokens",
        "mix",
        "shared_prefix",
        "output_tokens",
    )
    if given := [name for name in beside if getattr(args, name) is not None]:
        message = f"--trace says what is asked: leave --{given[0].replace('_', '-')} out"
        raise UsageError(message)
    return {"path": args.trace, **found}


def _extra_body(text: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except NOT_JSON as error:
        message = f"--extra-body must be a JSON object: {error}"
        raise UsageError(message) from None


_FORMS: dict[str, Callable[[str], object]] = {
    "extra_body": _extra_body,
    "slo": typed_slo,
    "models": typed_models,
    "cancel": typed_cancel,
    "custom": typed_custom,
}
"""Fields that are typed in a form of their own."""
