"""When requests are meant to leave: arithmetic on the plan and its seed, with no clock in it.

A stream of unit-rate work S_0 ≤ S_1 ≤ … (constant, exponential or gamma gaps) is mapped through the inverse of the
cumulative rate Λ(t), so that every kind of arrival works with every profile of the rate. Times are integer nanoseconds
from the common start.
"""

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate, count
from math import fsum, inf, log1p, sqrt
from operator import neg

from tokenstorm.load_parts import Arrival
from tokenstorm.plan import Plan

MOST_ARRIVALS = 2**53
"""Floats count no further."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the profile, `start` to `end` seconds, in which the rate goes linearly from `rate` by `slope` a second.

    `before` and `until` are the cumulative rate at its start and at its end.
    """

    start: float
    end: float
    rate: float
    slope: float
    before: float
    until: float

    def time_of(self, work: float) -> float:
        """When the cumulative rate reaches `work`, which lies in this stretch."""
        more = work - self.before
        if more <= 0:
            return self.start
        if self.slope == 0:
            return self.start + more / self.rate
        # the root of slope/2 t² + rate t = more, in the form that does not cancel
        return self.start + 2 * more / (self.rate + sqrt(max(0.0, self.rate**2 + 2 * self.slope * more)))


def offsets(plan: Plan, rank: int, ranks: int) -> Iterator[tuple[int, int]]:
    """The open-loop arrivals of one rank, in order: sequence number and intended time.

    Rank r takes every `ranks`-th arrival of the one schedule, beginning with arrival r. The work of the others is drawn
    too, as the seed has one stream for all, but not mapped to times: that keeps a rank of many cheap.
    """
    time_of = _times(_profile(plan))
    start, end, stop = plan.window_start_ns, plan.window_end_ns, None
    rounds = zip(*[_work(plan.arrival, plan.seed)] * ranks, strict=False)
    for base, works in zip(count(0, ranks), rounds, strict=False):
        at = time_of(works[rank])
        if at is None or (end is not None and at >= end):
            return
        if plan.request_count is not None:
            if stop is None:
                warmup = _count_before(start, map(time_of, works))
                stop = None if warmup == ranks else base + warmup + plan.request_count
            if stop is not None and base + rank >= stop:
                return
        yield base + rank, at


def recorded_offsets(plan: Plan, times: Sequence[int], rank: int, ranks: int) -> Iterator[tuple[int, int]]:
    """The arrivals of one rank, in order, where a trace gives the times."""
    end = plan.window_end_ns
    for seq in range(rank, len(times), ranks):
        if end is not None and times[seq] >= end:
            return
        yield seq, times[seq]


def seqs_before(plan: Plan, rank: int, ranks: int, moment: int | None) -> range:
    """The sequence numbers of a rank's constant arrivals before a moment, without a look at each.

    Constant arrival n is the one at work n, so that the first one that is too late is found by halving.
    """
    assert plan.arrival.kind == "constant"
    until = _first_at(plan, plan.window_end_ns)
    if plan.request_count is not None:
        until = min(until, _first_at(plan, plan.window_start_ns) + plan.request_count)
    return range(rank, min(until, _first_at(plan, moment)), ranks)


def constant_times(plan: Plan) -> Callable[[int], int]:
    """When the constant arrival with a sequence number is due; there must be one."""
    time_of = _times(_profile(plan))

    def at(seq: int) -> int:
        found = time_of(float(seq))
        assert found is not None
        return found

    return at


def rate_at(plan: Plan, offset_ns: int) -> float | None:
    """The asked rate at a moment, in requests per second: None in a closed loop, 0 outside the run."""
    if not plan.has_request_rate:
        return None
    seconds = offset_ns / 1e9
    for piece in _profile(plan):
        if piece.start <= seconds < piece.end:
            return piece.rate + piece.slope * (seconds - piece.start)
    return 0.0


