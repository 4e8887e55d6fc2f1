"""From what was typed to a `Plan`: the options that `bench` and, later, `group create` share."""

import argparse
import os
import re
import secrets
from pathlib import Path

import msgspec

from tokenstorm.errors import NOT_JSON, PlanError, UsageError
from tokenstorm.loadgen.endpoint import endpoints_of
from tokenstorm.loadgen.prompts import prompt_file
from tokenstorm.loadgen.sizing import cores, fewest_ranks, open_files
from tokenstorm.plan import Plan, encode_plan, make_plan, new_run_id

DEFAULT_PROMPT = "Explain in a few sentences what a supercomputer is used for."


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what load to send; see `Plan` for their meanings."""
    load = parser.add_argument_group("load")
    load.add_argument("--num-clients", type=int, default=10, metavar="N", help="requests in flight at most (10)")
    load.add_argument(
        "--requests-per-second",
        type=float,
        metavar="R",
        help="of all clients; without it each client sends when its last answer ended",
    )
    load.add_argument("--duration", type=float, metavar="S", help="seconds of the measured window (60)")
    load.add_argument("--request-count", type=int, metavar="N", help="end after so many measured requests")
    load.add_argument("--warmup", type=float, default=0.0, metavar="S", help="seconds sent but not counted (0)")
    load.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="seconds to wait for the last answers (30)"
    )
    load.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds a request may take (120)")
    load.add_argument(
        "--arrival",
        choices=("constant", "poisson", "gamma"),
        default="constant",
        help="how arrivals are spread (constant)",
    )
    load.add_argument("--burstiness", type=float, metavar="K", help="of gamma arrivals: 1 is Poisson, less is burstier")
    load.add_argument("--ramp", metavar="FROM:TO", help="a rate that changes linearly, as in 1:50")
    load.add_argument("--stages", metavar="RATExS,…", help="rates and their seconds, as in 5x30,20x30")
    load.add_argument(
        "--think-time",
        type=float,
        default=0.0,
        metavar="S",
        help="closed loop: seconds between answer and next request (0)",
    )
    load.add_argument(
        "--ramp-seconds", type=float, default=1.0, metavar="S", help="closed loop: over how long the clients start (1)"
    )
    load.add_argument("--seed", type=int, metavar="N", help="repeats arrivals and prompts (random, recorded)")
    load.add_argument("--ranks", type=int, metavar="N", help="processes that send (the fewest that carry the load)")
    request = parser.add_argument_group("requests")
    request.add_argument("--endpoint", choices=("chat", "completions"), default="chat", help="(chat)")
    request.add_argument("--model", help="(the first one the service names)")
    request.add_argument("--max-tokens", type=int, default=100, metavar="N", help="(100)")
    request.add_argument("--temperature", type=float, default=0.7, metavar="T", help="(0.7)")
    request.add_argument("--stream", action=argparse.BooleanOptionalAction, default=True, help="(--stream)")
    request.add_argument("--ignore-eos", action="store_true", help="ask for exactly max-tokens")
    request.add_argument("--extra-body", metavar="JSON", help="more fields of the body; null takes one out")
    request.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the API key")
    prompts = request.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="may be given more than once")
    prompts.add_argument(
        "--prompts-file",
        type=Path,
        metavar="FILE",
        help="text with a prompt a line, or JSON lines with prompt or messages",
    )
    prompts.add_argument(
        "--synthetic-words", metavar="LENGTH", help="made-up text: 100, 50:200 (uniform) or 100~20 (normal)"
    )
    prompts.add_argument("--synthetic-tokens", metavar="LENGTH", help="made-up token ids, for --endpoint completions")
    request.add_argument("--unique", action="store_true", help="salt each prompt, so that no prefix cache helps")


_OPTION_OF = {
    "warmup_seconds": "warmup",
    "duration_seconds": "duration",
    "drain_seconds": "drain",
    "request_timeout_seconds": "timeout",
    "think_time_seconds": "think-time",
    "arrival.burstiness": "burstiness",
    "arrival.ramp": "ramp",
    "arrival.stages": "stages",
    "prompts.prompts": "prompt",
    "prompts.length": "synthetic-words or --synthetic-tokens",
}


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the options and the URLs ask for. Raises `UsageError` naming the option that is wrong."""
    try:
        return _plan_of(args)
    except PlanError as error:
        raise UsageError(error.told(_option)) from None


def _option(field: str) -> str:
    """The option for a field of a plan, or for a part of that field; the field's own name where there is no option."""
    for known, option in _OPTION_OF.items():
        if field == known or field.startswith((f"{known}.", f"{known}[")):
            return f"--{option}"
    return f"--{field.replace('_', '-')}" if field in _SAME else f"`{field}`"


