"""What is typed in a form of its own: prompts that are made up, with their lengths and mixes, and objectives."""

import argparse
import re
from pathlib import Path
from typing import Any

import msgspec

from tokenstorm.errors import NOT_JSON, UsageError

SHIPPED = Path(__file__).parent / "requests"
"""Requests that are no known operation's, ready to be used."""
_UNITS = {"input_tokens": "text", "synthetic_words": "words", "synthetic_tokens": "tokens"}
_NUMBER = r"\d+(?:\.\d*)?"
_HOW = (
    "must look like 100, 50:200 (uniform), 100~20 (normal: mean and deviation), lognormal:100~20, "
    "or 1:50x3,51:200x1 (a histogram: bins and their weights)"
)

_OBJECTIVES = {
    "ttft": "ttft_seconds",
    "tpot": "tpot_seconds",
    "latency": "latency_seconds",
    "inter_chunk_p99": "inter_chunk_p99_seconds",
}
_TIME_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "%": 1e-2}
_HOW_OBJECTIVES = "must look like ttft=500ms,tpot=50ms; there is ttft, tpot, latency and inter_chunk_p99, and share=99%"


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
    prompts.add_argument(
        "--shared-prefix",
        metavar="GROUPSxPREFIX+QUESTION",
        help="made-up text of which groups begin alike, as in 20x2000+100; @1.2 behind it: popular by Zipf",
    )
    requests.add_argument(
        "--output-tokens", metavar="LENGTH", help="of each answer to made-up prompts, in place of --max-tokens"
    )


def typed_synthetic(args: argparse.Namespace) -> dict[str, Any] | None:
    """The prompts to make up, as a plan has them; None where none are. Raises `UsageError`."""
    output = None if args.output_tokens is None else {"output": _length("--output-tokens", args.output_tokens)}
    if args.mix is not None:
        return {"kind": "synthetic", "unit": "text", "mix": _mix(args.mix)} | (output or {})
    if args.shared_prefix is not None:
        return _shared_prefix(args.shared_prefix) | (output or {})
    for name, unit in _UNITS.items():
        if (text := getattr(args, name)) is not None:
            length = _length("--" + name.replace("_", "-"), text)
            return {"kind": "synthetic", "unit": unit, "length": length} | (output or {})
    if output:
        message = "--output-tokens belongs to prompts that are made up: give --input-tokens too, or use --max-tokens"
        raise UsageError(message)
    return None


_UNIT_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A time as people type it: 30, 500ms, 10s, 2m, 1h. Raises `argparse.ArgumentTypeError`."""
    match = re.fullmatch(r"(.*?)(ms|s|min|m|h|)", text.strip())
    try:
        return round(float(match[1]) * _UNIT_SECONDS[match[2]], 9) if match else float(text)
    except ValueError:
        message = f"{text!r} is no time: it looks like 30 (seconds), 500ms, 10s, 2m or 1h"
        raise argparse.ArgumentTypeError(message) from None


def typed_url(text: str) -> str:
    """An address, with the scheme that people leave out before a host and a port."""
    return f"http://{text}" if re.match(r"[\w.-]+:\d+(/|$)", text) else text


def add_conversation_options(load: "argparse._ArgumentGroup") -> None:
    """The options of conversations that are more than a field."""
    load.add_argument(
        "--turn-think",
        dest="conversation_think_seconds",
        metavar="TIME",
        help="from an answer to the session's next turn: 2, 1:5 (uniform), exponential:5, lognormal:5~3 (0 s)",
    )
    load.add_argument(
        "--first-tokens",
        dest="conversation_first",
        metavar="LENGTH",
        help="of the first question of a session, where it is not as long as the others (made-up text)",
    )


OF_CONVERSATIONS = {
    "conversation.think_seconds": "--turn-think",
    "conversation.first": "--first-tokens",
    "conversation.turns": "--turns",
}
_PART_OF_CONVERSATION = {
    "history": "--history",
    "sessions": "--sessions",
    "sessions_per_second": "--sessions-per-second",
    "think_seconds": "--turn-think",
    "first": "--first-tokens",
}


def typed_conversation(args: argparse.Namespace) -> dict[str, Any]:
    """The field `conversation`, where one is asked for. Raises `UsageError`."""
    found = {
        name: value
        for name in _PART_OF_CONVERSATION
        if (value := getattr(args, f"conversation_{name}", None)) is not None
    }
    turns = getattr(args, "conversation", None)
    if turns is None:
        if found:
            message = f"{_PART_OF_CONVERSATION[next(iter(found))]} belongs to conversations: give --turns too (`all` that were recorded)"
            raise UsageError(message)
        return {}
    if turns != "all":
        found["turns"] = _length("--turns", turns)
    if "first" in found:
        found["first"] = _length("--first-tokens", found["first"])
    if "think_seconds" in found:
        found["think_seconds"] = _pause("--turn-think", found["think_seconds"])
    return {"conversation": found}


def _pause(option: str, text: str) -> float | dict[str, object]:
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if match := re.fullmatch(rf"({_NUMBER}):({_NUMBER})", text):
        return {"kind": "uniform", "low": float(match[1]), "high": float(match[2])}
    if match := re.fullmatch(rf"exponential:({_NUMBER})", text):
        return {"kind": "exponential", "mean": float(match[1])}
    if match := re.fullmatch(rf"lognormal:({_NUMBER})~({_NUMBER})", text):
        return {"kind": "lognormal", "mean": float(match[1]), "stddev": float(match[2])}
    message = f"{option} {text!r} must look like 2, 1:5 (uniform), exponential:5, or lognormal:5~3 (mean and deviation)"
    raise UsageError(message)


def number(option: str, text: str) -> float:
    """What is typed, as a number. Raises `UsageError`."""
    try:
        return float(text)
    except ValueError:
        message = f"{option}: {text!r} is no number"
        raise UsageError(message) from None


def named_values(option: str, texts: list[str]) -> dict[str, str]:
    """What is typed as KEY=VALUE, again for each. Raises `UsageError`."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            message = f"{option} {text!r} must look like KEY=VALUE"
            raise UsageError(message)
        found[key] = value
    return found


