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
STEP = 0.75
"""From what could not be told to the next try, as a share of the precision."""
STEEP = 0.1


class Try(NamedTuple):
    """What to run next; `near` tells that it decides the answer, and gets a longer window."""

    value: float
    near: bool


class _Bracket(NamedTuple):
    """`unsure` are the values between `low` and `high` whose runs could not tell: the capacity is close to them."""

    low: float | None
    high: float | None
    unsure: list[float]


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
    low, high, unsure = _bracket(search, points)
    if high is None:
        return _upwards(search, points, unsure[-1] if unsure else low)
    if low is None:
        return _downwards(search, unsure[0] if unsure else high)
    return _inwards(search, points, low, high, unsure)


def _inwards(search: Search, points: Sequence[Point], low: float, high: float, unsure: Sequence[float]) -> Try | Ending:
    """Bisect, or close in around what could not be told; once that is narrow enough, run the ends again until they are believed."""
    if (inside := _around(search, low, high, unsure) if unsure else _between(search, low, high)) is not None:
        return Try(inside, near=bool(unsure) or high / low <= (1 + search.precision) ** 4)
    counts = _counts(search, points)
    ends = [(low, "held"), (high, "failed")]
    once = [value for value, state in ends if counts[value][state] < AGREE]
    return Try(min(once, key=lambda value: _evidence(search, points, value)), near=True) if once else "found"


def _evidence(search: Search, points: Sequence[Point], value: float) -> tuple[float, float]:
    """How much speaks for what a value showed: the longest window, and how far its share is from a half, in log odds."""
    seen = [one for one in points if value_of(search, one) == value]
    counts = [one.attainment for one in seen if one.attainment]
    good, scheduled = sum(one.good for one in counts) + 0.5, sum(one.scheduled for one in counts) + 1
    return round(max(one.seconds for one in seen)), abs(math.log(good / (scheduled - good)))


def _around(search: Search, low: float, high: float, unsure: Sequence[float]) -> float | None:
    """A value just beside those that could not be told, or None where both ends of the bracket are within the precision of them.

    The more of them there are, the greater the steps: most of the precision at first.
    """
    least, most, near = unsure[0], unsure[-1], 1 + search.precision
    step = near**STEP * most / least
    below, above = max(least / step, low), min(most * step, high)
    if search.field == "num_clients":
        below, above = min(least - 1, float(round(below))), max(most + 1, float(round(above)))
    else:
        below, above = float(f"{below:.4g}"), float(f"{above:.4g}")
    if least / low > near and below > low:
        return below
    return above if high / most > near and above < high else None


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
    """The highest value that held below the lowest that failed. A value at which runs disagree did neither."""
    counts = _counts(search, points)
    high = min((value for value, seen in counts.items() if _most(seen, "failed")), default=None)
    under = {value: seen for value, seen in counts.items() if high is None or value < high}
    low = max((value for value, seen in under.items() if _most(seen, "held")), default=None)
    return _Bracket(low, high, sorted(value for value in under if low is None or value > low))


def _most(seen: Counter[str], state: str) -> bool:
    """Whether more than half of the runs at a value say so."""
    return 2 * seen[state] > seen.total()


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
    if ended == "found" and bracket.unsure:
        near = ", ".join(f"{value:g}" for value in bracket.unsure)
        return (
            f"both ends were seen twice; at {near} between them runs could not tell: longer windows narrow the bracket"
        )
    return {
        "found": f"the bracket is within {search.precision:.3g} of the {name}, and both its ends were seen twice",
        "most": f"{bracket.low or 0:g}, the highest {name} that was allowed, held: allow more to find the limit",
        "runs": f"the {search.most_runs} runs that were allowed are used up: allow more to narrow the bracket",
        "generator": f"the load generator reached its own limit first, at {limit:g}: use more ranks or nodes, and search again",
        "nothing_held": f"the objectives were missed at every {name} down to {bracket.high or 0:g}: loosen them or start lower",
        "unfinished": "it was stopped before its end: resume it to narrow the bracket",
    }[ended]
