"""What the group is doing right now, put together from the deltas of its ranks."""

from collections import Counter
from time import monotonic_ns

from msgspec.structs import asdict

from tokenstorm.loadgen.arrivals import clients_of, count_end_ns, rate_in
from tokenstorm.loadgen.live import NOTHING_SAMPLED, Glance, RankSecond, Sampled, TimelineLine
from tokenstorm.loadgen.messages import Delta
from tokenstorm.metrics.counts import Work
from tokenstorm.metrics.energy import EnergyTally
from tokenstorm.metrics.engine import EngineTally
from tokenstorm.metrics.exposition import Gauges
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.reports import RankReport
from tokenstorm.metrics.stretches import Stretch, Stretches
from tokenstorm.metrics.tally import METRICS, READ_METRICS, STALL_SECONDS, Tally
from tokenstorm.plan import Plan
from tokenstorm.result import CANCELLED, CENSORED

KEPT_SECONDS = 60
"""So much later no rank tells of a second any more: it would be lost."""


class Group:
    """Adds up deltas. Memory does not grow with the length of the run, but for 40 bytes a second of each GPU."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.attempt = 0
        self.tally = Tally()
        self.engine = EngineTally()
        self.energy = EnergyTally()
        self.stretches = Stretches()
        self.reads: dict[int, dict[str, Histogram]] = {}
        """Of each rank, what stands in no line."""
        self.last: dict[int, Delta] = {}
        self.worst: dict[int, RankSecond] = {}
        self.cpu_seconds: dict[int, float] = {}
        self.sent_by: dict[int, int] = {}
        self.stalled: dict[int, float] = {}
        self.peak = 0
        """The most requests in flight in a second that was measured: the sum of the most that each rank had in it."""
        self._peaks: Counter[int] = Counter()
        self.left_out: set[str] = set()
        self._drained: dict[int, int] = {}
        """The second in which the window of each rank was over."""
        self.recorded_at = 0
        """When a rank last reported unsent arrivals, in nanoseconds of the monotonic clock."""
        self.waited_below_cap = 0
        self.total = Work()
        """The sum of all lines so far."""
        self.newest_failure = ""
        """The words of one measured request that failed in the last second in which any did, after their kind."""
        self._pending: list[tuple[int, Delta]] = []
        self.line: TimelineLine | None = None

    def add(self, rank: int, delta: Delta) -> None:
        """Take in one second of one rank."""
        self.last[rank] = delta
        if delta.phase in {"draining", "finished"}:
            self._drained.setdefault(rank, delta.second)
        if delta.live.unsent:
            self.recorded_at = monotonic_ns()
        self.left_out |= set(delta.left_out)
        self.worst[rank] = _worse(self.worst.get(rank), delta)
        self.cpu_seconds[rank] = self.cpu_seconds.get(rank, 0.0) + delta.cpu
        self.sent_by[rank] = self.sent_by.get(rank, 0) + delta.live.sent
        if delta.live.loop_lag > STALL_SECONDS:
            self.stalled[rank] = self.stalled.get(rank, 0.0) + delta.live.loop_lag
        self._note_peak(delta)
        for name in READ_METRICS:
            self.reads.setdefault(rank, {}).setdefault(name, Histogram()).merge(delta.tally.histograms[name])
        self.tally.merge(delta.tally)
        self._pending.append((rank, delta))

    def _note_peak(self, delta: Delta) -> None:
        if (delta.second + 1) * 10**9 > self.plan.window_start_ns:
            self._peaks[delta.second] += delta.live.peak
            self.peak = max(self.peak, self._peaks[delta.second])
            self._peaks.pop(delta.second - KEPT_SECONDS, None)

    def phase_of(self, second: int, window_end: int | None) -> str:
        """The phase that a second began in, by the clock, or by the ranks where they reach a count before `window_end`."""
        at = second * 10**9
        drained = self.last and all(self._drained.get(rank, second) < second for rank in self.last)
        if drained or (window_end is not None and at >= window_end):
            return "draining"
        return "warmup" if at < self.plan.window_start_ns else "measured"

    def target_of(self, second: int, window_end: int | None) -> float | None:
        """The rate that was asked for in a second, on average over the part of it that the window had."""
        ends = ((second + 1) * 10**9, window_end, count_end_ns(self.plan))
        return rate_in(self.plan, second * 10**9, min(end for end in ends if end is not None))

    @property
    def pending(self) -> bool:
        """Whether something came in that no line holds yet."""
        return bool(self._pending)

    def close(self, t: int, phase: str, target_rps: float | None, sampled: Sampled = NOTHING_SAMPLED) -> TimelineLine:
        """The line for the second `t`, and for what came in too late for the line of its own second."""
        if phase == "measured":
            self.engine.add(sampled.engine)
        self.energy.add(sampled.gpus)
        due = [(rank, delta) for rank, delta in self._pending if delta.second <= t]
        self._pending = [(rank, delta) for rank, delta in self._pending if delta.second > t]
        latest = dict(due)
        work, tally = Work(), Tally()
        ranks: dict[int, RankSecond] = {}
        for rank, delta in due:
            work.include(delta.live)
            tally.merge(delta.tally)
            ranks[rank] = _worse(ranks.get(rank), delta)
        if failures := {kind: words for kind, words in tally.failures.items() if kind not in {CENSORED, CANCELLED}}:
            kind = max(failures, key=lambda one: tally.counts.failed_by_kind.get(one, 0))
            self.newest_failure = f"{kind}: {failures[kind]}"
        waited_below_cap = self._waited_below_cap(due)
        self.waited_below_cap += waited_below_cap
        line = TimelineLine(
            **asdict(work),
            attempt=self.attempt,
            t=t,
            phase=phase,
            failed_by_kind=dict(Counter(tally.counts.failed_by_kind) + Counter(tally.warmup.failed_by_kind)),
            in_flight_peak=self.peak,
            good=None if self.plan.slo is None else tally.good.count,
            in_flight=sum(delta.in_flight for delta in latest.values()),
            waiting=sum(delta.waiting for delta in latest.values()),
            target_rps=target_rps,
            waited_below_cap=waited_below_cap,
            latency=Glance.of(tally.histograms["latency"]),
            service_time=Glance.of(tally.histograms["service_time"]),
            ttft=Glance.of(tally.histograms["ttft"]),
            inter_chunk=Glance.of(tally.histograms["inter_chunk"]),
            ranks={str(rank): second for rank, second in sorted(ranks.items())},
            left_out=sorted(self.left_out),
            engine=sampled.engine,
            gpus=sampled.gpus,
            histograms={name: tally.histograms[name] for name in METRICS if tally.histograms[name].count},
        )
        if phase == "measured":
            self.stretches.add(
                Stretch.second(t, in_flight=line.in_flight, waiting=line.waiting, work=work, histograms=line.histograms)
            )
        self.total.include(work)
        self.line = line
        return line

    def _waited_below_cap(self, due: list[tuple[int, Delta]]) -> int:
        """Arrivals that waited in their rank in a second in which the ranks that reported were together below their cap."""
        if self.plan.ranks == 1:
            return 0
        peaks, waited, caps = Counter[int](), Counter[int](), Counter[int]()
        for rank, delta in due:
            peaks[delta.second] += delta.live.peak
            waited[delta.second] += delta.live.waited
            caps[delta.second] += clients_of(self.plan, rank, self.plan.ranks)
        return sum(waited[second] for second, peak in peaks.items() if peak < caps[second])

    def report_of(self, rank: int) -> RankReport:
        """What the deltas of a rank tell of it."""
        worst, last = self.worst.get(rank), self.last.get(rank)
        if worst is None or last is None:
            return RankReport(rank=rank)
        seconds = last.second + 1
        return RankReport(
            rank=rank,
            told_sent=self.sent_by[rank],
            cpu=self.cpu_seconds[rank] / seconds,
            wall_seconds=float(seconds),
            loop_lag_max_seconds=worst.loop_lag,
            stalled_seconds=self.stalled.get(rank, 0.0),
            gc_longest_seconds=worst.gc_pause,
            disk=worst.disk,
        )

    def gauges(self, phase: str, up: dict[int, bool], target_rps: float | None) -> Gauges:
        """What `/metrics` shows beside the counters."""
        line = self.line
        return Gauges(
            phase=phase,
            in_flight=line.in_flight if line else 0,
            target_rps=target_rps,
            loop_lag=max((rank.loop_lag for rank in line.ranks.values()), default=0.0) if line else 0.0,
            rank_up=up,
        )


def _worse(before: RankSecond | None, delta: Delta) -> RankSecond:
    """The worse of both. The disk's report is of the whole run so far, so the last one counts."""
    if before is None:
        return RankSecond(delta.cpu, delta.live.loop_lag, delta.gc_pause, delta.disk)
    return RankSecond(
        max(before.cpu, delta.cpu),
        max(before.loop_lag, delta.live.loop_lag),
        max(before.gc_pause, delta.gc_pause),
        delta.disk,
    )
