"""The group's Prometheus text."""

import msgspec

from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.tally import Tally
from tokenstorm.prometheus import Labels, family, histogram

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
PHASES = ("starting", "holding", "warmup", "measured", "draining", "finished", "failed")

_HISTOGRAMS = {
    "client_latency_seconds": ("latency", "From the scheduled time to the end of the answer"),
    "client_service_time_seconds": ("service_time", "From the send to the end of the answer"),
    "client_ttft_seconds": ("ttft", "From the send to the first token"),
    "client_inter_chunk_seconds": ("inter_chunk", "Between reads that carried tokens"),
    "client_tpot_seconds": ("tpot", "Time per output token after the first"),
    "client_send_lag_seconds": ("send_lag", "How late requests left by the load generator's fault"),
    "client_wait_seconds": ("client_wait", "How long arrivals waited for a free client"),
}
_ASKED_RATE = "The asked rate; absent in a closed loop and when nothing is sent"


class Gauges(msgspec.Struct, frozen=True):
    """What is true at this moment, beside the counts."""

    phase: str
    in_flight: int
    target_rps: float | None
    loop_lag: float
    rank_up: dict[int, bool]


def render(group_id: str, tally: Tally, gauges: Gauges) -> bytes:
    """The Prometheus text of a group; the warm-up is left out."""
    group, counts = {"group_id": group_id}, tally.counts
    failed = [({**group, "kind": kind}, count) for kind, count in sorted(counts.failed_by_kind.items())]
    tokens = [({**group, "kind": "prompt"}, tally.prompt_tokens), ({**group, "kind": "output"}, tally.output_tokens)]
    asked = [] if gauges.target_rps is None else [(group, gauges.target_rps)]
    phases = [({**group, "phase": phase}, int(phase == gauges.phase)) for phase in PHASES]
    up = [({**group, "rank": rank}, int(is_up)) for rank, is_up in sorted(gauges.rank_up.items())]
    families = [
        family("client_requests_total", "counter", "Requests sent", [(group, counts.sent)]),
        family("client_requests_failed_total", "counter", "Requests that failed", failed),
        family("client_requests_unsent_total", "counter", "Arrivals that were never sent", [(group, counts.unsent)]),
        *(_seconds(name, text, group, tally.histograms[metric]) for name, (metric, text) in _HISTOGRAMS.items()),
        family("client_tokens_total", "counter", "Tokens of successful requests", tokens),
        family("client_in_flight", "gauge", "Requests in flight", [(group, gauges.in_flight)]),
        family("client_target_requests_per_second", "gauge", _ASKED_RATE, asked),
        family("client_event_loop_lag_seconds", "gauge", "The longest in the last second", [(group, gauges.loop_lag)]),
        family("client_phase", "gauge", "1 for the present phase", phases),
        family("client_rank_up", "gauge", "Whether a rank is there", up),
    ]
    return "".join(families).encode()


def with_age(text: bytes, group_id: str, seconds: float) -> bytes:
    """Add the age of the figures, in seconds: 0 if they come from the launcher itself."""
    name, help_ = "client_metrics_age_seconds", "How old these figures are: they may come from a file"
    return text + family(name, "gauge", help_, [({"group_id": group_id}, round(seconds, 1))]).encode()


def _seconds(name: str, text: str, labels: Labels, nanoseconds: Histogram) -> str:
    buckets = [(bound, nanoseconds.count_at_most(round(bound * 1e9))) for bound in BOUNDS]
    return histogram(name, text, labels, buckets, count=nanoseconds.count, total=nanoseconds.total / 1e9)
