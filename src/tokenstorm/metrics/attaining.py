"""Whether one run of a series held its objectives: shares with bounds, the backlog, the load generator's own faults."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from tokenstorm.load_parts import Slo
from tokenstorm.metrics.intervals import share_lower_bound
from tokenstorm.metrics.points import Attainment, Backlog, Held
from tokenstorm.metrics.summary import QUANTILES, Summary

CONFIDENCE = 0.95
GENERATOR = frozenset(("not_sent", "send_lag", "stalled", "rank_cpu", "ranks_lost", "rank_cap", "internal", "disk"))
"""The reasons of a verdict by which the load generator accuses itself."""
MOMENTARY = frozenset(("send_lag", "stalled"))
"""Those of them that touch a few requests, and not all."""
TOUCHED = 0.05
"""How many those are at most: a run that misses its objectives by more failed, whatever the load generator did for a moment."""
GROWTH = 0.02
"""A backlog that takes up more than this share of the arrivals is one that grows."""
FEWEST_SECONDS = 4
"""Of so few seconds no trend is told."""
_METRICS = {
    "ttft_seconds": "ttft_seconds",
    "tpot_seconds": "tpot_seconds",
    "latency_seconds": "latency_seconds",
    "inter_chunk_p99_seconds": "inter_chunk_seconds",
}


def attainment(good: int, scheduled: int, confidence: float = CONFIDENCE) -> Attainment | None:
    """The share of good requests with its one-sided bounds; None where nothing was scheduled."""
    if not scheduled:
        return None
    low, high = (
        share_lower_bound(good, scheduled, confidence),
        1 - share_lower_bound(scheduled - good, scheduled, confidence),
    )
    return Attainment(good, scheduled, good / scheduled, low, high, confidence)


def fewest_requests(share: float, confidence: float = CONFIDENCE) -> int:
    """How many requests, all of them good, show that a share is reached; 0 for a share that nothing can show."""
    if share >= 1:
        return 0
    many = 1
    while share_lower_bound(many, many, confidence) < share:
        many *= 2
    few = many // 2
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if share_lower_bound(middle, middle, confidence) >= share else (middle, many)
    return many


def backlog(in_flight: Sequence[float], rate: float | None) -> Backlog | None:
    """The trend of what was in flight or waited at the end of each second, at so many arrivals a second.

    By least squares; the error allows for seconds that are like those before them. None of too few, or without a rate.
    """
    count = len(in_flight)
    if count < FEWEST_SECONDS or not rate:
        return None
    times = [second - (count - 1) / 2 for second in range(count)]
    spread = sum(time * time for time in times)
    mean = fmean(in_flight)
    slope = sum(time * value for time, value in zip(times, in_flight, strict=True)) / spread
    left = [value - mean - slope * time for time, value in zip(times, in_flight, strict=True)]
    variance = sum(value * value for value in left) / (count - 2)
    like = sum(one * two for one, two in pairwise(left)) / sum(value * value for value in left) if variance else 0.0
    like = min(max(like, 0.0), 0.9)
    error = math.sqrt(variance / spread * (1 + like) / (1 - like))
    return Backlog(slope, error, grows=slope - 1.645 * error > 0 and slope > GROWTH * rate)


def used(summary: Summary, slo: Slo) -> dict[str, float]:
    """How much of each objective its percentile at the share that is asked for took; 1 is all of it."""
    quantile = next((name for name, at in QUANTILES.items() if at >= slo.share), "p999")
    found = {}
    for objective, bound in slo.bounds.items():
        metric = summary.metrics.get(_METRICS[objective])
        value = None if metric is None else getattr(metric, "p99" if objective.startswith("inter_chunk") else quantile)
        if bound is not None and value is not None:
            found[objective] = value / bound
    return found


def judged(summary: Summary, slo: Slo, found: Attainment | None, growing: Backlog | None) -> tuple[Held, list[str]]:
    """Whether a run held its objectives, and by what it was bound if not: objectives, `backlog`, `failures`."""
    faults = {reason.code for reason in summary.verdict.reasons} & GENERATOR
    if found is None:
        return ("unfit", []) if faults else ("failed", ["failures"])
    if faults and not (faults <= MOMENTARY and found.share + TOUCHED < slo.share):
        return "unfit", []
    grows = growing is not None and growing.grows
    if found.low >= slo.share and not grows:
        return "held", []
    if found.high >= slo.share and not grows and fewest_requests(slo.share):
        return "short", []
    counts = summary.counts
    taken = sorted(used(summary, slo).items(), key=lambda one: -one[1])
    bound = ["backlog"] * grows + [objective for objective, share in taken if share > 1]
    if counts.failed + counts.censored + counts.unsent > (1 - slo.share) * counts.judged:
        bound.append("failures")
    return "failed", bound or [taken[0][0]] if taken else bound
