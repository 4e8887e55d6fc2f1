"""The numbers at the end of a run, as files and APIs have them."""

from typing import Literal

import msgspec

from tokenstorm.metrics.counts import Counts, ReplicaReport
from tokenstorm.metrics.energy import EnergyReport
from tokenstorm.metrics.engine import EngineReport
from tokenstorm.metrics.goodput import Goodput
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.intervals import Interval, samples_beyond
from tokenstorm.metrics.reports import Clock, DiskReport, Environment, Outcome, RankReport, Verdict
from tokenstorm.metrics.steady import SteadyState
from tokenstorm.plan import Plan

SCHEMA: Literal[1] = 1
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One distribution, in seconds; None where there is no sample.

    `ci` is the interval of the mean, by what the mean of each batch of seconds was; None where too few seconds tell. A
    percentile is at most its `upper_bound_99`, with a confidence of 99 % if requests are independent (LoadGen's early stopping);
    None, and not `enough`, where there are too few samples for any bound.
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
    upper_bound_99: dict[str, float | None] = {}
    ci: Interval | None = None

    @classmethod
    def of(cls, histogram: Histogram, missing: float = 0.0, *, ci: Interval | None = None) -> "Metric":
        """The figures of one histogram of nanoseconds; a share `missing` of the requests has no sample in it."""
        count = histogram.count
        beyond = {name: samples_beyond(count, q) for name, q in QUANTILES.items()}
        return cls(
            count=count,
            mean=_seconds(histogram.mean()),
            min=_seconds(histogram.minimum),
            max=_seconds(histogram.maximum),
            enough={name: left_out is not None for name, left_out in beyond.items()},
            lower_bound={name: missing > 1 - q for name, q in QUANTILES.items()},
            upper_bound_99={
                name: None if left_out is None else _seconds(histogram.at_rank(count - left_out + 1))
                for name, left_out in beyond.items()
            },
            ci=ci,
            **{name: _seconds(histogram.quantile(q)) for name, q in QUANTILES.items()},
        )


def _seconds(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


class Rates(msgspec.Struct, frozen=True):
    """Per second of the measured window, whole group; `requested_rps` is None in a closed loop.

    `sent_rps` is over the time in which requests were due, as `requested_rps` is; `achieved_rps` counts the answers that ended
    inside the window: those of the drain are missing from it.
    Tokens are None where nobody counted them: what is not known is not 0. Those per user are what a user sees: the median
    request's, after its first token (one over the median TPOT). `ci` has the intervals of achieved requests and output tokens,
    by batches of seconds, where there were enough.
    """

    requested_rps: float | None
    achieved_rps: float
    output_tokens_per_second: float | None
    prompt_tokens_per_second: float | None
    output_tokens_per_second_per_user: float | None = None
    ci: dict[str, Interval] = {}
    sent_rps: float | None = None


class SteadyReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the measured window became steady, why not in `text`, and the figures of its steady part.

    `growing`: the queue grew to the end; `warming`: times or rates still changed; `shifted`: there were two levels; `short`: there is too
    little to tell. Only a steady one has figures: of the requests that ended from `from_seconds` to `until_seconds` after the
    common start. `rates` and their `ci` are of `achieved_rps` and `output_tokens_per_second`; `in_flight` is the mean.
    """

    state: SteadyState
    text: str
    from_seconds: float | None = None
    until_seconds: float | None = None
    in_flight: float | None = None
    rates: dict[str, float] = {}
    ci: dict[str, Interval] = {}
    metrics: dict[str, Metric] = {}

    @property
    def fault(self) -> str | None:
        """The code of what is wrong; None where nothing is known to be."""
        return {"growing": "over_saturated", "warming": "not_steady", "shifted": "not_steady"}.get(self.state)


class Distribution(msgspec.Struct, frozen=True):
    """How a number is spread over requests; percentiles to within 1 %, None where nobody counted."""

    count: int
    mean: float | None
    min: int | None
    max: int | None
    p50: int | None
    p90: int | None
    p99: int | None


class Concurrency(msgspec.Struct, frozen=True):
    """Requests in flight: on average over the window, and at most in a second of it (the ranks' own most, added up).

    `peak` is None where no timeline tells.
    """

    mean: float
    peak: int | None


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a staged load, in seconds from the common start. Counts and times are of the requests scheduled in it.

    `achieved_rps` counts the answers that ended in it; `goodput` is the share of good ones of all that were scheduled in it.
    """

    requested_rps: float
    start: float
    end: float
    counts: Counts
    achieved_rps: float
    goodput: float | None
    metrics: dict[str, Metric]


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """One of several models that were asked for. `goodput` is the share of its requests that were sent and not given up."""

    counts: Counts
    achieved_rps: float
    output_tokens: int | None
    goodput: float | None
    metrics: dict[str, Metric]


class TurnReport(msgspec.Struct, frozen=True, kw_only=True):
    """The measured requests that were turn number `turn` of their session; with `and_later` the later ones too.

    `cached` is the share of prompt tokens that the server had in its cache; None where it does not tell.
    """

    turn: int
    and_later: bool
    counts: Counts
    metrics: dict[str, Metric]
    prompt_tokens: Distribution
    cached: float | None


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """The sessions of which the first turn was due in the measured window: `started = completed + failed + too_long + cut`.

    `failed` ended with a failed turn, `too_long` when the conversation no longer fit into the model's context, `cut` with the run;
    `unsent` never began. `turns_cut` counts the turns that were planned for those that began, and not sent. `requested_per_second` is
    None where clients begin their next session when the last one ended.
    """

    started: int
    completed: int
    failed: int
    too_long: int
    cut: int
    unsent: int
    turns_cut: int
    requested_per_second: float | None
    started_per_second: float


class Windows(msgspec.Struct, frozen=True):
    """The measured window in seconds from the common start, and what was sent before it."""

    measured_start: float
    measured_end: float
    warmup: Counts


class Tokens(msgspec.Struct, frozen=True):
    """Tokens of the successful measured requests; `source` says who counted: the server's usage, or our chunks.

    None where nobody did. Of prompts whose length was asked for, `prompt_ratio` is what the server counted over what was
    asked, on average, and `prompt_off` the share by which one of them was off at most. Of the prompt tokens of all requests,
    `prefix_ideal` is the share that one prefix cache without limits would have, and `prefix_found` what the engine found.
    """

    prompt: int | None
    output: int | None
    source: Literal["usage", "chunks", "mixed"] | None
    prompt_asked: int | None = None
    prompt_ratio: float | None = None
    prompt_off: float | None = None
    prefix_ideal: float | None = None
    prefix_found: float | None = None


class ClientReport(msgspec.Struct, frozen=True, kw_only=True):
    """The load generator as a whole: the worst of its ranks, and arrivals that it kept waiting."""

    cpu_max: float
    clock: Literal["kernel", "read"] = "read"
    """Whose times the answers have: the kernel's, of their arrival, or those of the reads, in one rank at least."""
    loop_lag_max_seconds: float
    gc_seconds: float
    gc_longest_seconds: float
    disk: DiskReport
    waited: int
    waited_below_cap: int
    not_sent_by_generator: int
    chunks: int
    coalesced: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All of a summary but the verdict. Counts, rates, tokens and metrics speak of the measured window.

    `warnings` counts successful requests by what was odd about their answers; see `Warned`. `failures` has the words of one
    failed request for each kind. `goodput` is None where the plan has no objectives. `lengths` are tokens of
    prompts and answers (`prompt`, `output`) of successful requests; `steady` is None where the plan asks for a changing rate, or no timeline tells; `stages` those of a load that has some, `models` those of
    several that were asked for, `sessions` and `turns` those of conversations. `engine` is what the replicas said of
    themselves; None where they say nothing; `energy` what their GPUs took, None where nobody reads them.
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
    goodput: Goodput | None = None
    lengths: dict[str, Distribution] = {}
    concurrency: Concurrency | None = None
    steady: SteadyReport | None = None
    stages: list[StageReport] = []
    models: dict[str, ModelReport] = {}
    sessions: Sessions | None = None
    turns: list[TurnReport] = []
    warnings: dict[str, int] = {}
    failures: dict[str, str] = {}
    replicas: dict[str, ReplicaReport]
    ranks: list[RankReport]
    client: ClientReport
    environment: Environment
    engine: EngineReport | None = None
    energy: EnergyReport | None = None


class Summary(Figures, frozen=True, kw_only=True):
    """`summary.json`."""

    verdict: Verdict
