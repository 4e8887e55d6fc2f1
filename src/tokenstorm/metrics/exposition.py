"""The group's Prometheus text."""

import msgspec

from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.tally import Tally
from tokenstorm.prometheus import Labels, family, histogram
from tokenstorm.result import FAILURE_KINDS

BOUNDS = (
    *(0.0005, 0.001, 0.0015, 0.0025, 0.0035, 0.005, 0.0075),
    *(0.01, 0.015, 0.025, 0.035, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.35, 0.5, 0.75),
    *(1, 1.5, 2.5, 3.5, 5, 7.5),
    *(10, 20, 30, 45, 60, 90, 120, 200, 300),
)
"""Upper bounds of the buckets in seconds: at most twice the one before, so that a quantile is off by less than that."""
KINDS = (*FAILURE_KINDS, *(f"http_{status}" for status in (400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504)))
"""The failure kinds that are 0 until they happen: `rate()` does not see the first value of a series that begins later."""
PHASES = ("starting", "holding", "warmup", "measured", "draining", "finished", "failed")

_HISTOGRAMS = {
    "client_latency_seconds": ("latency", "Successful requests: from the scheduled time to the end of the answer"),
    "client_service_time_seconds": ("service_time", "Successful requests: from the send to the end of the answer"),
    "client_ttft_seconds": ("ttft", "Successful requests: from the send to the first token"),
    "client_inter_chunk_seconds": ("inter_chunk", "Measured requests: from a read with tokens to the next"),
    "client_read_lag_seconds": ("read_lag", "Reads: from the arrival, by the kernel's stamp, to the read"),
    "client_tpot_seconds": ("tpot", "Successful requests: time per output token after the first"),
    "client_send_lag_seconds": ("send_lag", "Sent requests: how late they left by the load generator's fault"),
    "client_wait_seconds": ("client_wait", "Sent requests: how long they waited for a free client"),
}
_ENDED = "Measured requests that were sent and have ended: succeeded, failed, given up, or in flight at the run's end"
_FAILED = "Measured requests that failed; of http_<status> the usual ones begin at 0, others with their first"
_GOOD = "Measured requests that succeeded and met all objectives of the plan"
_CANCELLED = "Measured requests that were given up because the load asks for that; no failures"
_UNSENT = "Measured arrivals that were never sent"
_TOKENS = "Tokens of successful measured requests"
_IN_FLIGHT = "Requests in flight at the end of the last second, warm-up included"
_ASKED_RATE = "The asked rate; absent in a closed loop, before the start and at the end"
_LOOP_LAG = "The longest that a rank's event loop stood still in the last second"
_PHASES = "1 for the phase that the group is in, 0 for the others"
_UP = "1 for a rank that is there, 0 for one that is lost or has not come yet"


class Gauges(msgspec.Struct, frozen=True):
    """What is true at this moment, beside the counts."""

    phase: str
    in_flight: int
    target_rps: float | None
    loop_lag: float
    rank_up: dict[int, bool]


def render(group_id: str, tally: Tally, gauges: Gauges, *, has_slo: bool = False) -> bytes:
    """The Prometheus text of a group; the warm-up is left out. Only requests with objectives can be good."""
    group, counts = {"group_id": group_id}, tally.counts
    by_kind = dict.fromkeys(KINDS, 0) | counts.failed_by_kind
    failed = [({**group, "kind": kind}, count) for kind, count in sorted(by_kind.items())]
    tokens = [({**group, "kind": "prompt"}, tally.prompt_tokens), ({**group, "kind": "output"}, tally.output_tokens)]
    asked = [] if gauges.target_rps is None else [(group, gauges.target_rps)]
    phases = [({**group, "phase": phase}, int(phase == gauges.phase)) for phase in PHASES]
    up = [({**group, "rank": rank}, int(is_up)) for rank, is_up in sorted(gauges.rank_up.items())]
    families = [
        family("client_requests_total", "counter", _ENDED, [(group, counts.sent)]),
        family("client_requests_failed_total", "counter", _FAILED, failed),
        family("client_requests_cancelled_total", "counter", _CANCELLED, [(group, counts.cancelled)]),
        family("client_requests_unsent_total", "counter", _UNSENT, [(group, counts.unsent)]),
        *([family("client_requests_good_total", "counter", _GOOD, [(group, tally.good.count)])] if has_slo else []),
        *(_seconds(name, text, group, tally.histograms[metric]) for name, (metric, text) in _HISTOGRAMS.items()),
        family("client_tokens_total", "counter", _TOKENS, tokens),
        family("client_in_flight", "gauge", _IN_FLIGHT, [(group, gauges.in_flight)]),
        family("client_target_requests_per_second", "gauge", _ASKED_RATE, asked),
        family("client_event_loop_lag_seconds", "gauge", _LOOP_LAG, [(group, gauges.loop_lag)]),
        family("client_phase", "gauge", _PHASES, phases),
        family("client_rank_up", "gauge", _UP, up),
    ]
    return "".join(families).encode()


def with_age(text: bytes, group_id: str, seconds: float) -> bytes:
    """Add the age of the figures, in seconds: 0 if they come from the launcher itself."""
    name, help_ = "client_metrics_age_seconds", "How old these figures are: they may come from a file"
    return text + family(name, "gauge", help_, [({"group_id": group_id}, round(seconds, 1))]).encode()


def _seconds(name: str, text: str, labels: Labels, nanoseconds: Histogram) -> str:
    below = nanoseconds.counts_at_most(round(bound * 1e9) for bound in BOUNDS)
    buckets = zip(BOUNDS, below, strict=True)
    return histogram(name, text, labels, buckets, count=nanoseconds.count, total=nanoseconds.total / 1e9)
