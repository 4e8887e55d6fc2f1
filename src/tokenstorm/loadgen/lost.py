"""A rank that was lost: what it did stands in its lines, what it did not do follows from the schedule."""

from pathlib import Path

from tokenstorm.loadgen.arrivals import scheduled_count
from tokenstorm.metrics.rebuild import tally_of
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.plan import Plan


def tally_of_lost(path: Path | None, plan: Plan, rank: int, window_end: int) -> tuple[Tally, int]:
    """What its lines add up to, and how many measured arrivals of its stripe were not sent or have no line.

    Inter-chunk times are not in the lines. Raises `RunError`.
    """
    tally = tally_of([path] if path and path.exists() else [], plan, Window(plan.window_start_ns, window_end))
    if plan.closed_loop:
        return tally, 0
    warmup, measured = scheduled_count(plan, rank, plan.ranks, window_end)
    for counts, expected in ((tally.warmup, warmup), (tally.counts, measured)):
        gap = max(0, expected - counts.scheduled)
        counts.scheduled += gap
        counts.unsent += gap
    return tally, max(0, measured - tally.counts.sent)
