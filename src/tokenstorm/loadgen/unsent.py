"""Result lines for arrivals that were never sent."""

from collections.abc import Iterator

from tokenstorm.loadgen.schedule import Schedule
from tokenstorm.loadgen.standstills import Standstills
from tokenstorm.metrics.tally import Window
from tokenstorm.result import SCHEMA, Result, Stretch


def unsent_lines(
    schedule: Schedule,
    standstills: Standstills,
    window: Window,
    *,
    rank: int,
    replicas: list[str],
    idle_since: int | None,
) -> Iterator[Result]:
    """A result line for each stretch of unsent arrivals, which says whose fault it was. Times are from the common start.

    A rank that is up with its schedule has no free client while an arrival waits. If a client is free for longer than a send
    needs (since `idle_since`), the rank was late: each of these arrivals found an idle client. While the loop stood still
    nobody checked for free clients, so what fell due then counts as having found one. Otherwise every client was busy to the
    end, and `slot_free` is None.
    """
    for before, asleep in standstills.parts((window.start, *window.stages), window.end):
        for seq, stride, size, first, last, turn in schedule.rest(before):
            yield Result(
                schema=SCHEMA,
                seq=seq,
                rank=rank,
                replica=replicas[(seq if turn is None else turn.session) % len(replicas)],
                phase=window.phase_of(first),
                scheduled=first,
                slot_free=first if asleep else None if idle_since is None else max(first, idle_since),
                stretch=Stretch(size, stride, last) if size > 1 else None,
                conversation=turn,
            )
