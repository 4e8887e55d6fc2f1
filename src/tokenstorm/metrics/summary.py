"""The numbers at the end of a run, from one `Tally` and what is known about the ranks."""

from typing import Literal, TypeVar

import msgspec

from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.tally import METRICS, Counts, Tally
from tokenstorm.metrics.verdict import DiskReport, Evidence, Missing, Outcome, Verdict, judge
from tokenstorm.plan import Plan
from tokenstorm.result import CENSORED, EXHAUSTED, INTERNAL

SCHEMA: Literal[1] = 1
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
CPU_SECONDS = 1.0
"""A share of a core is judged from so many seconds on."""
SAMPLES_BEYOND = 10
"""A percentile is said to rest on enough samples when so many lie beyond it: 1000 for p99, 10000 for p99.9."""

_SEND_METRICS = frozenset(("schedule_delay", "client_wait", "send_lag"))


N = TypeVar("N", int, float)


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

    `stalled_seconds` adds up the times in which its event loop stood still, the longest of each second. A lost one had
    told of `told_sent` requests; those without a line were in flight.
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


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """`summary.json`. Counts, rates, tokens and metrics speak of the measured window.

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
    verdict: Verdict


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a summary needs beside the tally. `window_end` is in nanoseconds from the common start."""

    plan: Plan
    outcome: Outcome
    window_end: int
    requested_rps: float | None
    started_at: str | None
    ended_at: str | None
    ranks: list[RankReport]
    waited_below_cap: int
    unsent_by_lost_ranks: int
    left_out: list[str]
    environment: Environment
    missing: Missing = Missing()


def summarize(run: Run, tally: Tally) -> Summary:
    """Put the numbers together and judge them."""
    plan, counts = run.plan, tally.counts
    metrics = {f"{name}_seconds": metric(tally.histograms[name], *_missing(name, counts)) for name in METRICS}
    client = _client(run, tally)
    return Summary(
        run_id=plan.run_id,
        group_id=plan.group_id,
        plan=plan,
        outcome=run.outcome,
        started_at=run.started_at,
        ended_at=run.ended_at,
        clock={str(report.rank): Clock(report.start_monotonic_ns, report.clock_offset_ns) for report in run.ranks},
        counts=counts,
        windows=Windows(plan.window_start_ns / 1e9, run.window_end / 1e9, tally.warmup),
        rates=_rates(run, tally),
        metrics=metrics,
        tokens=Tokens(_known(tally.prompt_tokens, tally), _output(tally.output_tokens, tally), _source(tally)),
        warnings=dict(sorted(tally.warnings.items())),
        failures={kind: words for kind, words in sorted(tally.failures.items()) if kind != CENSORED},
        replicas={
            target.replica: ReplicaReport(
                target.url, tally.replicas.get(target.replica, Counts()), target.replica in run.left_out
            )
            for target in plan.targets
        },
        ranks=run.ranks,
        client=client,
        environment=run.environment,
        verdict=judge(
            Evidence(
                scheduled=counts.scheduled,
                sent=counts.sent,
                succeeded=counts.succeeded,
                failed=counts.failed,
                censored=counts.censored,
                unsent_by_generator=client.not_sent_by_generator,
                capped=max(0, tally.waited - run.waited_below_cap),
                waited_below_cap=run.waited_below_cap,
                send_lag_p99=metrics["send_lag_seconds"].p99,
                cpu={report.rank: report.cpu for report in run.ranks if report.wall_seconds >= CPU_SECONDS},
                stalled=max((report.stalled_seconds for report in run.ranks), default=0.0),
                seconds=run.window_end / 1e9,
                ranks=plan.ranks,
                lost=[report.rank for report in run.ranks if report.lost],
                chunks=tally.chunks,
                coalesced=tally.coalesced,
                internal=counts.failed_by_kind.get(INTERNAL, 0),
                warnings=tally.warnings,
                disk=client.disk,
                left_out=run.left_out,
                outcome=run.outcome,
                missing=run.missing,
            )
        ),
    )


def metric(histogram: Histogram, missing: int, of: int) -> Metric:
    """The figures of one histogram of nanoseconds; `missing` of `of` requests have no sample in it."""
    share = missing / of if of else 0.0
    values = {name: _seconds(histogram.quantile(q)) for name, q in QUANTILES.items()}
    return Metric(
        count=histogram.count,
        mean=_seconds(histogram.mean()),
        min=_seconds(histogram.minimum),
        max=_seconds(histogram.maximum),
        enough={name: histogram.count * (1 - q) >= SAMPLES_BEYOND - 1e-6 for name, q in QUANTILES.items()},
        lower_bound={name: share > 1 - q for name, q in QUANTILES.items()},
        **values,
    )


def _missing(name: str, counts: Counts) -> tuple[int, int]:
    if name in _SEND_METRICS:
        return counts.unsent, counts.scheduled
    return counts.failed + counts.censored + counts.unsent, counts.scheduled


def _rates(run: Run, tally: Tally) -> Rates:
    seconds = max((run.window_end - run.plan.window_start_ns) / 1e9, 1e-9)
    return Rates(
        requested_rps=run.requested_rps,
        achieved_rps=tally.done_in_window / seconds,
        output_tokens_per_second=_output(tally.output_tokens_in_window / seconds, tally),
        prompt_tokens_per_second=_known(tally.prompt_tokens_in_window / seconds, tally),
    )


def _known(value: N, tally: Tally) -> N | None:
    """Some figure of prompt tokens, if anybody counted them: a prompt has one at least."""
    return value if tally.prompt_tokens_in_window or tally.prompt_tokens else None


def _output(value: N, tally: Tally) -> N | None:
    """Some figure of output tokens, if anybody counted them."""
    return value if tally.output_tokens_in_window or tally.token_sources else None


def _client(run: Run, tally: Tally) -> ClientReport:
    ranks = run.ranks
    disk = DiskReport()
    for report in ranks:
        disk = disk.merge(report.disk)
    return ClientReport(
        cpu_max=max((report.cpu for report in ranks), default=0.0),
        loop_lag_max_seconds=max((report.loop_lag_max_seconds for report in ranks), default=0.0),
        gc_seconds=sum(report.gc_seconds for report in ranks),
        gc_longest_seconds=max((report.gc_longest_seconds for report in ranks), default=0.0),
        disk=disk,
        waited=tally.waited,
        waited_below_cap=run.waited_below_cap,
        not_sent_by_generator=tally.overslept
        + run.unsent_by_lost_ranks
        + tally.counts.failed_by_kind.get(EXHAUSTED, 0),
        chunks=tally.chunks,
        coalesced=tally.coalesced,
    )


def _source(tally: Tally) -> Literal["usage", "chunks", "mixed"] | None:
    match sorted(tally.token_sources):
        case []:
            return None
        case ["usage"]:
            return "usage"
        case ["chunks"]:
            return "chunks"
        case _:
            return "mixed"


def _seconds(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9
