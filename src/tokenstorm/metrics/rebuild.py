"""A tally from the result lines on disk: for a rank that was lost, and for `tokenstorm report`."""

from itertools import islice
from pathlib import Path

from tokenstorm.errors import RunError
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.result import read_results

BATCH = 1000


def tally_of(paths: list[Path], window: Window) -> Tally:
    """What the lines of some files add up to; inter-chunk times are not in them. Raises `RunError`."""
    tally = Tally()
    for path in paths:
        results = read_results(path)
        while batch := list(islice(results, BATCH)):
            try:
                tally.add(batch, window)
            except ValueError as error:
                message = f"{path} holds a line with impossible times: {error}"
                raise RunError(message) from None
    return tally
