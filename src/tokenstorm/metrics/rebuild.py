"""A tally from the result lines on disk: for a rank that was lost, and for `tokenstorm report`."""

from itertools import islice
from pathlib import Path

from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.result import Result, Skip, read_results

BATCH = 1000


def tally_of(paths: list[Path], window: Window, skip: Skip) -> Tally:
    """What the lines of some files add up to; inter-chunk times are not in them.

    A line or a file that cannot be read costs no more than itself, and `skip` is told. Raises `OtherVersion`.
    """
    tally = Tally()
    for path in paths:
        try:
            results = read_results(path, skip)
            while batch := list(islice(results, BATCH)):
                tally.merge(_added(batch, window, path, skip))
        except OSError as error:
            skip(f"{path.name} cannot be read: {error.strerror}")
    return tally


def _added(batch: list[Result], window: Window, path: Path, skip: Skip) -> Tally:
    """What a batch adds up to; one by one where a line of it has impossible times."""
    tally = Tally()
    try:
        tally.add(batch, window)
    except ValueError as error:
        if len(batch) == 1:
            skip(f"{path.name}, request {batch[0].seq}: impossible times: {error}")
            return Tally()
        tally = Tally()
        for result in batch:
            tally.merge(_added([result], window, path, skip))
    return tally
