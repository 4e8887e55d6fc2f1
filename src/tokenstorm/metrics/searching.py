"""A search for the capacity, step by step: which value is tried next follows from the points there are, and nothing else."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from tokenstorm.load_parts import Slo
from tokenstorm.metrics.attaining import fewest_requests
from tokenstorm.metrics.points import Capacity, Ending, Point
from tokenstorm.series_parts import Search

COMFORT = 0.5
"""Where a run used less than this of each objective, the next is four times as high; else twice."""
AGREE = 2
"""So many runs must agree before an end of the bracket is believed."""
HALVINGS = 6
UNFIT = 3
"""So many runs on end of which the load generator accuses itself end a search; fewer may be a machine that was busy for a moment."""
EDGE_LONGER = 2.0
"""How much longer the window is near the edge."""
MORE_REQUESTS = 2.0
"""How many times the fewest requests that can show the share a window is to have."""
LONGEST_SECONDS = 3600.0
STEEP = 0.1


class Try(NamedTuple):
    """What to run next; `near` tells that it decides the answer, and gets a longer window."""

    value: float
    near: bool


class _Bracket(NamedTuple):
    low: float | None
    high: float | None
    contested: float | None


def next_try(search: Search, points: Sequence[Point]) -> Try | None:
    """The next value, or None when the search is over."""
    step = _step(search, points)
    return step if isinstance(step, Try) else None


def answer(search: Search, slo: Slo, points: Sequence[Point], *, stopped: bool = False) -> Capacity:
    """What is known of the capacity; `stopped` tells that the search did not come to its end."""
    step = _step(search, points)
    bracket = _bracket(search, points)
    ended: Ending = "unfinished" if stopped or isinstance(step, Try) else step
    low, high = _at(search, points, bracket.low, "held"), _at(search, points, bracket.high, "failed")
    counts = _counts(search, points)
    sure = ended in {"found", "most"} and all(
        counts[value]["held" if value == bracket.low else "failed"] >= AGREE
        for value in (bracket.low, bracket.high)
        if value is not None
    )
    rate, tokens = _mean([one.achieved_rps for one in low]), _mean([one.output_tokens_per_second for one in low])
    gpus = next((one.gpus for one in low if one.gpus), None)
    joules = _mean([one.joules_per_output_token for one in low])
    return Capacity(
        field=search.field,
        held=bracket.low,
        failed=bracket.high,
        bound_by=_bound_by(high),
        shape=_shape(low, high),
        sure=sure,
        ended=ended,
        reason=_reason(ended, search, bracket, value_of(search, points[-1]) if points else 0.0),
        share=slo.share,
        held_attainment=low[-1].attainment if low else None,
        failed_attainment=high[-1].attainment if high else None,
        requests_per_second=rate,
        output_tokens_per_second=tokens,
        output_tokens_per_second_per_gpu=tokens / gpus if tokens is not None and gpus else None,
        output_tokens_per_joule=1 / joules if joules else None,
    )


def window_seconds(search: Search, points: Sequence[Point], trial: Try, base: float, share: float) -> float:
    """How long the measured window of a run is: long enough for the requests that the share needs, longer near the edge."""
    seconds = base * (EDGE_LONGER if trial.near else 1.0)
    rate = trial.value if search.field == "requests_per_second" else _expected_rate(search, points, trial.value)
    if rate:
        seconds = max(seconds, MORE_REQUESTS * fewest_requests(share) / rate)
    return min(seconds, max(base, LONGEST_SECONDS))


def value_of(search: Search, point: Point) -> float:
    """The value that was searched for at a point."""
    value = point.values[search.field]
    assert isinstance(value, int | float)
    return float(value)


def _step(search: Search, points: Sequence[Point]) -> Try | Ending:
    """What to try next, or why the search is over."""
    if len(points) >= UNFIT and all(point.state == "unfit" for point in points[-UNFIT:]):
        return "generator"
    step = _unlimited(search, points)
    return "runs" if isinstance(step, Try) and len(points) >= search.most_runs else step


def _unlimited(search: Search, points: Sequence[Point]) -> Try | Ending:
    if not points or points[-1].state == "unfit":
        return Try(value_of(search, points[-1]) if points else search.start, near=False)
    low, high, contested = _bracket(search, points)
    if contested is not None:
        return Try(contested, near=True)
    if high is None:
        return _upwards(search, points, low)
    return _downwards(search, high) if low is None else _inwards(search, points, low, high)


def _inwards(search: Search, points: Sequence[Point], low: float, high: float) -> Try | Ending:
    """Bisect; once the bracket is narrow enough, run its ends again until they are believed."""
    if (middle := _between(search, low, high)) is not None:
        return Try(middle, near=high / low <= (1 + search.precision) ** 4)
    counts = _counts(search, points)
    if counts[low]["held"] < AGREE:
        return Try(low, near=True)
    return Try(high, near=True) if counts[high]["failed"] < AGREE else "found"


def _upwards(search: Search, points: Sequence[Point], low: float | None) -> Try | Ending:
    assert low is not None, "a point held, failed or is contested"
    if search.most is not None and low >= search.most:
        return "most" if _counts(search, points)[low]["held"] >= AGREE else Try(low, near=True)
    last = next(one for one in reversed(points) if value_of(search, one) == low)
    higher = low * (4 if last.used and max(last.used.values()) < COMFORT else 2)
    return Try(higher if search.most is None else min(higher, search.most), near=False)


def _downwards(search: Search, high: float) -> Try | Ending:
    lower = high / 2
    if search.field == "num_clients":
        return Try(float(max(1, round(lower))), near=False) if high > 1 else "nothing_held"
    return Try(lower, near=False) if lower >= search.start / 2**HALVINGS else "nothing_held"


def _between(search: Search, low: float, high: float) -> float | None:
    """A value in the middle, or None where the bracket is narrow enough."""
    if high / low <= 1 + search.precision:
        return None
    middle = math.sqrt(low * high)
    if search.field == "num_clients":
        middle = float(round(middle))
        middle = middle if low < middle < high else (low + high) // 2
        return middle if low < middle < high else None
    return float(f"{middle:.4g}")


def _counts(search: Search, points: Sequence[Point]) -> dict[float, Counter[str]]:
    """How often each value held, failed, or was too short to tell."""
    counts: dict[float, Counter[str]] = {}
    for point in points:
        if point.state and point.state != "unfit":
            counts.setdefault(value_of(search, point), Counter())[point.state] += 1
    return counts


def _bracket(search: Search, points: Sequence[Point]) -> _Bracket:
    """The highest value below the lowest that failed; a value of which as many runs held as failed is contested."""
    counts = _counts(search, points)
    high = min((value for value, seen in counts.items() if seen["failed"] > seen["held"]), default=None)
    up = [value for value, seen in counts.items() if seen["held"] > seen["failed"] or seen.total() == seen["short"]]
    low = max((value for value in up if high is None or value < high), default=None)
    contested = min((value for value, seen in counts.items() if 0 < seen["held"] == seen["failed"]), default=None)
    if contested is not None and high is not None and contested >= high:
        contested = None
    return _Bracket(low, high, contested)


def _at(search: Search, points: Sequence[Point], value: float | None, state: str) -> list[Point]:
    return [one for one in points if value is not None and one.state == state and value_of(search, one) == value]


def _expected_rate(search: Search, points: Sequence[Point], value: float) -> float | None:
    below = [one for one in points if value_of(search, one) <= value]
    return max(below, key=lambda one: value_of(search, one)).achieved_rps if below else None


def _bound_by(high: Sequence[Point]) -> list[str]:
    seen = Counter(bound for one in high for bound in one.bound_by)
    return [bound for bound, _ in seen.most_common()]


def _shape(low: Sequence[Point], high: Sequence[Point]) -> Literal["cliff", "slope"] | None:
    if not low or not high:
        return None
    held, failed = (
        _mean([one.attainment.share if one.attainment else 0.0 for one in side]) or 0.0 for side in (low, high)
    )
    return "cliff" if held - failed > STEEP or any("backlog" in one.bound_by for one in high) else "slope"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _reason(ended: Ending, search: Search, bracket: _Bracket, limit: float) -> str:
    name = {"requests_per_second": "rate", "num_clients": "number of clients"}[search.field]
    return {
        "found": f"the bracket is within {search.precision:.3g} of the {name}, and both its ends were seen twice",
        "most": f"{bracket.low or 0:g}, the highest {name} that was allowed, held: allow more to find the limit",
        "runs": f"the {search.most_runs} runs that were allowed are used up: allow more to narrow the bracket",
        "generator": f"the load generator reached its own limit first, at {limit:g}: use more ranks or nodes, and search again",
        "nothing_held": f"the objectives were missed at every {name} down to {bracket.high or 0:g}: loosen them or start lower",
        "unfinished": "it was stopped before its end: resume it to narrow the bracket",
    }[ended]