def typed_cancel(text: str) -> dict[str, Any]:
    """Which requests are given up, as in `10%@2s` or `0.1@20tokens`. Raises `UsageError`."""
    match = re.fullmatch(rf"({_NUMBER})(%?)@({_NUMBER})(ms|s|tokens?)", text)
    if match is None:
        message = f"--cancel {text!r} must look like 10%@2s or 10%@20tokens: a share, and when they are given up"
        raise UsageError(message)
    rate = round(float(match[1]) * _TIME_UNITS[match[2]], 9)
    if match[4].startswith("token"):
        return {"rate": rate, "after_tokens": round(float(match[3]))}
    return {"rate": rate, "after_seconds": round(float(match[3]) * _TIME_UNITS[match[4]], 9)}


def typed_models(text: str) -> list[dict[str, Any]]:
    """Models and their weights, as in `base@3,adapter-1`. Raises `UsageError`."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(rf"(.+?)(?:@({_NUMBER}))?", part.strip())
        if match is None:
            message = f"--models {text!r} must look like base@3,adapter-1: names, and how often each is asked"
            raise UsageError(message)
        found.append({"name": match[1], "weight": number("--models", match[2] or "1")})
    return found


def typed_custom(text: str) -> dict[str, Any]:
    """A request of one's own: as JSON, in a file, or by the name of one that is shipped. Raises `UsageError`."""
    where, data = "--custom", text.encode(errors="replace")
    if not text.lstrip().startswith("{"):
        shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.json"))}
        path = shipped.get(text) or Path(text)
        where = f"--custom {text}"
        try:
            data = path.read_bytes()
        except OSError as error:
            names = ", ".join(shipped)
            message = (
                f"{where}: cannot read it: {error.strerror}; give a file, or one of those that are shipped: {names}"
            )
            raise UsageError(message) from None
    try:
        found: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except NOT_JSON as error:
        message = f"{where}: it must be a JSON object: {error}"
        raise UsageError(message) from None
    return found


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


def _shared_prefix(text: str) -> dict[str, Any]:
    match = re.fullmatch(rf"(\d+)x(\d+)\+([^@]+)(?:@({_NUMBER}))?", text)
    if match is None:
        message = (
            f"--shared-prefix {text!r} must look like 20x2000+100: groups, tokens they share, tokens of each question"
        )
        raise UsageError(message)
    question = _length("--shared-prefix", match[3])
    zipf = number("--shared-prefix", match[4] or "0")
    return {
        "kind": "shared_prefix",
        "groups": int(match[1]),
        "prefix": int(match[2]),
        "question": question,
        "zipf": zipf,
    }


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


def typed_slo(text: str) -> dict[str, Any]:
    """The objectives as they are typed, as in `ttft=500ms,tpot=50ms,share=95%`. Raises `UsageError`."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\w+)=(\d+\.?\d*)(ms|s|%|)", part.strip())
        name = "share" if match and match[1] == "share" else _OBJECTIVES.get(match[1]) if match else None
        units = {"", "%"} if name == "share" else {"", "s", "ms"}
        if match is None or name is None or match[3] not in units or name in found:
            message = f"--slo: {part!r} {_HOW_OBJECTIVES}"
            raise UsageError(message)
        found[name] = round(float(match[2]) * _TIME_UNITS[match[3]], 9)
    return found
