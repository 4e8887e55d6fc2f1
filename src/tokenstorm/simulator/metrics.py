"""What the engine counts, under vLLM's metric names."""

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

from tokenstorm.prometheus import Labels, family, histogram

from .settings import FAULT_KINDS

__all__ = ["Histogram", "Metrics"]


def _bounds(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


# vLLM's own bucket bounds, seconds.
_TTFT = _bounds("0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560")
_INTER_TOKEN = _bounds("0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80")
_REQUEST = _bounds("0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680")


class Histogram:
    """Counts of observations by upper bound."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        return sum(self._counts)

    def render(self, name: str, text: str, labels: Labels) -> str:
        """Prometheus text."""
        buckets = zip(
            self._bounds, accumulate(self._counts), strict=False
        )  # the last count is of what is beyond all bounds
        return histogram(name, text, labels, buckets, count=self.count, total=self.total)


class Metrics:
    """The counters and histograms of one engine."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.late_seconds = 0.0
        self.finish_reasons: Counter[str] = Counter({"stop": 0, "length": 0, "abort": 0})
        self.faults: Counter[str] = Counter(dict.fromkeys(FAULT_KINDS, 0))
        self.ttft = Histogram(_TTFT)
        self.inter_token = Histogram(_INTER_TOKEN)
        self.e2e = Histogram(_REQUEST)
        self.queue_time = Histogram(_REQUEST)

    def finished(self, reason: str) -> None:
        self.finish_reasons[reason] += 1

    def render(self, model: str, *, running: int, waiting: int, kv_usage: float) -> str:
        """Prometheus text, each series labelled as vLLM labels it."""
        labels = {"engine": "0", "model_name": model}
        faults = [({**labels, "kind": kind}, count) for kind, count in self.faults.items()]
        ended = [({**labels, "finished_reason": reason}, count) for reason, count in self.finish_reasons.items()]
        gauges = (
            ("vllm:num_requests_running", "Requests in the running batch.", running),
            ("vllm:num_requests_waiting", "Requests waiting to run.", waiting),
            ("vllm:kv_cache_usage_perc", "KV-cache usage, 1 is all of it.", kv_usage),
        )
        counters = (
            ("vllm:num_preemptions_total", "Preempted requests.", self.preemptions),
            ("vllm:prefix_cache_queries_total", "Prompt tokens looked for in the prefix cache.", self.prefix_queries),
            ("vllm:prefix_cache_hits_total", "Prompt tokens found there.", self.prefix_hits),
            ("vllm:prompt_tokens_total", "Prompt tokens processed.", self.prompt_tokens),
            ("vllm:generation_tokens_total", "Tokens generated.", self.generation_tokens),
            ("simulator_late_seconds_total", "Time lost to a busy machine.", self.late_seconds),
        )
        families = [
            *(family(name, "gauge", text, [(labels, value)]) for name, text, value in gauges),
            *(family(name, "counter", text, [(labels, value)]) for name, text, value in counters),
            family("vllm:request_success_total", "counter", "Ended requests.", ended),
            family("simulator_faults_total", "counter", "Faults injected.", faults),
            self.ttft.render("vllm:time_to_first_token_seconds", "Time to first token.", labels),
            self.inter_token.render("vllm:inter_token_latency_seconds", "Time between two tokens.", labels),
            self.e2e.render("vllm:e2e_request_latency_seconds", "Arrival to last token.", labels),
            self.queue_time.render("vllm:request_queue_time_seconds", "Time spent waiting.", labels),
        ]
        return "".join(families)
