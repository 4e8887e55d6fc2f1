"""What a rank tells the launcher of its run: a `Delta` each second, and `Done` at the end."""

import asyncio
import resource
from collections.abc import Callable
from time import monotonic_ns

from tokenstorm.loadgen.costs import Meter, Pauses
from tokenstorm.loadgen.messages import AnyMessage, Delta, Done
from tokenstorm.loadgen.rank import Rank
from tokenstorm.metrics.verdict import DiskReport


class Reporter:
    """Tells of one rank until it is `finished`. `disk` says how its result lines get to disk."""

    def __init__(
        self,
        rank: Rank,
        *,
        meter: Meter,
        pauses: Pauses,
        disk: Callable[[], DiskReport],
        say: Callable[[AnyMessage], None],
        finished: asyncio.Event,
    ) -> None:
        self.rank = rank
        self._meter = meter
        self._pauses = pauses
        self._disk = disk
        self._say = say
        self._finished = finished
        self._second = 0

    def begin(self) -> None:
        """Send a delta after each second."""
        wait = self.rank.started_at + (self._second + 1) * 1_000_000_000 - monotonic_ns()
        asyncio.get_running_loop().call_later(max(0.0, wait / 1e9), self._next)

    def send_delta(self) -> None:
        """Send what happened since the last delta."""
        rank = self.rank
        cpu = self._meter.take_share()
        live, tally = rank.take_live()
        delta = Delta(
            second=self._second,
            phase=rank.phase,
            scheduled=live.scheduled,
            sent=live.sent,
            succeeded=live.succeeded,
            failed=live.failed,
            unsent=live.unsent,
            output_tokens=live.output_tokens,
            in_flight=rank.in_flight,
            waiting=rank.waiting,
            peak=live.peak,
            waited=live.waited,
            cpu=cpu,
            loop_lag=live.loop_lag,
            gc_pause=self._pauses.take_longest() / 1e9,
            disk=self._disk(),
            left_out=sorted(rank.replicas.was_left_out),
            tally=tally,
        )
        self._second += 1
        self._say(delta)

    def send_done(self, disk: DiskReport, *, offset: int, round_trip: int) -> None:
        """Send the last delta, and everything this rank did; `offset` and `round_trip` are as in `Done`."""
        self.send_delta()
        sending, whole = self._meter.sending, self._meter.whole
        done = Done(
            tally=self.rank.total,
            window_end=self.rank.window.end,
            cpu=sending.share,
            cpu_seconds=whole.cpu / 1e9,
            wall_seconds=whole.wall / 1e9,
            start=self.rank.started_at,
            offset=offset,
            round_trip=round_trip,
            gc_pauses=self._pauses.count,
            gc_seconds=self._pauses.total_ns / 1e9,
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            disk=disk,
        )
        self._say(done)

    def _next(self) -> None:
        if not self._finished.is_set():
            self.send_delta()
            self.begin()
