"""A lost rank: its result lines show what it did, the schedule shows what it did not do."""

from pathlib import Path

from tokenstorm.loadgen.arrivals import scheduled_count
from tokenstorm.metrics.counts import Counts
from tokenstorm.metrics.rebuild import tally_of
from tokenstorm.metrics.tally import Tally
from tokenstorm.plan import Plan
from tokenstorm.result import YEAR_NS
from tokenstorm.written import Skip


def tally_of_lost(
    path: Path | None, plan: Plan, rank: int, window_end: int, told: int, *, skip: Skip, latest: int = YEAR_NS
) -> tuple[Tally, int]:
    """What its lines add up to, and how many measured arrivals of its stripe it never sent.

    `told` is how many requests it had said it sent: those without a line were in flight. Inter-chunk times are not in
    the lines. `skip` is told of lines that cannot be read, or are of moments after `latest`.
    """
    tally = tally_of({rank: path} if path and path.exists() else {}, plan, window_end, skip, latest=latest)
    in_flight = max(0, told - tally.warmup.sent - tally.counts.sent)
    if not plan.has_request_rate:  # nothing else tells of them
        tally.counts.scheduled += in_flight
        tally.counts.sent += in_flight
        tally.counts.censored += in_flight
    for counts, gap in _gaps(tally, plan, rank, window_end):
        cut = min(gap, in_flight)
        in_flight -= cut
        counts.scheduled += gap
        counts.sent += cut
        counts.censored += cut
        counts.unsent += gap - cut
    return tally, tally.counts.unsent if plan.has_request_rate else 0


def tally_of_cut_off(path: Path | None, plan: Plan, rank: int, window_end: int, *, skip: Skip, latest: int) -> Tally:
    """What the lines of a rank add up to, in a run that was cut off: arrivals without a line were in flight then."""
    tally = tally_of({rank: path} if path else {}, plan, window_end, skip, latest=latest)
    for counts, gap in _gaps(tally, plan, rank, window_end):
        counts.scheduled += gap
        counts.sent += gap
        counts.censored += gap
    return tally


def _gaps(tally: Tally, plan: Plan, rank: int, window_end: int) -> list[tuple[Counts, int]]:
    """How many arrivals of a stripe have no line, in the warm-up and in the measured window; a closed loop has none."""
    if not plan.has_request_rate:
        return []
    warmup, measured = scheduled_count(plan, rank, plan.ranks, window_end)
    return [
        (tally.warmup, max(0, warmup - tally.warmup.scheduled)),
        (tally.counts, max(0, measured - tally.counts.scheduled)),
    ]
