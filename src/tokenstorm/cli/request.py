"""From the options of `group create` to a group's request: what `bench` refuses is refused here, the rest by the API."""

import argparse
from pathlib import Path
from typing import Any

import msgspec

from tokenstorm.api import groups
from tokenstorm.errors import UsageError
from tokenstorm.load import Load, make
from tokenstorm.loadgen.datasets import Columns, read_prompts
from tokenstorm.loadgen.promptfile import read_file
from tokenstorm.options import api_key_of, by_options, load_fields, refuse_other_text, refuse_unjudged, typed_prompts
from tokenstorm.report.conditions import refuse_for_series
from tokenstorm.sdk import GroupRequest
from tokenstorm.timelimit import minutes
from tokenstorm.typed import typed_url
from tokenstorm.typed_series import search_defaults, typed_series


def request_of(args: argparse.Namespace) -> GroupRequest:
    """The request that the options ask for. Raises `UsageError` naming what is wrong."""
    if (args.service_id is None) == (args.target_url is None):
        message = "name a SERVICE, as `tokenstorm service list` does, or give --target-url; one of them"
        raise UsageError(message)
    series = typed_series(args)
    search_defaults(args)
    fields = load_fields(args, groups.GroupRequest)
    with by_options():
        load = make({name: value for name, value in fields.items() if name in Load.__struct_fields__}, Load)
    sent = fields | msgspec.to_builtins(load) | _prompts(args, load)
    sent |= {
        "duration_seconds": load.measured_seconds,
        "service_id": args.service_id,
        "target_url": args.target_url and typed_url(args.target_url),
        "api_key": api_key_of(args),
        "time_limit": _minutes(args.time_limit),
        "series": series,
    }
    refuse_other_text(sent)
    refuse_unjudged(args, load.slo)
    if series:
        refuse_for_series(args.fail_on)
    if args.fail_on and not args.watch:
        message = "--fail-on belongs to --watch: without it the command does not see the end"
        raise UsageError(message)
    return {name: value for name, value in sent.items() if value is not None}


def _minutes(text: str | None) -> int | None:
    try:
        return None if text is None else minutes(text)
    except ValueError as error:
        message = f"--time-limit: {error}"
        raise UsageError(message) from None


def _prompts(args: argparse.Namespace, load: Load) -> dict[str, Any]:
    if args.trace is not None:
        return {}
    if args.prompts_file is not None:
        return {"prompts": _texts(args.prompts_file, load.columns), "columns": None}
    match typed_prompts(args, load):
        case {"kind": "list", "prompts": prompts}:
            return {} if args.dataset and not args.prompt else {"prompts": prompts}
        case {"kind": "shared_prefix", **shared}:
            return {"shared_prefix": shared}
        case {"mix": mix}:
            return {"synthetic": {"mix": mix}}
        case made_up:
            name = "input" if made_up["unit"] == "text" else made_up["unit"]
            output = {"output": made_up["output"]} if "output" in made_up else {}
            return {"synthetic": {name: made_up["length"], **output}}


def _texts(path: Path, columns: Columns) -> list[str]:
    """The prompts of a file, as texts. Raises `UsageError`."""
    prompts = read_prompts(read_file(path), str(path), columns).prompts
    texts = [prompt.text for prompt in prompts if prompt.text is not None and prompt.max_tokens is None]
    if len(texts) < len(prompts):
        message = (
            f"{path} holds more than a `prompt` a line, which a request cannot carry: put the file into the folder "
            "`datasets` of the profile's base path, and name it with --dataset"
        )
        raise UsageError(message)
    return texts
