"""When requests are meant to leave: arithmetic on the plan and its seed, with no clock in it.

A stream of unit-rate work S_0 ≤ S_1 ≤ … (constant, exponential or gamma gaps) is mapped through the inverse of the
cumulative rate Λ(t), so that every kind of arrival works with every profile of the rate. Times are integer nanoseconds
from the common start.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, count, repeat
from math import log1p, sqrt

from tokenstorm.plan import Arrival, Plan


@dataclass(frozen=True)
class Piece:
    """A stretch of the profile from `start` seconds on, in which the rate goes linearly from `rate` by `slope` a second.

    `before` is the cumulative rate up to its start.
    """

    start: float
    seconds: float
    rate: float
    slope: float
    before: float

    @property
    def work(self) -> float:
        """How many arrivals the stretch expects; without an end, infinitely many."""
        if self.slope == 0:
            return self.rate * self.seconds
        return self.rate * self.seconds + self.slope * self.seconds**2 / 2

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

    Rank r takes every `ranks`-th arrival of the one schedule, beginning with arrival r.
    """
    start, end, left = plan.window_start_ns, plan.window_end_ns, plan.request_count
    for seq, at in enumerate(_schedule(plan)):
        if end is not None and at >= end:
            return
        if left is not None and at >= start:
            if left == 0:
                return
            left -= 1
        if seq % ranks == rank:
            yield seq, at


def rate_at(plan: Plan, offset_ns: int) -> float | None:
    """The asked rate at a moment, in requests per second: None in a closed loop, 0 outside the run."""
    if plan.closed_loop:
        return None
    seconds = offset_ns / 1e9
    for piece in _profile(plan):
        if piece.start <= seconds < piece.start + piece.seconds:
            return piece.rate + piece.slope * (seconds - piece.start)
    return 0.0


def clients_of(plan: Plan, rank: int, ranks: int) -> int:
    """How many of the group's clients a rank has: floor or ceiling of its share."""
    return plan.num_clients // ranks + (rank < plan.num_clients % ranks)


def first_sends(plan: Plan, rank: int, ranks: int) -> list[int]:
    """Closed loop: when each client of a rank sends first, spread evenly over the ramp; rank r has clients r, r+ranks, …"""
    ramp = plan.ramp_seconds * 1e9
    return [round(client * ramp / plan.num_clients) for client in range(rank, plan.num_clients, ranks)]


def scheduled_count(plan: Plan, rank: int, ranks: int, until_ns: int) -> tuple[int, int]:
    """How many arrivals of warm-up and measured window a rank has before a moment."""
    warmup = measured = 0
    for _, at in offsets(plan, rank, ranks):
        if at >= until_ns:
            break
        if at < plan.window_start_ns:
            warmup += 1
        else:
            measured += 1
    return warmup, measured


def _schedule(plan: Plan) -> Iterator[int]:
    pieces = _profile(plan)
    piece = pieces.pop(0)
    for work in _work(plan.arrival, plan.seed):
        while work >= piece.before + piece.work or piece.work == 0:
            if not pieces:
                return
            piece = pieces.pop(0)
        yield round(piece.time_of(work) * 1e9)


def _work(arrival: Arrival, seed: int) -> Iterator[float]:
    """Cumulated gaps of mean 1.

    Python promises the same `random()` for a seed in every version; of `gammavariate()` it does not say so.
    """
    source = random.Random(f"arrivals {seed}")
    match arrival.kind:
        case "constant":
            return map(float, count())
        case "poisson":
            draw = source.random
            return accumulate(-log1p(-draw()) for _ in repeat(None))
        case "gamma":
            shape = arrival.burstiness
            return accumulate(source.gammavariate(shape, 1 / shape) for _ in repeat(None))


def _profile(plan: Plan) -> list[Piece]:
    """The rate over the whole run. In the warm-up it is what the measured window begins with."""
    measured = _measured(plan)
    pieces: list[Piece] = []
    start = work = 0.0
    for seconds, rate, slope in [(plan.warmup_seconds, measured[0][1], 0.0), *measured]:
        piece = Piece(start, seconds, rate, slope, work)
        start, work = start + seconds, work + (piece.work if seconds else 0.0)
        if seconds:
            pieces.append(piece)
    return pieces


def _measured(plan: Plan) -> list[tuple[float, float, float]]:
    """Seconds, rate and slope of each stretch of the measured window."""
    arrival = plan.arrival
    if arrival.stages:
        return [(stage.seconds, stage.rps, 0.0) for stage in arrival.stages]
    seconds = plan.duration_seconds if plan.duration_seconds is not None else float("inf")
    if arrival.ramp:
        return [(seconds, arrival.ramp.from_rps, (arrival.ramp.to_rps - arrival.ramp.from_rps) / seconds)]
    return [(seconds, plan.requests_per_second or 0.0, 0.0)]
