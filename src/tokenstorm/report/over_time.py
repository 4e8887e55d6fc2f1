"""A run over time, as a page can draw it: however long the run, there are at most so many lines.

They look like those of the timeline, without histograms. Where a line stands for several seconds its counts are the mean of
a second, its gauges the highest, and its percentiles those of all its requests.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice

import msgspec

from tokenstorm.loadgen.live import Glance, TimelineLine
from tokenstorm.metrics.engine import EngineSecond
from tokenstorm.metrics.histogram import Histogram

MOST_LINES = 1200
MOST_RANKS = 8
"""Of more ranks, the busiest are drawn."""
MOST_REPLICAS = 8
MOST_GPUS = 8
_COUNTS = ("scheduled", "sent", "succeeded", "failed", "unsent", "output_tokens")
_PERCENTILES = ("ttft", "inter_chunk", "latency")


class RankLine(msgspec.Struct, frozen=True):
    """One rank: its share of a core, and the longest loop lag in seconds."""

    cpu: float
    loop_lag: float


class EngineLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one replica said of itself, as in the timeline."""

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    hit_rate: float | None = None
    acceptance: float | None = None
    preemptions: float | None = None

    def joined(self, later: "EngineLine") -> "EngineLine":
        """Both together: the highest gauges, the last known shares, all preemptions."""
        return EngineLine(
            running=_highest(self.running, later.running),
            waiting=_highest(self.waiting, later.waiting),
            kv_usage=_highest(self.kv_usage, later.kv_usage),
            hit_rate=self.hit_rate if later.hit_rate is None else later.hit_rate,
            acceptance=self.acceptance if later.acceptance is None else later.acceptance,
            preemptions=_sum(self.preemptions, later.preemptions),
        )


class GpuLine(msgspec.Struct, frozen=True):
    """What one GPU said, as in the timeline."""

    gpu: str
    watts: float | None
    utilization: float | None
    celsius: float | None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One point of each chart over time; `t` is its first second."""

    t: int
    phase: str
    scheduled: float
    sent: float
    succeeded: float
    failed: float
    unsent: float
    output_tokens: float
    failed_by_kind: dict[str, float]
    in_flight: int
    waiting: int
    target_rps: float | None
    ttft: Glance
    inter_chunk: Glance
    latency: Glance
    ranks: dict[str, RankLine]
    engine: dict[str, EngineLine]
    gpus: list[GpuLine]


class OverTime(msgspec.Struct, frozen=True):
    """The lines, each of `step` seconds."""

    step: int
    lines: list[Line]


@dataclass
class _Stretch:
    """One second of a group, or several neighbouring ones."""

    t: int
    phase: str
    in_flight: int
    waiting: int
    asked: float | None
    counts: Counter[str]
    failed: Counter[str]
    histograms: dict[str, Histogram]
    cpu: dict[str, float]
    """Of each rank, the share of a core times the seconds."""
    loop_lag: dict[str, float]
    engine: dict[str, EngineLine]
    gpus: dict[str, GpuLine]
    """The last reading of each."""
    seconds: int = field(default=1)

    def join(self, later: "_Stretch") -> None:
        """Take in the seconds that follow."""
        self.seconds += later.seconds
        self.in_flight = max(self.in_flight, later.in_flight)
        self.waiting = max(self.waiting, later.waiting)
        self.asked = _sum(self.asked, later.asked)
        self.counts.update(later.counts)
        self.failed.update(later.failed)
        for name, histogram in later.histograms.items():
            self.histograms.setdefault(name, Histogram()).merge(histogram)
        for rank, cpu in later.cpu.items():
            self.cpu[rank] = self.cpu.get(rank, 0.0) + cpu
        for rank, lag in later.loop_lag.items():
            self.loop_lag[rank] = max(lag, self.loop_lag.get(rank, 0.0))
        for replica, said in later.engine.items():
            self.engine[replica] = self.engine.get(replica, EngineLine()).joined(said)
        self.gpus.update(later.gpus)


def over_time(timeline: Iterable[TimelineLine]) -> OverTime:
    """The lines of a timeline, put together until they are few enough."""
    step, stretches = 1, list[_Stretch]()
    for line in timeline:
        if stretches and stretches[-1].t // step == line.t // step:
            stretches[-1].join(_second(line))
        else:
            stretches.append(_second(line))
        if len(stretches) > MOST_LINES:
            step *= 2
            stretches = _joined(stretches, step)
    busiest = _busiest(stretches)
    return OverTime(step, [_line(stretch, busiest) for stretch in stretches])


def _second(line: TimelineLine) -> _Stretch:
    return _Stretch(
        t=line.t,
        phase=line.phase,
        in_flight=line.in_flight,
        waiting=line.waiting,
        asked=line.target_rps,
        counts=Counter({name: getattr(line, name) for name in _COUNTS}),
        failed=Counter(line.failed_by_kind),
        histograms={name: line.histograms[name] for name in _PERCENTILES if name in line.histograms},
        cpu={name: rank.cpu for name, rank in line.ranks.items()},
        loop_lag={name: rank.loop_lag for name, rank in line.ranks.items()},
        engine={name: _engine(said) for name, said in line.engine.items()},
        gpus={one.gpu: GpuLine(one.gpu, one.watts, one.utilization, one.celsius) for one in line.gpus},
    )


def _engine(said: EngineSecond) -> EngineLine:
    return EngineLine(**{name: getattr(said, name) for name in EngineLine.__struct_fields__})


def _joined(stretches: list[_Stretch], step: int) -> list[_Stretch]:
    """The same with the seconds of one step put together."""
    joined: list[_Stretch] = []
    for stretch in stretches:
        if joined and stretch.t // step == joined[-1].t // step:
            joined[-1].join(stretch)
        else:
            joined.append(stretch)
    return joined


def _busiest(stretches: list[_Stretch]) -> set[str]:
    total: dict[str, float] = {}
    for stretch in stretches:
        for rank, cpu in stretch.cpu.items():
            total[rank] = total.get(rank, 0.0) + cpu
    return set(nlargest(MOST_RANKS, total, key=total.__getitem__))


def _line(stretch: _Stretch, ranks: set[str]) -> Line:
    seconds, counts = stretch.seconds, stretch.counts
    ttft, inter_chunk, latency = (Glance.of(stretch.histograms.get(name, Histogram())) for name in _PERCENTILES)
    return Line(
        t=stretch.t,
        phase=stretch.phase,
        scheduled=counts["scheduled"] / seconds,
        sent=counts["sent"] / seconds,
        succeeded=counts["succeeded"] / seconds,
        failed=counts["failed"] / seconds,
        unsent=counts["unsent"] / seconds,
        output_tokens=counts["output_tokens"] / seconds,
        failed_by_kind={kind: count / seconds for kind, count in stretch.failed.items()},
        in_flight=stretch.in_flight,
        waiting=stretch.waiting,
        target_rps=None if stretch.asked is None else stretch.asked / seconds,
        ttft=ttft,
        inter_chunk=inter_chunk,
        latency=latency,
        ranks={
            rank: RankLine(stretch.cpu[rank] / seconds, lag) for rank, lag in stretch.loop_lag.items() if rank in ranks
        },
        engine=dict(islice(stretch.engine.items(), MOST_REPLICAS)),
        gpus=list(islice(stretch.gpus.values(), MOST_GPUS)),
    )


def _highest(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _sum(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else one + other
