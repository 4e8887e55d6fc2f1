"""Prompts that are made up, as they are typed: lengths and mixes of lengths."""

import argparse
import re
from typing import Any

from tokenstorm.errors import UsageError

_UNITS = {"input_tokens": "text", "synthetic_words": "words", "synthetic_tokens": "tokens"}
_NUMBER = r"\d+(?:\.\d*)?"
_HOW = (
    "must look like 100, 50:200 (uniform), 100~20 (normal: mean and deviation), lognormal:100~20, "
    "or 1:50x3,51:200x1 (a histogram: bins and their weights)"
)


def add_synthetic_options(prompts: "argparse._MutuallyExclusiveGroup", requests: "argparse._ArgumentGroup") -> None:
    """The options of prompts that are made up: those of which there can be one only, and what goes with them."""
    prompts.add_argument(
        "--input-tokens",
        metavar="LENGTH",
        help="made-up text: 100, 50:200 (uniform), 100~20 (normal), lognormal:100~20, or 1:50x3,51:200x1 (a histogram)",
    )
    prompts.add_argument("--synthetic-words", metavar="LENGTH", help="made-up text of so many words")
    prompts.add_argument("--synthetic-tokens", metavar="LENGTH", help="made-up token ids, for --endpoint completions")
    prompts.add_argument(
        "--mix", metavar="IN/OUT@WEIGHT,…", help="made-up text and answers by weight, as in 500/100@3,8000:9000/20"
    )
    requests.add_argument(
        "--output-tokens", metavar="LENGTH", help="of each answer to made-up prompts, in place of --max-tokens"
    )


def typed_synthetic(args: argparse.Namespace) -> dict[str, Any] | None:
    """The prompts to make up, as a plan has them; None where none are. Raises `UsageError`."""
    output = None if args.output_tokens is None else {"output": _length("--output-tokens", args.output_tokens)}
    if args.mix is not None:
        return {"kind": "synthetic", "unit": "text", "mix": _mix(args.mix)} | (output or {})
    for name, unit in _UNITS.items():
        if (text := getattr(args, name)) is not None:
            length = _length("--" + name.replace("_", "-"), text)
            return {"kind": "synthetic", "unit": unit, "length": length} | (output or {})
    if output:
        message = "--output-tokens belongs to prompts that are made up: give --input-tokens too, or use --max-tokens"
        raise UsageError(message)
    return None


def number(option: str, text: str) -> float:
    """What is typed, as a number. Raises `UsageError`."""
    try:
        return float(text)
    except ValueError:
        message = f"{option}: {text!r} is no number"
        raise UsageError(message) from None


def _mix(text: str) -> list[dict[str, object]]:
    parts = []
    for part in text.split(","):
        match = re.fullmatch(rf"([^/@]+)/([^/@]+)(?:@({_NUMBER}))?", part.strip())
        if match is None:
            message = f"--mix: {part!r} must look like 500/100@3 (lengths of prompt and answer, and their weight)"
            raise UsageError(message)
        lengths = {"input": _length("--mix", match[1]), "output": _length("--mix", match[2])}
        parts.append({**lengths, "weight": number("--mix", match[3] or "1")})
    return parts


def _length(option: str, text: str) -> dict[str, object]:
    if match := re.fullmatch(r"(\d+)", text):
        return {"kind": "fixed", "n": int(match[1])}
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return {"kind": "uniform", "low": int(match[1]), "high": int(match[2])}
    if match := re.fullmatch(rf"(lognormal:)?({_NUMBER})~({_NUMBER})", text):
        kind = "lognormal" if match[1] else "normal"
        return {"kind": kind, "mean": number(option, match[2]), "stddev": number(option, match[3])}
    bins = [re.fullmatch(rf"(\d+)(?::(\d+))?x({_NUMBER})", part.strip()) for part in text.split(",")]
    if (found := [match for match in bins if match]) and len(found) == len(bins):
        return {"kind": "histogram", "bins": [_bin(option, match) for match in found]}
    message = f"{option} {text!r} {_HOW}"
    raise UsageError(message)


def _bin(option: str, match: re.Match[str]) -> dict[str, object]:
    return {"low": int(match[1]), "high": int(match[2] or match[1]), "weight": number(option, match[3])}
