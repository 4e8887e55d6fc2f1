"""What the group is doing right now, put together from the deltas of its ranks."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from tokenstorm.loadgen.messages import Delta
from tokenstorm.metrics.exposition import Gauges
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.tally import METRICS, Tally
from tokenstorm.metrics.verdict import DiskReport
from tokenstorm.plan import Plan

SCHEMA: Literal[1] = 1


class Glance(msgspec.Struct, frozen=True):
    """Three percentiles in seconds; None without a sample."""

    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, histogram: Histogram) -> "Glance":
        """Read them off a histogram of nanoseconds."""
        p50, p90, p99 = (histogram.quantile(q) for q in (0.5, 0.9, 0.99))
        return cls(*(None if value is None else value / 1e9 for value in (p50, p90, p99)))


class RankSecond(msgspec.Struct, frozen=True):
    """One rank in one second: the share of a core, the longest loop lag and collection in seconds, its disk."""

    cpu: float
    loop_lag: float
    gc_pause: float
    disk: DiskReport


class TimelineLine(msgspec.Struct, frozen=True, kw_only=True):
    """One second of the group, a line of `timeline.jsonl`; the counts are of that second, warm-up included."""

    schema: Literal[1] = SCHEMA
    t: int
    phase: str
    scheduled: int
    sent: int
    succeeded: int
    failed: int
    unsent: int
    output_tokens: int
    in_flight: int
    waiting: int
    target_rps: float | None
    waited_below_cap: int
    latency: Glance
    service_time: Glance
    ttft: Glance
    ranks: dict[str, RankSecond]
    left_out: list[str]
    histograms: dict[str, Histogram]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`status.json` and GET /status: how far the group is. Times are seconds since the common start."""

    schema: Literal[1] = SCHEMA
    run_id: str
    phase: str
    reason: str | None
    elapsed_seconds: float
    fraction: float | None
    window_end_seconds: float | None
    scheduled: int
    sent: int
    succeeded: int
    failed: int
    unsent: int
    in_flight: int
    waiting: int
    requested_rps: float | None
    achieved_rps: float
    output_tokens_per_second: float
    latency: Glance
    service_time: Glance
    ttft: Glance
    ranks: int
    ranks_up: int


class Group:
    """Adds up deltas. Memory does not grow with the length of the run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.tally = Tally()
        self.inter_chunk: dict[int, Histogram] = {}
        self.last: dict[int, Delta] = {}
        self.worst: dict[int, RankSecond] = {}
        self.cpu_seconds: dict[int, float] = {}
        self.left_out: set[str] = set()
        self.waited_below_cap = 0
        self.scheduled = self.sent = self.succeeded = self.failed = self.unsent = self.output_tokens = 0
        self._new: dict[int, Delta] = {}
        self._early: list[tuple[int, Delta]] = []
        self.line: TimelineLine | None = None

    def add(self, rank: int, delta: Delta) -> None:
        """Take in one second of one rank."""
        self.last[rank] = delta
        self.left_out |= set(delta.left_out)
        now = RankSecond(delta.cpu, delta.loop_lag, delta.gc_pause, delta.disk)
        self.worst[rank] = _worse(self.worst.get(rank, now), now)
        self.cpu_seconds[rank] = self.cpu_seconds.get(rank, 0.0) + delta.cpu
        self.inter_chunk.setdefault(rank, Histogram()).merge(delta.tally.histograms["inter_chunk"])
        self.tally.merge(delta.tally)
        if rank in self._new:  # two of one rank since the last line: the second one is for the next line
            self._early.append((rank, delta))
        else:
            self._new[rank] = delta

    def close(self, t: int, phase: str, target_rps: float | None) -> TimelineLine:
        """The line for the second `t` from what came in since the last one."""
        deltas = self._new
        self._new = {}
        early, self._early = self._early, []
        for rank, delta in early:
            self._new.setdefault(rank, delta)
        tally = Tally()
        for delta in deltas.values():
            tally.merge(delta.tally)
        waited = sum(delta.waited for delta in deltas.values())
        below = sum(delta.peak for delta in deltas.values()) < self._plan.num_clients
        if below and self._plan.ranks > 1:
            self.waited_below_cap += waited
        line = TimelineLine(
            t=t,
            phase=phase,
            scheduled=_sum(delta.scheduled for delta in deltas.values()),
            sent=_sum(delta.sent for delta in deltas.values()),
            succeeded=_sum(delta.succeeded for delta in deltas.values()),
            failed=_sum(delta.failed for delta in deltas.values()),
            unsent=_sum(delta.unsent for delta in deltas.values()),
            output_tokens=_sum(delta.output_tokens for delta in deltas.values()),
            in_flight=_sum(delta.in_flight for delta in deltas.values()),
            waiting=_sum(delta.waiting for delta in deltas.values()),
            target_rps=target_rps,
            waited_below_cap=waited if below and self._plan.ranks > 1 else 0,
            latency=Glance.of(tally.histograms["latency"]),
            service_time=Glance.of(tally.histograms["service_time"]),
            ttft=Glance.of(tally.histograms["ttft"]),
            ranks={
                str(rank): RankSecond(delta.cpu, delta.loop_lag, delta.gc_pause, delta.disk)
                for rank, delta in sorted(deltas.items())
            },
            left_out=sorted(self.left_out),
            histograms={name: tally.histograms[name] for name in METRICS if tally.histograms[name].count},
        )
        for name in ("scheduled", "sent", "succeeded", "failed", "unsent", "output_tokens"):
            setattr(self, name, getattr(self, name) + getattr(line, name))
        self.line = line
        return line

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


def _sum(values: Iterable[int]) -> int:
    return sum(values)


def _worse(one: RankSecond, other: RankSecond) -> RankSecond:
    return RankSecond(
        max(one.cpu, other.cpu),
        max(one.loop_lag, other.loop_lag),
        max(one.gc_pause, other.gc_pause),
        other.disk,  # it speaks of the whole run so far
    )
