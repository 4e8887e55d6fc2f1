"""Objectives of a request: what makes it good."""

import re
from typing import Annotated, Any

from msgspec import Meta

from tokenstorm.errors import UsageError
from tokenstorm.strict import Misfit, Positive, Strict, doc

DEFAULT_SHARE = 0.99
_TIMES = {
    "ttft": "ttft_seconds",
    "tpot": "tpot_seconds",
    "latency": "latency_seconds",
    "inter_chunk_p99": "inter_chunk_p99_seconds",
}
_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "%": 1e-2}
_HOW = "must look like ttft=500ms,tpot=50ms; there is ttft, tpot, latency and inter_chunk_p99, and share=99%"


class Slo(Strict, frozen=True, kw_only=True):
    """Objectives of one request: times that are not to be exceeded, in seconds. A request is good if it succeeded and met all.

    A request that has no such time did not meet its objective: there is no `tpot` where an answer has one token only.
    """

    ttft_seconds: Annotated[Positive | None, doc("From the send to the first token")] = None
    tpot_seconds: Annotated[Positive | None, doc("Per output token after the first")] = None
    latency_seconds: Annotated[Positive | None, doc("From the scheduled time to the end of the answer")] = None
    inter_chunk_p99_seconds: Annotated[
        Positive | None, doc("The 99th percentile of the request's own times between reads with tokens")
    ] = None
    share: Annotated[
        float,
        Meta(gt=0, le=1),
        doc("How many of all scheduled requests are to be good, for the exit code and the report"),
    ] = DEFAULT_SHARE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(getattr(self, name) for name in _TIMES.values()):
            message = f"an objective is needed: {', '.join(f'`{name}`' for name in _TIMES.values())}"
            raise Misfit(message)


def typed_slo(text: str) -> dict[str, Any]:
    """The objectives as they are typed, as in `ttft=500ms,tpot=50ms,share=95%`. Raises `UsageError`."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\w+)=(\d+\.?\d*)(ms|s|%|)", part.strip())
        name = "share" if match and match[1] == "share" else _TIMES.get(match[1]) if match else None
        units = {"", "%"} if name == "share" else {"", "s", "ms"}
        if match is None or name is None or match[3] not in units or name in found:
            message = f"--slo: {part!r} {_HOW}"
            raise UsageError(message)
        found[name] = round(float(match[2]) * _UNITS[match[3]], 9)
    return found
