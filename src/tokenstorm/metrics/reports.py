"""What the load generator tells about itself: its ranks, their disks and clocks, and what they ran with."""

from typing import Literal

import msgspec

State = Literal["valid", "suspect", "invalid"]

Outcome = Literal["completed", "cancelled", "cut off", "running"]
"""How a run ended: as planned, because somebody stopped it, or without a summary of its own."""


class Reason(msgspec.Struct, frozen=True):
    """One problem: a code for programs, a sentence for people."""

    code: str
    text: str


class Verdict(msgspec.Struct, frozen=True):
    """Whether to trust the numbers, and the reasons why not."""

    state: State
    reasons: list[Reason]


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
    clock: Literal["kernel", "read"] = "read"
    """Whose times the answers have: the kernel's, of their arrival, or those of the reads."""
    gc_pauses: int = 0
    gc_seconds: float = 0.0
    gc_longest_seconds: float = 0.0
    peak_memory_bytes: int = 0
    disk: DiskReport = DiskReport()
    start_monotonic_ns: int | None = None
    clock_offset_ns: int = 0
    clock_round_trip_ns: int = 0


class Clock(msgspec.Struct, frozen=True):
    """The common start on a rank's own clock, and what to add to that clock to get the launcher's."""

    start_monotonic_ns: int | None
    offset: int


class PromptStock(msgspec.Struct, frozen=True):
    """The prompts of a list or file, which requests take in turn: how many there are, how many of them differ, and how many
    records of the file were left out, by the reason.
    """

    count: int
    distinct: int
    left_out: dict[str, int] = {}


class Spread(msgspec.Struct, frozen=True):
    """Lengths in tokens: their mean, least, middle, 99th percentile, and most."""

    mean: float
    least: int
    median: int
    p99: int
    most: int


class WorkloadFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a prepared workload holds. Seconds and rates are those of the replay, at its speed.

    `tied` counts rows that are due at the same moment as the row before. `ideal_reuse` is the share of all prompt tokens that
    a prefix cache without limits would have; None where the trace does not tell. `no_output` counts rows whose answer had no
    token: they ask for one. `skipped` counts rows that were left out, by the reason.
    """

    format: str
    rows: int
    span_seconds: float
    mean_rps: float
    peak_rps: int
    tied: int
    input: Spread
    output: Spread
    ideal_reuse: float | None = None
    no_output: int = 0
    skipped: dict[str, int] = {}


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What the run ran with; `engine` is each replica's `/version` answer, as far as it tells.

    `prompts` is None where each request's is made up; `workload` tells what was prepared, such as a trace.
    `vocabulary` is how many words of one token each made-up text has, 0 where words are words, None where nobody asked for
    tokens; `template_tokens` are what a template adds to each prompt. `ignore_eos` tells whether requests asked for answers of
    exactly the length, whoever decided that.
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
    workload: WorkloadFacts | None = None
    vocabulary: int | None = None
    template_tokens: int = 0
    ignore_eos: bool = False
    notes: list[str] = []


class Missing(msgspec.Struct, frozen=True):
    """What a run wrote and is missing now: each file and what it lacks, in words, and the share of the requests."""

    words: list[str] = []
    share: float = 0.0


NOTHING_MISSING = Missing()
