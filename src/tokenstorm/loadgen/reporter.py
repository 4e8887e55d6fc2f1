"""What a rank sends to the launcher about its run: a `Delta` each second, and `Done` at the end."""

import asyncio
import os
import resource
from collections.abc import Callable
from time import monotonic_ns

from tokenstorm.interfaces import node_name
from tokenstorm.loadgen.costs import Meter, Pauses
from tokenstorm.loadgen.messages import AnyMessage, Delta, Done
from tokenstorm.loadgen.rank import Rank
from tokenstorm.loadgen.wire import Stamps
from tokenstorm.metrics.reports import DiskReport, RankReport


class Reporter:
    """Reports on one rank until it is `finished`. `disk` returns how its result lines get to disk, `stamps` are the kernel's, if any."""

    def __init__(
        self,
        rank: Rank,
        *,
        meter: Meter,
        pauses: Pauses,
        disk: Callable[[], DiskReport],
        stamps: Stamps | None,
        say: Callable[[AnyMessage], None],
        finished: asyncio.Event,
    ) -> None:
        self.rank = rank
        self._meter = meter
        self._pauses = pauses
        self._disk = disk
        self._stamps = stamps
        self._say = say
        self._finished = finished
        self._second = 0

    def begin(self) -> None:
        """Send a delta after each second."""
        if self._stamps is not None:
            self._stamps.begin()
        self._wait()

    def _wait(self) -> None:
        wait = self.rank.started_at + (self._second + 1) * 1_000_000_000 - monotonic_ns()
        asyncio.get_running_loop().call_later(max(0.0, wait / 1e9), self._next)

    def send_delta(self) -> None:
        """Send what happened since the last delta."""
        rank = self.rank
        cpu = self._meter.take_share()
        live, tally = rank.take_live()
        if self._stamps is not None:
            waited = self._stamps.take()
            if rank.phase != "warmup":
                for some in (tally, rank.total):
                    some.histograms["read_lag"].merge(waited)
        delta = Delta(
            second=self._second,
            phase=rank.phase,
            live=live,
            in_flight=rank.in_flight,
            waiting=rank.waiting,
            cpu=cpu,
            gc_pause=self._pauses.take_longest() / 1e9,
            disk=self._disk(),
            left_out=sorted(rank.replicas.was_left_out),
            tally=tally,
        )
        self._second += 1
        self._say(delta)

    def send_done(self, disk: DiskReport, *, offset: int, round_trip: int) -> None:
        """Send the last delta, and everything this rank did; `offset` and `round_trip` are the clock's, in nanoseconds."""
        self.send_delta()
        rank, whole = self.rank, self._meter.whole
        report = RankReport(
            rank=rank.rank,
            host=node_name(),
            pid=os.getpid(),
            cpu=self._meter.sending.share,
            cpu_seconds=whole.cpu / 1e9,
            wall_seconds=whole.wall / 1e9,
            clock="kernel" if self._stamps and self._stamps.used else "read",
            gc_pauses=self._pauses.count,
            gc_seconds=self._pauses.total_ns / 1e9,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            disk=disk,
            start_monotonic_ns=rank.started_at,
            clock_offset_ns=offset,
            clock_round_trip_ns=round_trip,
        )
        self._say(Done(tally=rank.total, window_end=rank.window.end, report=report))

    def _next(self) -> None:
        if not self._finished.is_set():
            self.send_delta()
            self._wait()
