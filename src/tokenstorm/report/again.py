"""How to do a run again: the command line that asks for the same load, made from the plan."""

import shlex
from decimal import Decimal
from functools import cache

import msgspec
from msgspec import NODEFAULT, inspect

from tokenstorm.custom import Custom
from tokenstorm.lengths import Conversation, Length, length_of
from tokenstorm.load import Load
from tokenstorm.load_parts import Arrival, Cancel, ModelShare, Slo
from tokenstorm.plan import Plan, PromptFile, PromptList, Prompts, Synthetic
from tokenstorm.report.asked import MOST_SHOWN, pause_text
from tokenstorm.strict import Option

_UNITS = {"text": "--input-tokens", "words": "--synthetic-words", "tokens": "--synthetic-tokens"}
_BY_THEMSELVES = frozenset(("arrival", "conversation", "prompts", "seed"))
_OF_GROUPS = "where and when"
"""The section of options that `bench` has not: they change nothing about what is sent."""


def command_line(plan: Plan) -> str | None:
    """The `tokenstorm bench` that sends the same requests at the same times; None where no options say all of it."""
    try:
        prompts = [*_prompts(plan.prompts), *_conversation(plan.conversation)]
    except _Untypeable:
        return None
    words = ["tokenstorm", "bench", *(target.url for target in plan.targets)]
    for name, option, default in _options(Load):
        value = getattr(plan, name)
        usual = option.default if default is NODEFAULT else default
        if name not in _BY_THEMSELVES and option.section != _OF_GROUPS and value != usual:
            words += _typed(option.name, value)
    words += [*_arrival(plan.arrival), "--seed", str(plan.seed), *prompts]
    return shlex.join([*words, *["--record-chunks"] * plan.record_chunks])


def not_default(plan: Plan) -> list[str]:
    """The fields of the plan that differ from their defaults, or have none."""
    fields = inspect.type_info(Plan)
    assert isinstance(fields, inspect.StructType)
    return [
        field.name
        for field in fields.fields
        if (field.default is NODEFAULT and field.default_factory is NODEFAULT)
        or getattr(plan, field.name) != _default(field)
    ]


def _default(field: inspect.Field) -> object:
    return field.default if field.default is not NODEFAULT else field.default_factory()


@cache
def _options(kind: type[msgspec.Struct]) -> list[tuple[str, Option, object]]:
    """The fields that have an option, with their defaults."""
    fields = inspect.type_info(kind)
    assert isinstance(fields, inspect.StructType)
    found = []
    for field in fields.fields:
        extra = field.type.extra if isinstance(field.type, inspect.Metadata) else None
        if option := (extra or {}).get("option"):
            has_none = field.default is NODEFAULT and field.default_factory is NODEFAULT
            found.append((field.name, option, NODEFAULT if has_none else _default(field)))
    return found


def _typed(option: str, value: object) -> list[str]:
    match value:
        case bool():
            return [option if value else f"--no-{option.removeprefix('--')}"]
        case dict() if option in {"--label", "--column", "--header"}:
            return [word for key, label in value.items() for word in _given(option, f"{key}={label}")]
        case dict() | Custom():
            return [option, msgspec.json.encode(value).decode()]
        case Slo() | Cancel() | tuple():
            return [option, _in_its_form(value)]
        case float():
            return [option, _number(value)]
    return _given(option, str(value))


def _in_its_form(value: Slo | Cancel | tuple[ModelShare, ...]) -> str:
    if isinstance(value, Cancel):
        return f"{_number(value.rate)}@{value.when}"
    if isinstance(value, Slo):
        return _objectives(value)
    return ",".join(f"{one.name}@{_number(one.weight)}" for one in value)


def _objectives(slo: Slo) -> str:
    bounds = {name: bound for name, bound in slo.bounds.items() if bound is not None} | {"share": slo.share}
    return ",".join(f"{name.removesuffix('_seconds')}={_number(bound)}" for name, bound in bounds.items())


def _given(option: str, value: str) -> list[str]:
    """What looks like an option of its own is tied to the one that it is for."""
    return [f"{option}={value}"] if value.startswith("-") else [option, value]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else format(Decimal(repr(value)), "f")  # options take no exponent


def _arrival(arrival: Arrival) -> list[str]:
    words = ["--arrival", arrival.kind] if arrival.kind != "constant" else []
    if arrival.burstiness != 1:
        words += ["--burstiness", _number(arrival.burstiness)]
    if arrival.ramp:
        words += ["--ramp", f"{_number(arrival.ramp.from_rps)}:{_number(arrival.ramp.to_rps)}"]
    if arrival.stages:
        words += ["--stages", ",".join(f"{_number(one.rps)}x{_number(one.seconds)}" for one in arrival.stages)]
    return words


class _Untypeable(Exception):
    """No option says this."""


def _prompts(prompts: Prompts) -> list[str]:
    match prompts:
        case PromptList() if len(prompts.prompts) <= MOST_SHOWN:
            return [word for text in prompts.prompts for word in _given("--prompt", text)]
        case PromptFile():
            return _given("--prompts-file", prompts.path)
        case Synthetic(length=Length() as length):
            answers = ["--output-tokens", _length(prompts.output)] if prompts.output else []
            return [_UNITS[prompts.unit], _length(length), *answers]
        case Synthetic(unit="text", mix=tuple(mix)):
            parts = [f"{_length(part.input)}/{_length(part.output)}@{_number(part.weight)}" for part in mix]
            if not any("," in part for part in parts):
                return ["--mix", ",".join(parts)]
    raise _Untypeable


def _conversation(talk: Conversation | None) -> list[str]:
    if talk is None:
        return []
    words = ["--turns", "all" if talk.turns is None else _length(length_of(talk.turns))]
    if talk.first is not None:
        words += ["--first-tokens", _length(length_of(talk.first))]
    if talk.think_seconds:
        words += ["--turn-think", pause_text(talk.think_seconds)]
    for name, option, default in _options(Conversation):
        if (value := getattr(talk, name)) != default:
            words += _typed(option.name, value)
    return words


def _length(length: Length) -> str:
    match length:
        case Length(kind="fixed"):
            return str(length.n)
        case Length(kind="uniform"):
            return f"{length.low}:{length.high}"
        case Length(kind="normal" | "lognormal", low=None, high=None):
            name = "lognormal:" if length.kind == "lognormal" else ""
            return f"{name}{_number(length.mean or 0)}~{_number(length.stddev or 0)}"
        case Length(kind="histogram", bins=tuple(bins)):
            return ",".join(f"{one.low}:{one.high}x{_number(one.weight)}" for one in bins)
    raise _Untypeable