def rate_in(plan: Plan, start_ns: int, end_ns: int) -> float | None:
    """The asked rate of a stretch of the run, on average: None in a closed loop, 0 where the stretch is empty or outside."""
    if not plan.has_request_rate:
        return None
    start, end = start_ns / 1e9, end_ns / 1e9
    parts = []
    for piece in _profile(plan):
        first, last = max(start, piece.start), min(end, piece.end)
        if first < last:
            parts.append((last - first, piece.rate + piece.slope * ((first + last) / 2 - piece.start)))
    if len({rate for _, rate in parts}) == 1:
        return parts[0][1]  # as it was asked for, without what sums of floats would add
    return fsum(seconds * rate for seconds, rate in parts) / fsum(seconds for seconds, _ in parts) if parts else 0.0


def mean_rate(plan: Plan, window_end_ns: int) -> float | None:
    """The asked rate of the measured window, on average: None in a closed loop.

    A window that goes on after the last arrival, for those that waited or for their answers, asks for no more.
    """
    if not plan.has_request_rate:
        return None
    start = plan.window_start_ns / 1e9
    end = min(window_end_ns, count_end_ns(plan) or window_end_ns) / 1e9
    pieces = _profile(plan)
    if end <= start:
        return rate_at(plan, plan.window_start_ns)
    return (_work_until(pieces, end) - _work_until(pieces, start)) / (end - start)


def count_end_ns(plan: Plan) -> int | None:
    """When an open loop's rate adds up to `request_count` measured arrivals; None if it never does, or has no count."""
    if not plan.has_request_rate or plan.request_count is None:
        return None
    pieces = _profile(plan)
    return _times(pieces)(_work_until(pieces, plan.window_start_ns / 1e9) + plan.request_count)


def window_end_of(plan: Plan, end_ns: int | None, *, scheduled: int, last_event: int) -> int:
    """Where the measured window ended, if `end_ns` is where it had to end at the latest.

    A run that reached its `request_count` ends with the time that the arrivals take by the plan, or with the last event
    that its rates count, whichever is later.
    """
    plan = plan.arriving
    count_end = count_end_ns(plan)
    if plan.closed_loop:
        reached = plan.request_count is not None and scheduled >= plan.request_count
    else:
        reached = count_end is not None and (end_ns is None or count_end <= end_ns)
    seen = max(last_event + 1, count_end or 0, plan.window_start_ns)
    if end_ns is None:
        return seen
    return max(min(seen, end_ns) if reached else end_ns, plan.window_start_ns)


def clients_of(plan: Plan, rank: int, ranks: int) -> int:
    """How many of the group's clients a rank has: floor or ceiling of its share."""
    return plan.num_clients // ranks + (rank < plan.num_clients % ranks)


def first_sends(plan: Plan, rank: int, ranks: int) -> list[int]:
    """Closed loop: when each client of a rank sends first, spread evenly over the ramp; rank r has clients r, r+ranks, …"""
    ramp = plan.ramp_seconds * 1e9
    return [round(client * ramp / plan.num_clients) for client in range(rank, plan.num_clients, ranks)]


def needed_ahead(plan: Plan, rank: int, ranks: int) -> int:
    """How many connections the first second needs of a rank."""
    plan = plan.arriving
    second = 1_000_000_000
    asked = rate_in(plan, 0, second)
    if asked is None:
        return sum(at < second for at in first_sends(plan, rank, ranks))
    return min(clients_of(plan, rank, ranks), int(asked / ranks) + 1)


def scheduled_count(plan: Plan, rank: int, ranks: int, until_ns: int) -> tuple[int, int]:
    """How many arrivals of warm-up and measured window a rank has before a moment."""
    if plan.arrival.kind == "constant":
        warmup = len(seqs_before(plan, rank, ranks, min(until_ns, plan.window_start_ns)))
        return warmup, len(seqs_before(plan, rank, ranks, until_ns)) - warmup
    if plan.arrival.kind == "trace":  # exact at the ends of its stages
        pieces, moments = _profile(plan), (min(until_ns, plan.window_start_ns), until_ns)
        warmup, until = (len(range(rank, round(_work_until(pieces, at / 1e9)), ranks)) for at in moments)
        return warmup, until - warmup
    warmup = measured = 0
    for _, at in offsets(plan, rank, ranks):
        if at >= until_ns:
            break
        if at < plan.window_start_ns:
            warmup += 1
        else:
            measured += 1
    return warmup, measured


