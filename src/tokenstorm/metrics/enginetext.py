"""An engine's `/metrics`, read: the names of vLLM, SGLang, llama.cpp, TGI and TensorRT-LLM in one form.

Only lines of known names are looked at, since a text may be long and is read every second.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from tokenstorm.metrics.engine import EngineSecond, EngineTimes, ratio

_GAUGES: dict[str, tuple[str, ...]] = {
    "running": (
        "vllm:num_requests_running",
        "sglang:num_running_reqs",
        "llamacpp:requests_processing",
        "tgi_batch_current_size",
    ),
    "waiting": (
        "vllm:num_requests_waiting",
        "sglang:num_queue_reqs",
        "llamacpp:requests_deferred",
        "tgi_queue_size",
    ),
    "kv_usage": (
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "sglang:token_usage",
        "llamacpp:kv_cache_usage_ratio",
    ),
    "hit_rate": ("sglang:cache_hit_rate",),
    "acceptance": ("sglang:spec_accept_rate",),
}
_COUNTERS: dict[str, tuple[str, ...]] = {
    "prefix_queries": (
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_queries",
        "vllm:gpu_prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries",
    ),
    "prefix_hits": (
        "vllm:prefix_cache_hits_total",
        "vllm:prefix_cache_hits",
        "vllm:gpu_prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits",
        "sglang:cached_tokens_total",
    ),
    "preemptions": ("vllm:num_preemptions_total", "sglang:num_retracted_requests_total"),
    "prompt_tokens": (
        "vllm:prompt_tokens_total",
        "sglang:prompt_tokens_total",
        "llamacpp:prompt_tokens_total",
        "tgi_request_input_length_sum",
    ),
    "generation_tokens": (
        "vllm:generation_tokens_total",
        "sglang:generation_tokens_total",
        "llamacpp:tokens_predicted_total",
        "tgi_request_generated_tokens_sum",
    ),
    "drafted_tokens": (
        "vllm:spec_decode_num_draft_tokens_total",
        "llamacpp:spec_decode_num_draft_tokens_total",
    ),
    "accepted_tokens": (
        "vllm:spec_decode_num_accepted_tokens_total",
        "llamacpp:spec_decode_num_accepted_tokens_total",
    ),
}
_TIMES: dict[str, tuple[str, ...]] = {
    "ttft_seconds": (
        "vllm:time_to_first_token_seconds",
        "sglang:time_to_first_token_seconds",
        "trtllm:time_to_first_token_seconds",
    ),
    "queue_seconds": (
        "vllm:request_queue_time_seconds",
        "sglang:queue_time_seconds",
        "trtllm:request_queue_time_seconds",
        "tgi_request_queue_duration",
    ),
}
_PARTS = ("_bucket", "_sum", "_count")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


_TOGETHER: dict[str, Callable[[list[float]], float]] = {"kv_usage": max, "hit_rate": _mean, "acceptance": _mean}
"""How the figures of several engines behind one address become one; the others are added up."""

_PLACE = {name.encode(): field for table in (_GAUGES, _COUNTERS) for field, names in table.items() for name in names}
_PLACE |= {
    f"{name}{part}".encode(): f"{field}{part}" for field, names in _TIMES.items() for name in names for part in _PARTS
}
_LINE = re.compile(rb"^(%b)(?:\{(.*)\})? +(\S+)" % b"|".join(map(re.escape, _PLACE)), re.MULTILINE)
_BOUND = re.compile(rb'(?:^|,)le="(\+Inf|[0-9]{1,9}(?:\.[0-9]{1,12})?(?:e-?[0-9]{1,2})?)"')
_MOST_BOUNDS = 200
_LARGEST = float(2**53)
"""A count above it is none: no float counts further."""


class EngineReading(msgspec.Struct, frozen=True):
    """An engine's figures at one moment. Counters and times are those since it started."""

    gauges: dict[str, float]
    counters: dict[str, float]
    times: dict[str, EngineTimes]


