"""The group's Prometheus text."""

from collections.abc import Sequence

import msgspec

from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.tally import Tally

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


class Gauges(msgspec.Struct, frozen=True):
    """What is true at this moment."""

    phase: str
    in_flight: int
    target_rps: float | None
    loop_lag: float
    rank_up: dict[int, bool]


def render(group_id: str, tally: Tally, gauges: Gauges) -> bytes:
    """Prometheus text format 0.0.4 of a group; the warm-up is left out."""
    label = f'group_id="{_escape(group_id)}"'
    counts = tally.counts
    lines: list[str] = []

    def family(name: str, kind: str, text: str, samples: Sequence[tuple[str, float]]) -> None:
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}"))
        lines.extend(f"{name}{{{label}{more}}} {value}" for more, value in samples)

    family("client_requests_total", "counter", "Requests sent", [("", counts.sent)])
    failed = [(f',kind="{_escape(kind)}"', count) for kind, count in sorted(counts.failed_by_kind.items())]
    family("client_requests_failed_total", "counter", "Requests that failed", failed)
    family("client_requests_unsent_total", "counter", "Arrivals that were never sent", [("", counts.unsent)])
    for name, (metric, text) in _HISTOGRAMS.items():
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} histogram"))
        lines.extend(_buckets(name, label, tally.histograms[metric]))
    tokens = [(',kind="prompt"', tally.prompt_tokens), (',kind="output"', tally.output_tokens)]
    family("client_tokens_total", "counter", "Tokens of successful requests", tokens)
    family("client_in_flight", "gauge", "Requests in flight", [("", gauges.in_flight)])
    rate = "client_target_requests_per_second"
    family(
        rate,
        "gauge",
        "The asked rate; absent in a closed loop and when nothing is sent",
        [("", gauges.target_rps)] if gauges.target_rps is not None else [],
    )
    family("client_event_loop_lag_seconds", "gauge", "The longest in the last second", [("", gauges.loop_lag)])
    phases = [(f',phase="{phase}"', int(phase == gauges.phase)) for phase in PHASES]
    family("client_phase", "gauge", "1 for the present phase", phases)
    up = [(f',rank="{rank}"', int(is_up)) for rank, is_up in sorted(gauges.rank_up.items())]
    family("client_rank_up", "gauge", "Whether a rank is there", up)
    return "\n".join([*lines, ""]).encode()


def with_age(text: bytes, group_id: str, seconds: float) -> bytes:
    """The same with the age of its figures, in seconds: 0 where they come from the launcher itself."""
    name, help_ = "client_metrics_age_seconds", "How old these figures are: they may come from a file"
    sample = f'{name}{{group_id="{_escape(group_id)}"}} {seconds:.1f}'
    return text + f"# HELP {name} {help_}\n# TYPE {name} gauge\n{sample}\n".encode()


def _buckets(name: str, label: str, histogram: Histogram) -> list[str]:
    lines = [f'{name}_bucket{{{label},le="{bound}"}} {histogram.count_at_most(round(bound * 1e9))}' for bound in BOUNDS]
    lines.append(f'{name}_bucket{{{label},le="+Inf"}} {histogram.count}')
    lines.append(f"{name}_sum{{{label}}} {histogram.total / 1e9}")
    lines.append(f"{name}_count{{{label}}} {histogram.count}")
    return lines


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