def _work_until(pieces: list[Piece], seconds: float) -> float:
    """The cumulative rate at a moment."""
    for piece in pieces:
        if seconds < piece.end:
            more = max(0.0, seconds - piece.start)
            return piece.before + more * (piece.rate + piece.slope * more / 2)
    return pieces[-1].until


def _times(pieces: list[Piece]) -> Callable[[float], int | None]:
    """The inverse of the cumulative rate: from work to nanoseconds, None after the end of the profile.

    Work that is done just where a stretch ends belongs to the next stretch that has a rate.
    """
    untils = [piece.until for piece in pieces]

    def time_of(work: float) -> int | None:
        found = bisect_right(untils, work)
        return round(pieces[found].time_of(work) * 1e9) if found < len(pieces) else None

    return time_of


def _first_at(plan: Plan, moment: int | None) -> int:
    """The first constant arrival of the whole plan that is not before a moment, or not at all where it is None."""
    time_of = _times(_profile(plan))

    def is_not_before(seq: int) -> bool:
        at = time_of(float(seq))
        return at is None or (moment is not None and at >= moment)

    return bisect_left(range(MOST_ARRIVALS), 1, key=is_not_before)


def _count_before(moment: int, times: Iterable[int | None]) -> int:
    return sum(at is not None and at < moment for at in times)


def _work(arrival: Arrival, seed: int) -> Iterator[float]:
    """Cumulated gaps of mean 1, drawn without a step of Python where there is one for each arrival of every rank.

    Python promises the same `random()` for a seed in every version; of `gammavariate()` it does not say so.
    """
    source = random.Random(f"arrivals {seed}")
    match arrival.kind:
        case "constant":
            return map(float, count())
        case "poisson":
            return accumulate(map(neg, map(log1p, map(neg, iter(source.random, None)))))
        case "gamma":
            shape = arrival.burstiness
            return accumulate(iter(partial(source.gammavariate, shape, 1 / shape), None))
        case "trace":
            message = "the times of a trace are read, not drawn"
            raise AssertionError(message)


def _profile(plan: Plan) -> list[Piece]:
    """The rate over the whole run. In the warm-up it is what the measured window begins with.

    The sums are of the decimals that the plan shows: 19.6/s for 25 s are 490, not the 490.00000000000006 of floats,
    which would let arrival 490 slip into the pause that follows.
    """
    measured = _measured(plan)
    pieces: list[Piece] = []
    start = before = Fraction(0)
    # the stages of a trace tell its own beginning, too
    warmup = 0.0 if plan.arrival.kind == "trace" else plan.warmup_seconds
    for seconds, rate, last in [(warmup, measured[0][1], measured[0][1]), *measured]:
        if seconds == inf:
            pieces.append(Piece(float(start), inf, rate, 0.0, float(before), inf))
        elif seconds:
            length, rise = _exact(seconds), _exact(last) - _exact(rate)
            end, until = start + length, before + (_exact(rate) + rise / 2) * length
            slope = float(rise / length)
            pieces.append(Piece(float(start), float(end), rate, slope, float(before), float(until)))
            start, before = end, until
    return pieces


def _exact(number: float) -> Fraction:
    """The decimal that a float stands for."""
    return Fraction(repr(number))


def _measured(plan: Plan) -> list[tuple[float, float, float]]:
    """Seconds, first and last rate of each stretch of the measured window."""
    arrival = plan.arrival
    if arrival.stages:
        return [(stage.seconds, stage.rps, stage.rps) for stage in arrival.stages]
    seconds = plan.duration_seconds if plan.duration_seconds is not None else inf
    if arrival.ramp:
        return [(seconds, arrival.ramp.from_rps, arrival.ramp.to_rps)]
    rate = plan.requests_per_second or 0.0
    return [(seconds, rate, rate)]
