"""A series as it is typed: what is swept over, what is searched for."""

import argparse
import math
import re
from typing import Any

from tokenstorm.errors import UsageError
from tokenstorm.typed import number

SEARCHED = ("requests_per_second", "num_clients")
RATE_CLIENTS = 1000
"""Clients of a node at a rate, where nobody says how many: so many that they do not bind."""
_SHORT = {"rate": "requests_per_second", "rps": "requests_per_second", "clients": "num_clients"}
_WHOLE = frozenset(("num_clients", "max_tokens", "request_count", "ranks"))
_NUMBER = r"\d+(?:\.\d*)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER}):(log|lin)?(\d+)")
_HOW = "must look like FIELD=1,2,4, FIELD=1:64:log8 (8 values by equal ratios) or FIELD=10:50:lin5 (by equal steps)"


def add_series_options(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """The options of a series."""
    section = parser.add_argument_group("several runs in one job")
    section.add_argument(
        "--sweep",
        action="append",
        metavar="FIELD=VALUES",
        help="run each value of a field of the load: 1,2,4 or 1:64:log8 or 10:50:lin5; given again: each with each",
    )
    section.add_argument(
        "--search",
        metavar="FIELD[=START[:MOST]]",
        help="find the capacity under --slo: the highest requests_per_second, or the most num_clients, that hold",
    )
    section.add_argument("--attain", metavar="SHARE", help="how many requests are to be good, as 95%% (share of --slo)")
    section.add_argument("--precision", metavar="SHARE", help="how narrow the bracket of a search is to be (5%%)")
    section.add_argument("--most-runs", type=int, metavar="N", help="the runs that a search may take (20)")
    section.add_argument("--repeats", type=int, metavar="N", help="how often a sweep runs each point (1)")
    section.add_argument("--cooldown", type=float, metavar="S", help="seconds between two runs (0)")
    section.add_argument(
        "--order", choices=("random", "given"), help="of a sweep: random in blocks, from the seed; or as given (random)"
    )
    return section


def typed_series(args: argparse.Namespace) -> dict[str, Any] | None:
    """The series that the options ask for, None for a single run. Raises `UsageError`."""
    series: dict[str, Any] = {}
    for text in args.sweep or ():
        field, values = _sweep(text)
        if field in series.setdefault("sweep", {}):
            message = f"--sweep {field} is given twice: list all its values in one"
            raise UsageError(message)
        series["sweep"][field] = values
    if args.search is not None:
        series["search"] = _search(args)
    for option, field in (("repeats", "repeats"), ("cooldown", "cooldown_seconds"), ("order", "order")):
        if (value := getattr(args, option)) is not None:
            series[field] = value
    for option in ("precision", "most_runs", "attain"):
        if getattr(args, option) is not None and args.search is None:
            message = f"--{option.replace('_', '-')} belongs to --search"
            raise UsageError(message)
    if series and not series.keys() & {"sweep", "search", "repeats"}:
        message = f"--{next(iter(series)).removesuffix('_seconds')} belongs to --sweep, --search or --repeats"
        raise UsageError(message)
    return None if series in ({}, {"repeats": 1}) else series


def search_defaults(args: argparse.Namespace) -> None:
    """What a search needs of the load, where it was not typed: clients that do not bind, and the share of `--attain`."""
    if args.search is None:
        return
    if args.num_clients is None and _field(args.search.partition("=")[0]) == "requests_per_second":
        args.num_clients = RATE_CLIENTS
    if args.slo is None:
        message = "--search needs the objectives of a request: --slo ttft=500ms,tpot=50ms"
        raise UsageError(message)
    if args.attain is not None:
        if "share=" in args.slo:
            message = "--attain and share= of --slo say the same: leave one out"
            raise UsageError(message)
        args.slo += f",share={100 * _share('--attain', args.attain):g}%"


def _search(args: argparse.Namespace) -> dict[str, Any]:
    match = re.fullmatch(rf"(\w+)(?:=({_NUMBER})(?::({_NUMBER}))?)?", args.search)
    field = _field(match[1]) if match else ""
    if match is None or field not in SEARCHED:
        message = f"--search {args.search!r} must look like requests_per_second, num_clients=4 or requests_per_second=1:100 (start and most)"
        raise UsageError(message)
    found: dict[str, Any] = {"field": field}
    for name, text in (("start", match[2]), ("most", match[3])):
        if text is not None:
            found[name] = number("--search", text)
    if args.precision is not None:
        found["precision"] = _share("--precision", args.precision)
    if args.most_runs is not None:
        found["most_runs"] = args.most_runs
    return found


def _sweep(text: str) -> tuple[str, list[object]]:
    name, equals, values = text.partition("=")
    if not equals or not name.strip() or not values.strip():
        message = f"--sweep {text!r} {_HOW}"
        raise UsageError(message)
    field = _field(name.strip())
    if match := _RANGE.fullmatch(values.strip()):
        return field, _range(text, field, match)
    return field, [_value(part.strip()) for part in values.split(",")]


def _range(text: str, field: str, match: re.Match[str]) -> list[object]:
    low, high, many = float(match[1]), float(match[2]), int(match[4])
    log = match[3] == "log"
    if not low < high or not 2 <= many <= 1000 or (log and not low):  # noqa: PLR2004 - two ends; and as many as a series may have
        message = f"--sweep {text!r}: the range must rise{' from above 0' * log}, in 2 to 1000 values"
        raise UsageError(message)
    at = [place / (many - 1) for place in range(many)]
    values = [low * math.exp(part * math.log(high / low)) if log else low + part * (high - low) for part in at]
    if field in _WHOLE:
        return list(dict.fromkeys(round(value) for value in values))
    return [int(value) if value == round(value) else float(f"{value:.4g}") for value in values]


def _value(text: str) -> object:
    """A number or a switch where it reads like one, else text."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?\d+\.\d*(?:e-?\d+)?", text):
        return float(text)
    return {"true": True, "false": False, "null": None}.get(text, text)


def _share(option: str, text: str) -> float:
    match = re.fullmatch(rf"({_NUMBER})(%?)", text.strip())
    if match is None:
        message = f"{option} {text!r} must look like 95%"
        raise UsageError(message)
    return round(float(match[1]) / (100 if match[2] else 1), 9)


def _field(name: str) -> str:
    plain = name.strip().replace("-", "_")
    return _SHORT.get(plain, plain)
