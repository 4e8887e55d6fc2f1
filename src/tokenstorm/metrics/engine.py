"""What an engine says of itself: each second, and over the measured window."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate

import msgspec

_LEVELS = ("running", "waiting", "kv_usage", "hit_rate", "acceptance")
_TOTALS = (
    "prefix_queries",
    "prefix_hits",
    "preemptions",
    "prompt_tokens",
    "generation_tokens",
    "drafted_tokens",
    "accepted_tokens",
)
_TIMES = ("ttft_seconds", "queue_seconds")


class EngineTimes(msgspec.Struct):
    """A histogram of the engine: `buckets` counts the times up to each bound and above the one before.

    Empty ones are left out, but for the one below one with times: it tells where that begins.
    """

    count: int = 0
    sum: float = 0.0
    buckets: dict[str, int] = {}

    def merge(self, other: "EngineTimes") -> None:
        """Add another one's times to these."""
        self.count += other.count
        self.sum += other.sum
        for bound, count in other.buckets.items():
            self.buckets[bound] = self.buckets.get(bound, 0) + count

    def quantile(self, q: float) -> float | None:
        """An estimate, even within each bucket and no more than the mean allows; None without times, or above all bounds.

        Engines' buckets are wide at the bottom: a mean of 1 ms below a first bound of 300 ms is no p50 of 150 ms.
        """
        bounds = sorted(self.buckets, key=float)
        below = list(accumulate(self.buckets[bound] for bound in bounds))
        if not below or not below[-1]:
            return None
        place = bisect_left(below, q * below[-1])
        high = float(bounds[place])
        if high == float("inf"):
            return None
        low = float(bounds[place - 1]) if place else 0.0
        before = below[place - 1] if place else 0
        even = low + (high - low) * (q * below[-1] - before) / (below[place] - before)
        return min(even, self.sum / self.count / (1 - q))  # Markov's inequality


class EngineSecond(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one replica said once: gauges as they were, counters and histograms since what it said `seconds` before.

    `at` is seconds from the common start. What the engine does not tell is None, and is left out of the line.
    """

    at: float
    seconds: float | None = None
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    prefix_queries: float | None = None
    prefix_hits: float | None = None
    hit_rate: float | None = None
    preemptions: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    drafted_tokens: float | None = None
    accepted_tokens: float | None = None
    acceptance: float | None = None
    ttft_seconds: EngineTimes | None = None
    queue_seconds: EngineTimes | None = None


class Level(msgspec.Struct, frozen=True):
    """A gauge over the window."""

    mean: float
    max: float


class ServerTimes(msgspec.Struct, frozen=True):
    """The engine's own times in seconds. Percentiles are estimates from its buckets; None above its last bound."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


class ReplicaEngine(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica said over the measured window; `samples` times in `seconds`. None is what it does not tell."""

    samples: int
    seconds: float
    running: Level | None
    waiting: Level | None
    kv_usage: Level | None
    hit_rate: float | None
    acceptance: float | None
    prefix_queries: float | None
    prefix_hits: float | None
    preemptions: float | None
    prompt_tokens: float | None
    generation_tokens: float | None
    drafted_tokens: float | None
    accepted_tokens: float | None
    ttft_seconds: ServerTimes | None
    queue_seconds: ServerTimes | None


class EngineReport(msgspec.Struct, frozen=True):
    """What the replicas said over the measured window: each, and their times taken together."""

    replicas: dict[str, ReplicaEngine]
    ttft_seconds: ServerTimes | None
    queue_seconds: ServerTimes | None

    @property
    def prefix_found(self) -> float | None:
        """The share of prompt tokens that came from prefix caches, of all replicas; None where one does not count them."""
        said = self.replicas.values()
        hits, queries = ([getattr(one, name) for one in said] for name in ("prefix_hits", "prefix_queries"))
        return None if None in hits or None in queries else ratio(sum(hits), sum(queries))


class EngineTally:
    """Adds up what replicas said. Memory does not grow with the length of a run."""

    def __init__(self) -> None:
        self._replicas: dict[str, _Said] = {}

    def add(self, seconds: Mapping[str, EngineSecond]) -> None:
        """Take in a second of the measured window."""
        for replica, second in seconds.items():
            self._replicas.setdefault(replica, _Said()).add(second)

    def report(self) -> EngineReport | None:
        """What all of it comes to; None where no replica said anything."""
        if not self._replicas:
            return None
        everything: dict[str, EngineTimes] = {}
        for said in self._replicas.values():
            for name, times in said.times.items():
                everything.setdefault(name, EngineTimes()).merge(times)
        replicas = {replica: said.report() for replica, said in sorted(self._replicas.items())}
        return EngineReport(replicas, _server(everything, "ttft_seconds"), _server(everything, "queue_seconds"))


class _Said:
    """The sums of one replica, by field."""

    def __init__(self) -> None:
        self.samples = 0
        self.seconds = 0.0
        self.levels: dict[str, list[float]] = {}
        self.totals: Counter[str] = Counter()
        self.times: dict[str, EngineTimes] = {}

    def add(self, second: EngineSecond) -> None:
        self.samples += 1
        self.seconds += second.seconds or 0.0
        for name in _LEVELS:
            if (value := getattr(second, name)) is not None:
                number, total, most = self.levels.get(name, (0, 0.0, value))
                self.levels[name] = [number + 1, total + value, max(most, value)]
        for name in _TOTALS:
            if (value := getattr(second, name)) is not None:
                self.totals[name] += value
        for name in _TIMES:
            if (times := getattr(second, name)) is not None:
                self.times.setdefault(name, EngineTimes()).merge(times)

    def report(self) -> ReplicaEngine:
        levels = {name: Level(total / number, most) for name, (number, total, most) in self.levels.items()}
        rates = {name: level.mean for name, level in levels.items()}
        totals = {name: self.totals.get(name) for name in _TOTALS}
        of_all = ratio(totals["prefix_hits"], totals["prefix_queries"])
        of_drafted = ratio(totals["accepted_tokens"], totals["drafted_tokens"])
        return ReplicaEngine(
            samples=self.samples,
            seconds=round(self.seconds, 3),
            running=levels.get("running"),
            waiting=levels.get("waiting"),
            kv_usage=levels.get("kv_usage"),
            hit_rate=rates.get("hit_rate") if of_all is None else of_all,
            acceptance=rates.get("acceptance") if of_drafted is None else of_drafted,
            **totals,
            ttft_seconds=_server(self.times, "ttft_seconds"),
            queue_seconds=_server(self.times, "queue_seconds"),
        )


def ratio(part: float | None, whole: float | None) -> float | None:
    """The share; None where one of the two is unknown, or there is nothing to share."""
    return part / whole if part is not None and whole else None


def _server(told: Mapping[str, EngineTimes], name: str) -> ServerTimes | None:
    if (times := told.get(name)) is None:
        return None
    mean = times.sum / times.count if times.count else None
    return ServerTimes(times.count, mean, *(times.quantile(q) for q in (0.5, 0.9, 0.99)))
