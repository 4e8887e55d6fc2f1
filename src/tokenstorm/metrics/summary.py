"""The numbers at the end of a run, as files and APIs have them."""

from typing import Literal

import msgspec

from tokenstorm.metrics.tally import Counts
from tokenstorm.plan import Plan

SCHEMA: Literal[1] = 1
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}

State = Literal["valid", "suspect", "invalid"]
Outcome = Literal["completed", "cancelled", "cut off", "running"]
"""How a run ended: as planned, because somebody stopped it, or without a summary of its own."""


class DiskReport(msgspec.Struct, frozen=True):
    """How the disk did: the slowest write in seconds, how many were slow, how many lines were lost, and why.

    The file of result lines has at least `written_bytes`; a reader that sees less has to look again.
    """

    slowest_seconds: float = 0.0
    stalls: int = 0
    lost_lines: int = 0
    error: str | None = None
    written_bytes: int = 0

    def merge(self, other: "DiskReport") -> "DiskReport":
        """Both disks taken together."""
        return DiskReport(
            slowest_seconds=max(self.slowest_seconds, other.slowest_seconds),
            stalls=self.stalls + other.stalls,
            lost_lines=self.lost_lines + other.lost_lines,
            error=self.error or other.error,
            written_bytes=self.written_bytes + other.written_bytes,
        )


class Reason(msgspec.Struct, frozen=True):
    """One problem: a code for programs, a sentence for people."""

    code: str
    text: str


class Verdict(msgspec.Struct, frozen=True):
    """Whether to trust the numbers, and the reasons why not."""

    state: State
    reasons: list[Reason]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One distribution, in seconds; None where there is no sample.

    `lower_bound` marks percentiles that would be higher, had the requests that are missing from them answered.
    """

    count: int
    mean: float | None
    min: float | None
    max: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    enough: dict[str, bool]
    lower_bound: dict[str, bool]


class Rates(msgspec.Struct, frozen=True):
    """Per second of the measured window, whole group; `requested_rps` is None in a closed loop.

    Tokens are None where nobody counted them: what is not known is not 0.
    """

    requested_rps: float | None
    achieved_rps: float
    output_tokens_per_second: float | None
    prompt_tokens_per_second: float | None


class Windows(msgspec.Struct, frozen=True):
    """The measured window in seconds from the common start, and what was sent before it."""

    measured_start: float
    measured_end: float
    warmup: Counts


class Tokens(msgspec.Struct, frozen=True):
    """Tokens of the successful measured requests; `source` says who counted: the server's usage, or our chunks.

    None where nobody did.
    """

    prompt: int | None
    output: int | None
    source: Literal["usage", "chunks", "mixed"] | None


class ReplicaReport(msgspec.Struct, frozen=True):
    """What one replica got, and whether it was left out for refusing."""

    url: str
    counts: Counts
    left_out: bool


class RankReport(msgspec.Struct, frozen=True, kw_only=True):
    """One rank: where it ran, what it cost between start and drain, and how its clock stood to the launcher's.

    `cpu` is the CPU time from start to drain over that time, `cpu_seconds` and `wall_seconds` go on to the end of the
    drain. `loop_lag_max_seconds`, `gc_longest_seconds` and `stalled_seconds` come from the deltas; the last adds up the
    times in which its event loop stood still, the longest of each second. `start_monotonic_ns` is the common start on
    this rank's clock, `clock_offset_ns` what was added to that clock to get the launcher's, and `clock_round_trip_ns` how
    well that was known. A lost one had told of `told_sent` requests; those without a line were in flight.
    """

    rank: int
    host: str = ""
    pid: int = 0
    lost: str | None = None
    told_sent: int = 0
    cpu: float = 0.0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    loop_lag_max_seconds: float = 0.0
    stalled_seconds: float = 0.0
    gc_pauses: int = 0
    gc_seconds: float = 0.0
    gc_longest_seconds: float = 0.0
    peak_memory_bytes: int = 0
    disk: DiskReport = DiskReport()
    start_monotonic_ns: int | None = None
    clock_offset_ns: int = 0
    clock_round_trip_ns: int = 0


class ClientReport(msgspec.Struct, frozen=True, kw_only=True):
    """The load generator as a whole: the worst of its ranks, and arrivals that it kept waiting."""

    cpu_max: float
    loop_lag_max_seconds: float
    gc_seconds: float
    gc_longest_seconds: float
    disk: DiskReport
    waited: int
    waited_below_cap: int
    not_sent_by_generator: int
    chunks: int
    coalesced: int


class Clock(msgspec.Struct, frozen=True):
    """The common start on a rank's own clock, and what to add to that clock to get the launcher's."""

    start_monotonic_ns: int | None
    offset: int


class PromptStock(msgspec.Struct, frozen=True):
    """The prompts of a list or file, which requests take in turn: how many there are, and how many of them differ."""

    count: int
    distinct: int


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What the run ran with; `engine` is each replica's `/version` answer, as far as it tells.

    `prompts` is None where each request's is made up.
    """

    tokenstorm: str = ""
    python: str = ""
    platform: str = ""
    hosts: list[str] = []
    job_id: str | None = None
    model: str | None = None
    simulated: bool = False
    engine: dict[str, object] = {}
    prompts: PromptStock | None = None
    notes: list[str] = []


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All of a summary but the verdict. Counts, rates, tokens and metrics speak of the measured window.

    `warnings` counts successful requests by what was odd about their answers; see `Warned`. `failures` has the words of one
    failed request for each kind.
    """

    schema: Literal[1] = SCHEMA
    run_id: str
    group_id: int | None
    plan: Plan
    outcome: Outcome
    started_at: str | None
    ended_at: str | None
    clock: dict[str, Clock]
    counts: Counts
    windows: Windows
    rates: Rates
    metrics: dict[str, Metric]
    tokens: Tokens
    warnings: dict[str, int] = {}
    failures: dict[str, str] = {}
    replicas: dict[str, ReplicaReport]
    ranks: list[RankReport]
    client: ClientReport
    environment: Environment


class Summary(Figures, frozen=True, kw_only=True):
    """`summary.json`."""

    verdict: Verdict
