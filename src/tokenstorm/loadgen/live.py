"""What a launcher reports about its group while it runs: each second, and how far it is."""

from datetime import datetime
from typing import Literal

import msgspec

from tokenstorm.metrics.counts import ReplicaReport
from tokenstorm.metrics.energy import GpuReading
from tokenstorm.metrics.engine import EngineSecond
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.reports import DiskReport, Environment, Verdict
from tokenstorm.result import Number

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
    """One second of the group, a line of `timeline.jsonl`; the counts are of that second, warm-up included.

    `phase` is the one that the second began in, `good` how many measured requests of those that ended met their objectives (None
    where there are none), `in_flight_peak` the most requests in flight up to then, measured seconds alone, `target_rps` the mean of the rate that was asked for in it. `engine` is what
    each replica said of itself, where it was asked and answered; `gpus` what its GPUs
    said, each at its own time: in the first line also what they said shortly before the start. `attempt` counts the starts of the job.
    """

    schema: Literal[1] = SCHEMA
    attempt: Number = 0
    t: Number
    phase: str
    scheduled: Number
    sent: Number
    succeeded: Number
    failed: Number
    failed_by_kind: dict[str, Number] = {}
    unsent: Number
    good: Number | None = None
    output_tokens: Number
    in_flight: Number
    in_flight_peak: Number = 0
    waiting: Number
    target_rps: float | None
    waited_below_cap: Number
    latency: Glance
    service_time: Glance
    ttft: Glance
    inter_chunk: Glance = Glance(None, None, None)
    ranks: dict[str, RankSecond]
    left_out: list[str]
    engine: dict[str, EngineSecond] = {}
    gpus: list[GpuReading] = []
    histograms: dict[str, Histogram]


class Sampled(msgspec.Struct, frozen=True):
    """What was said beside the load since the second before: by each replica of itself, and by GPUs."""

    engine: dict[str, EngineSecond] = {}
    gpus: list[GpuReading] = []


NOTHING_SAMPLED = Sampled()


class Standing(msgspec.Struct, frozen=True):
    """What the measured requests that have ended so far say: the verdict, by the same bounds as at the end (None before the
    first of them), the words of one failure for each kind, and what each replica got.
    """

    verdict: Verdict | None = None
    failures: dict[str, str] = {}
    replicas: dict[str, ReplicaReport] = {}


class Recent(msgspec.Struct, frozen=True, kw_only=True):
    """The last seconds of the group, as rates per second; `asked_rps` is None in a closed loop."""

    seconds: int = 0
    asked_rps: float | None = None
    sent_rps: float = 0.0
    answered_rps: float = 0.0
    output_tokens_per_second: float = 0.0


class Minute(msgspec.Struct, frozen=True, kw_only=True):
    """The last minute of the group, a number for each second, oldest first. Times are medians in seconds, None without an answer."""

    sent: tuple[int, ...] = ()
    answered: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    ttft: tuple[float | None, ...] = ()
    latency: tuple[float | None, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`status.json` and GET /status: how far the group is. Times are seconds since the common start.

    `at` is when this was said; `late_seconds` how long after the moment for which it was released the group started.
    `opening` connections are being opened before the start. `goodput` is the share of good requests among the measured ones that
    have ended or were never sent; None where the plan has no objectives. `environment` is what it runs with, once that is known.
    `attempt` counts the starts of the job. Counts are of all since the start, warm-up included: of the failed `failed_by_kind`, and `newest_failure` in the server's words;
    of the unsent those that are `unsent_by_generator`. `advice` says what the user can do while it runs; empty where there is nothing.
    """

    schema: Literal[1] = SCHEMA
    at: datetime
    run_id: str
    attempt: int = 0
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
    goodput: float | None = None
    latency: Glance
    service_time: Glance
    ttft: Glance
    ranks: int
    ranks_up: int
    late_seconds: float = 0.0
    opening: int = 0
    standing: Standing = Standing()
    num_clients: int = 0
    failed_by_kind: dict[str, int] = {}
    newest_failure: str = ""
    unsent_by_generator: int = 0
    recent: Recent = Recent()
    minute: Minute = Minute()
    advice: str = ""
    environment: Environment | None


class Event(msgspec.Struct, frozen=True):
    """One line of GET /events, each second. The timeline line comes without its histograms."""

    status: Status
    line: TimelineLine | None
