"""In what two sides differ beside their numbers: the load, the engine, the machines, the versions."""

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import json

from tokenstorm.metrics.summary import Summary
from tokenstorm.plan import Plan, listed
from tokenstorm.report.asked import asked_for

What = Literal["load", "length", "service", "engine", "hardware", "versions", "generator"]

_APART = frozenset(("schema", "run_id", "group_id", "name", "labels", "seed", "tokenstorm", "api_key"))
"""What differs from run to run and changes nothing about the load."""
_GENERATOR = frozenset(
    ("ranks", "nodes", "launch", "host", "barrier_seconds", "hold_seconds", "start", "record_chunks", "engine_metrics",
     "gpu_exporters", "gpu_samplers", "drain_seconds", "exclusive", "colocate")
)  # fmt: skip
_LENGTH = frozenset(("duration_seconds", "warmup_seconds", "request_count"))
_SERVICE = frozenset(("targets", "model", "via"))
_SHOWN = 120


class Differs(msgspec.Struct, frozen=True):
    """One thing in which two sides differ, in words. Sides that differ in their `load` are not comparable."""

    what: What
    name: str
    first: str
    second: str


def differences(first: Summary, second: Summary, apart: frozenset[str] = frozenset()) -> list[Differs]:
    """What differs, the load first. `apart` are fields in which the runs of each side differ from each other, too."""
    return [*_plans(first.plan, second.plan, apart), *_surroundings(first, second)]


def _plans(first: Plan, second: Plan, apart: frozenset[str]) -> list[Differs]:
    one, other = listed(first), listed(second)
    found = []
    for name in one:
        if name in _APART or name in apart or one[name] == other[name]:
            continue
        [(label, text)], [(_, changed)] = asked_for(first, [name]), asked_for(second, [name])
        what: What = "load"
        if name in _SERVICE:
            what = "service"
        elif name in _LENGTH:
            what = "length"
        elif name in _GENERATOR:
            what = "generator"
        found.append(Differs(what, label, text[:_SHOWN], changed[:_SHOWN]))
    order = ("load", "length", "service", "generator")
    return sorted(found, key=lambda differs: order.index(differs.what))


def _surroundings(first: Summary, second: Summary) -> list[Differs]:
    told: list[tuple[What, str, Callable[[Summary], str]]] = [
        ("engine", "Engine says", _engine),
        ("engine", "Simulated", lambda one: "yes" if one.environment.simulated else "no"),
        ("hardware", "GPUs", lambda one: str(len(one.energy.gpus)) if one.energy else "not read"),
        ("hardware", "Clients ran on", lambda one: one.environment.platform),
        ("versions", "tokenstorm", lambda one: one.environment.tokenstorm),
        ("versions", "Python", lambda one: one.environment.python),
    ]
    rows = [(what, name, tell(first), tell(second)) for what, name, tell in told]
    return [Differs(what, name, one[:_SHOWN], other[:_SHOWN]) for what, name, one, other in rows if one != other]


def _engine(summary: Summary) -> str:
    said = sorted({json.encode(one).decode() for one in summary.environment.engine.values()})
    return "; ".join(said) or "nothing"
