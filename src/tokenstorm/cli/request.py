"""From the options of `group create` to a group's request, by way of a plan: what `bench` refuses is refused here too."""

import argparse
from pathlib import Path
from typing import Any, cast

import msgspec

from tokenstorm.errors import UsageError
from tokenstorm.loadgen.promptfile import parse_prompts, read_file
from tokenstorm.options import api_key_of, plan_of
from tokenstorm.plan import Plan, PromptFile, PromptList
from tokenstorm.sdk import GroupRequest

_SAME = (
    "num_clients requests_per_second duration_seconds request_count unique_prompts max_tokens temperature "
    "think_time_seconds ramp_seconds warmup_seconds drain_seconds request_timeout_seconds stream endpoint model "
    "ignore_eos extra_body"
)
_NO_TARGET = "http://127.0.0.1"
"""A plan needs one; a request has a service."""


def request_of(args: argparse.Namespace) -> GroupRequest:
    """The request that the options ask for. Raises `UsageError` naming what is wrong."""
    if (args.service_id is None) == (args.target_url is None):
        message = "name a SERVICE, as `tokenstorm service list` does, or give --target-url; one of them"
        raise UsageError(message)
    plan = plan_of(argparse.Namespace(**vars(args) | {"url": [_NO_TARGET], "record_chunks": False}))
    request = {name: getattr(plan, name) for name in _SAME.split()} | {
        "service_id": args.service_id,
        "target_url": args.target_url,
        "arrival": msgspec.to_builtins(plan.arrival),
        "seed": args.seed,
        "ranks": args.ranks,
        "api_key": api_key_of(args),
        "dataset": args.dataset,
        "time_limit": args.time_limit,
        "nodes": args.nodes,
        "start": args.start,
        "hold_seconds": args.hold,
        "via": args.via,
        "colocate": args.colocate or None,
        "exclusive": args.exclusive or None,
        "name": args.name,
        "labels": labels_of(args.label),
        **_prompts(plan, args),
    }
    return cast("GroupRequest", {name: value for name, value in request.items() if value is not None})


def labels_of(texts: list[str]) -> dict[str, str]:
    """KEY=VALUE pairs."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            message = f"--label {text!r} must look like KEY=VALUE"
            raise UsageError(message)
        labels[key] = value
    return labels


def _prompts(plan: Plan, args: argparse.Namespace) -> dict[str, Any]:
    match plan.prompts:
        case PromptList(prompts=prompts):
            return {"prompts": None if args.dataset and not args.prompt else prompts}
        case PromptFile(path=path):
            return {"prompts": _texts(Path(path))}
        case synthetic:
            length = {name: value for name, value in msgspec.to_builtins(synthetic.length).items() if value is not None}
            return {"synthetic": {synthetic.unit: length}}


def _texts(path: Path) -> list[str]:
    """The prompts of a file, as texts. Raises `UsageError`."""
    prompts = parse_prompts(read_file(path), str(path))
    texts = [prompt.text for prompt in prompts if prompt.text is not None and prompt.max_tokens is None]
    if len(texts) < len(prompts):
        message = (
            f"{path} holds more than a `prompt` a line, which a request cannot carry: put the file into the folder "
            "`datasets` of the profile's base path, and name it with --dataset"
        )
        raise UsageError(message)
    return texts