def read_engine(text: bytes) -> EngineReading | None:
    """Read a Prometheus text; None where it holds nothing that an engine says."""
    named: dict[bytes, list[float]] = {}
    bounds_of: dict[bytes, dict[str, int]] = {}
    for name, labels, written in _LINE.findall(text):
        value = _number(written)
        if value is None:
            continue
        named.setdefault(name, []).append(value)
        if name.endswith(b"_bucket") and (bound := _BOUND.search(labels)):
            of_name = bounds_of.setdefault(name, {})
            of_name[bound[1].decode()] = _count(of_name.get(bound[1].decode(), 0) + value)
    if not named:
        return None
    values: dict[str, list[float]] = {}
    bounds: dict[str, dict[str, int]] = {}
    for name, field in _PLACE.items():
        if name in named and field not in values:  # a figure that was renamed is told by both names for some versions
            values[field] = named[name]
            bounds[field.removesuffix("_bucket")] = bounds_of.get(name, {})
    told = {field: _TOGETHER.get(field, sum)(numbers) for field, numbers in values.items()}
    if "prefix_hits" in told:
        told.setdefault(
            "prefix_queries", told.get("prompt_tokens", 0.0)
        )  # SGLang counts all prompt tokens, and those cached
    return EngineReading(
        {field: told[field] for field in _GAUGES if field in told},
        {field: told[field] for field in _COUNTERS if field in told},
        {
            field: EngineTimes(_count(told[f"{field}_count"]), told[f"{field}_sum"], bounds.get(field, {}))
            for field in _TIMES
            if f"{field}_count" in told and f"{field}_sum" in told and len(bounds.get(field, {})) <= _MOST_BOUNDS
        },
    )


def _number(written: bytes) -> float | None:
    """A figure; None for what cannot be one, as NaN before there is any."""
    try:
        value = float(written)
    except ValueError:
        return None
    return value if 0 <= value < _LARGEST else None


def _count(value: float) -> int:
    return round(min(value, _LARGEST))


def second_between(before: EngineReading, now: EngineReading, at: float, seconds: float) -> EngineSecond:
    """What an engine says at `at`, and what it counted in the `seconds` since `before`.

    An engine that started again counts from 0: what it counted since then cannot be told, and is left out.
    """
    figures: dict[str, Any] = dict(now.gauges)
    if (times := _counted(before, now)) is not None:
        counters = {
            name: value - before.counters[name] for name, value in now.counters.items() if name in before.counters
        }
        rates = {
            "hit_rate": ratio(counters.get("prefix_hits"), counters.get("prefix_queries")),
            "acceptance": ratio(counters.get("accepted_tokens"), counters.get("drafted_tokens")),
        }
        figures |= {name: rate for name, rate in rates.items() if rate is not None}
        figures |= counters | times | {"seconds": round(seconds, 3)}
    return EngineSecond(at=round(at, 3), **figures)


def _counted(before: EngineReading, now: EngineReading) -> dict[str, EngineTimes] | None:
    """The times that came between two readings; None where a count went down."""
    if any(value < before.counters.get(name, 0.0) for name, value in now.counters.items()):
        return None
    counted = {}
    for name, times in now.times.items():
        earlier = before.times.get(name)
        if earlier is None:
            continue
        if times.count < earlier.count:
            return None
        counted[name] = EngineTimes(
            times.count - earlier.count, times.sum - earlier.sum, _buckets(earlier.buckets, times.buckets)
        )
    return counted


def _buckets(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """Of cumulative buckets at two moments, how many came into each; see `EngineTimes`."""
    buckets: dict[str, int] = {}
    below, lower = 0, None
    for bound in sorted(now, key=float):
        since = now[bound] - before.get(bound, 0)
        if since > below:
            if lower is not None:
                buckets.setdefault(lower, 0)
            buckets[bound] = since - below
        below, lower = max(below, since), bound
    return buckets
