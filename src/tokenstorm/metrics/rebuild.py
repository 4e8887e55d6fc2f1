"""A tally from the result lines on disk: for a rank that was lost, and for `tokenstorm report`."""

from itertools import islice
from pathlib import Path

from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.plan import Plan
from tokenstorm.result import read_results

BATCH = 1000


def tally_of(paths: list[Path], plan: Plan, window: Window) -> Tally:
    """What the lines of some files add up to; inter-chunk times are not in them. Raises `RunError`."""
    tally = Tally()
    for path in paths:
        results = read_results(path)
        while batch := list(islice(results, BATCH)):
            tally.add(batch, plan, window)
    return tally
