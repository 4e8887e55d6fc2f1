"""The runs of a series as points: what each showed, whether it held, and what all of them come to."""

from typing import Literal

import msgspec

from tokenstorm.metrics.counts import Counts
from tokenstorm.metrics.reports import Outcome, Verdict
from tokenstorm.plan import SeriesPlan
from tokenstorm.series_parts import Search, Value

SCHEMA: Literal[1] = 1

Held = Literal["held", "failed", "short", "unfit"]
"""Of a run under objectives:

`held`    even the lower bound of its share of good requests reaches what was asked, and the backlog did not grow
`failed`  not even the upper bound reaches it, or the backlog grew
`short`   too few requests to be sure: what was asked lies between both bounds
`unfit`   the load generator itself was at fault: the run says nothing about the service
"""


class Quantiles(msgspec.Struct, frozen=True):
    """Percentiles of one time, in seconds; None without a sample."""

    p50: float | None
    p95: float | None
    p99: float | None


class Attainment(msgspec.Struct, frozen=True):
    """How many of all requests that were scheduled, but for those that were given up on purpose, met their objectives, and
    one-sided bounds of their share.
    """

    good: int
    scheduled: int
    share: float
    low: float
    high: float
    confidence: float


class Backlog(msgspec.Struct, frozen=True):
    """How the requests in flight and waiting changed over the window: a second, give or take `error` (standard error)."""

    slope: float
    error: float
    grows: bool


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a series; its files are in `runs/<number>`.

    `values` are the fields that differ, `pause_seconds` lies between the last run's drain and its start. `used` is how much
    of each objective the slowest requests that count used, 1 being all of it. `little` is the mean number in flight over
    what rate and mean time in service say; 1 in a run that was steady.
    """

    number: int
    repeat: int
    values: dict[str, Value]
    run_id: str
    started_at: str | None
    ended_at: str | None
    pause_seconds: float | None
    seconds: float
    outcome: Outcome
    verdict: Verdict
    counts: Counts
    requested_rps: float | None
    achieved_rps: float
    output_tokens_per_second: float | None
    output_tokens_per_second_per_user: float | None
    in_flight: float | None
    ttft: Quantiles
    tpot: Quantiles
    latency: Quantiles
    little: float | None = None
    backlog: Backlog | None = None
    attainment: Attainment | None = None
    used: dict[str, float] = {}
    state: Held | None = None
    bound_by: list[str] = []
    simulated: bool = False
    gpus: int | None = None
    joules_per_output_token: float | None = None


Ending = Literal["found", "most", "runs", "generator", "nothing_held", "unfinished"]
"""Why a search ended:

`found`         the bracket is as narrow as was asked, or as runs that could not tell let it be, and both its ends were seen twice
`most`          the highest value that was allowed held
`runs`          the runs that were allowed are used up
`generator`     the load generator reached its limit before the service did
`nothing_held`  the objectives were missed however low the load
`unfinished`    the series was stopped
"""


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a search: the highest value that held and the lowest that failed, None where there is none.

    `bound_by` says what failed first: objectives, `backlog` or `failures`. `shape` is how it failed: a `cliff` where
    a step up by the precision loses more than a tenth of the good requests or lets the backlog grow, else a `slope`.
    `sure` tells whether both ends were seen twice. Rates are those of the runs at `held`.
    """

    field: str
    held: float | None
    failed: float | None
    bound_by: list[str]
    shape: Literal["cliff", "slope"] | None
    sure: bool
    ended: Ending
    reason: str
    share: float
    held_attainment: Attainment | None = None
    failed_attainment: Attainment | None = None
    requests_per_second: float | None = None
    output_tokens_per_second: float | None = None
    output_tokens_per_second_per_gpu: float | None = None
    output_tokens_per_joule: float | None = None


class SeriesSummary(msgspec.Struct, frozen=True, kw_only=True):
    """`series_summary.json`: written after each run. `of` is how many runs there will be, None where nobody knows.

    `cache` says in words what was done about the engine's prefix cache between the runs, `order` how they were ordered.
    """

    schema: Literal[1] = SCHEMA
    series: SeriesPlan
    outcome: Outcome
    started_at: str | None
    ended_at: str | None
    order: str
    cache: str
    of: int | None
    points: list[Point]
    failed_points: dict[int, str] = {}
    """Runs that came to nothing, and why."""
    capacity: Capacity | None = None
    notes: list[str] = []

    @property
    def search(self) -> Search | None:
        """What was searched for."""
        return self.series.series.search