_SAME = frozenset(
    (
        "num_clients",
        "requests_per_second",
        "request_count",
        "seed",
        "ranks",
        "max_tokens",
        "temperature",
        "arrival",
        "endpoint",
        "model",
        "ramp_seconds",
    )
)


def _plan_of(args: argparse.Namespace) -> Plan:
    stages = None if args.stages is None else _stages(args.stages)
    duration = args.duration
    if duration is None and stages:
        duration = sum(stage["seconds"] for stage in stages)
    if duration is None and args.request_count is None:
        duration = 60.0
    fields: dict[str, object] = {
        "run_id": new_run_id(),
        "targets": [{"replica": str(number), "url": url} for number, url in enumerate(args.url)],
        "endpoint": args.endpoint,
        "model": args.model,
        "stream": args.stream,
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "ignore_eos": args.ignore_eos,
        "extra_body": _extra_body(args.extra_body),
        "prompts": _prompts(args),
        "unique_prompts": args.unique,
        "num_clients": args.num_clients,
        "requests_per_second": args.requests_per_second,
        "arrival": _arrival(args, stages),
        "think_time_seconds": args.think_time,
        "ramp_seconds": args.ramp_seconds,
        "seed": secrets.randbits(48) if args.seed is None else args.seed,
        "warmup_seconds": args.warmup,
        "duration_seconds": duration,
        "request_count": args.request_count,
        "drain_seconds": args.drain,
        "request_timeout_seconds": args.timeout,
        "ranks": 1 if args.ranks is None else args.ranks,
        "record_chunks": args.record_chunks,
    }
    plan = make_plan(fields)
    endpoints_of(plan)
    if args.ranks is None:
        plan = make_plan({**fields, "ranks": fewest_ranks(plan, cores(), open_files())})
    try:
        encode_plan(plan)
    except UnicodeEncodeError as error:
        message = f"{error.object!r} is not UTF-8 text: put prompts of another encoding into a file, as UTF-8"
        raise UsageError(message) from None
    return plan


def api_key_of(args: argparse.Namespace) -> str | None:
    """The API key, from the variable that was named."""
    if args.api_key_env is None:
        return None
    key = os.environ.get(args.api_key_env)
    if not key:
        message = f"the environment variable {args.api_key_env} of --api-key-env is not set"
        raise UsageError(message)
    return key


def _arrival(args: argparse.Namespace, stages: list[dict[str, float]] | None) -> dict[str, object]:
    arrival: dict[str, object] = {"kind": args.arrival, "stages": stages}
    if args.burstiness is not None:
        arrival["burstiness"] = args.burstiness
    if args.ramp is not None:
        match = re.fullmatch(r"([\d.]+):([\d.]+)", args.ramp)
        if not match:
            message = f"--ramp {args.ramp!r} must look like 1:50 (requests per second, from and to)"
            raise UsageError(message)
        arrival["ramp"] = {"from_rps": _number("--ramp", match[1]), "to_rps": _number("--ramp", match[2])}
    return arrival


def _stages(text: str) -> list[dict[str, float]]:
    return [_stage(part) for part in text.split(",")]


def _stage(text: str) -> dict[str, float]:
    match = re.fullmatch(r"([\d.]+)x([\d.]+)", text.strip())
    if not match:
        message = f"--stages: {text!r} must look like 5x30 (5 requests per second for 30 seconds)"
        raise UsageError(message)
    return {"rps": _number("--stages", match[1]), "seconds": _number("--stages", match[2])}


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        message = f"{option}: {text!r} is no number"
        raise UsageError(message) from None


def _prompts(args: argparse.Namespace) -> object:
    if args.prompts_file is not None:
        return msgspec.to_builtins(prompt_file(args.prompts_file))
    if args.synthetic_words is not None:
        return {"kind": "synthetic", "unit": "words", "length": _length("--synthetic-words", args.synthetic_words)}
    if args.synthetic_tokens is not None:
        return {"kind": "synthetic", "unit": "tokens", "length": _length("--synthetic-tokens", args.synthetic_tokens)}
    return {"kind": "list", "prompts": args.prompt or [DEFAULT_PROMPT]}


def _length(option: str, text: str) -> dict[str, object]:
    if match := re.fullmatch(r"(\d+)", text):
        return {"kind": "fixed", "n": int(match[1])}
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return {"kind": "uniform", "low": int(match[1]), "high": int(match[2])}
    if match := re.fullmatch(r"([\d.]+)~([\d.]+)", text):
        return {"kind": "normal", "mean": _number(option, match[1]), "stddev": _number(option, match[2])}
    message = f"{option} {text!r} must look like 100, 50:200 (uniform) or 100~20 (normal: mean and deviation)"
    raise UsageError(message)


def _extra_body(text: str | None) -> object:
    if text is None:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except NOT_JSON as error:
        message = f"--extra-body must be a JSON object: {error}"
        raise UsageError(message) from None
