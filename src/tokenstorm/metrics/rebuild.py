"""A tally from the result lines on disk: for a rank that was lost, and for `tokenstorm report`."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.plan import Plan
from tokenstorm.result import YEAR_NS, Result
from tokenstorm.written import Skip, read_lines

BATCH = 5000
_PAGE = 1024


def tally_of(
    results: Mapping[int, Path], plan: Plan, window_end: int | None, skip: Skip, *, latest: int = YEAR_NS
) -> Tally:
    """The sum of the result lines of some ranks. Inter-chunk times are not in the lines.

    Moments are nanoseconds from the common start; none can be after `latest`. A line is left out if it cannot be read, or
    cannot be of this rank and plan; so is a file that cannot be read. `skip` is called with the reason. Raises `OtherVersion`.
    """
    tally, window = Tally(), Window.of(plan, window_end)
    for path, batch in batches_of(results, plan, skip, latest=latest):
        tally.merge(added(batch, window, path, skip))
    return tally


def batches_of(
    results: Mapping[int, Path], plan: Plan, skip: Skip, *, latest: int = YEAR_NS
) -> Iterator[tuple[Path, list[Result]]]:
    """The lines that `tally_of` adds up, so many at a time that little memory is needed, with the file of each batch."""
    for rank, path in results.items():
        stripe = _Stripe(plan, rank, latest)
        try:
            lines = stripe.pick(read_lines(path, Result, skip), path, skip)
            while batch := list(islice(lines, BATCH)):
                yield path, batch
        except OSError as error:
            skip(f"{path.name} cannot be read: {error.strerror}")


class _Stripe:
    """The share of a plan that one rank has. Finds lines that cannot be part of it, or are there twice."""

    def __init__(self, plan: Plan, rank: int, latest: int) -> None:
        self._rank = rank
        self._ranks = plan.ranks
        self._replicas = {target.replica for target in plan.targets}
        self._latest = latest
        self._seen: dict[int, int] = {}
        """A bit for each request of which there was a line, in pages: a damaged number costs one page."""

    def pick(self, results: Iterable[Result], path: Path, skip: Skip) -> Iterator[Result]:
        """The lines that can be of this stripe."""
        for result in results:
            if fault := self._fault(result):
                skip(f"{path.name}, request {result.seq}: {fault}")
            else:
                yield result

    def _fault(self, result: Result) -> str:
        """What is wrong with a line; empty where nothing is."""
        stretch = result.stretch
        moments = (result.scheduled, result.slot_free, result.sent, result.first_token, result.last_token, result.done)
        if result.rank != self._rank or result.seq % self._ranks != self._rank:
            return f"it is not of rank {self._rank}"
        if result.replica not in self._replicas:
            return "the plan has no such replica"
        if max(moment or 0 for moment in (*moments, stretch and stretch.last_scheduled)) > self._latest:
            return "it is later than the run's end"
        if stretch and (
            result.sent is not None or stretch.stride % self._ranks or stretch.last_scheduled < result.scheduled
        ):
            return "it cannot stand for a stretch of requests"
        page, place = divmod(result.seq // self._ranks, _PAGE)
        seen, bit = self._seen.get(page, 0), 1 << place
        if seen & bit:
            return "there is a line of it already"
        self._seen[page] = seen | bit
        return ""


def added(batch: list[Result], window: Window, path: Path, skip: Skip) -> Tally:
    """The sum of a batch. If a line of it has impossible times, its lines are added one by one."""
    tally = Tally()
    try:
        tally.add(batch, window)
    except ValueError as error:
        if len(batch) == 1:
            skip(f"{path.name}, request {batch[0].seq}: impossible times: {error}")
            return Tally()
        tally = Tally()
        for result in batch:
            tally.merge(added([result], window, path, skip))
    return tally
