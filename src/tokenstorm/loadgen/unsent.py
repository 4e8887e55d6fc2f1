"""The lines of what the window had and nobody sent."""

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
    """What of a window was never sent, and whose fault that was, with a line for each stretch. Times are from the common start.

    While the rank is up with its schedule no client is free as long as an arrival waits. So where one is free for longer
    than a send needs, since `idle_since`, the rank had not come to any of these in time, and each found a client that
    stayed idle. While the loop stood still nobody looked whether a client was free, so that what fell due then counts as
    having found one. Else every client was busy to the end.
    """
    for before, asleep in standstills.parts(window.start, window.end):
        for seq, stride, size, first, last in schedule.rest(before):
            yield Result(
                schema=SCHEMA,
                seq=seq,
                rank=rank,
                replica=replicas[seq % len(replicas)],
                phase=window.phase_of(first),
                scheduled=first,
                slot_free=first if asleep else None if idle_since is None else max(first, idle_since),
                stretch=Stretch(size, stride, last) if size > 1 else None,
            )
