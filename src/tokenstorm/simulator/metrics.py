"""What the engine counts, under vLLM's metric names."""

from bisect import bisect_left
from collections import Counter

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

    def lines(self, name: str, labels: str) -> list[str]:
        out = []
        running = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            running += count
            out.append(f'{name}_bucket{{{labels},le="{bound}"}} {running}')
        return [*out, f"{name}_sum{{{labels}}} {self.total}", f"{name}_count{{{labels}}} {running}"]


class Metrics:
    """The counters and histograms of one engine."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.preemptions = 0
        self.late_seconds = 0.0
        self.finish_reasons: Counter[str] = Counter({"stop": 0, "length": 0, "abort": 0})
        self.faults: Counter[str] = Counter()
        self.ttft = Histogram(_TTFT)
        self.inter_token = Histogram(_INTER_TOKEN)
        self.e2e = Histogram(_REQUEST)
        self.queue_time = Histogram(_REQUEST)

    def finished(self, reason: str) -> None:
        self.finish_reasons[reason] += 1

    def render(self, model: str, *, running: int, waiting: int, kv_usage: float) -> str:
        """Prometheus text, each series labelled as vLLM labels it."""
        name = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        labels = f'engine="0",model_name="{name}"'
        lines: list[str] = []

        def family(metric: str, kind: str, text: str, samples: list[str]) -> None:
            lines.extend((f"# HELP {metric} {text}", f"# TYPE {metric} {kind}", *samples))

        def single(metric: str, kind: str, text: str, value: float) -> None:
            family(metric, kind, text, [f"{metric}{{{labels}}} {value}"])

        single("vllm:num_requests_running", "gauge", "Requests in the running batch.", running)
        single("vllm:num_requests_waiting", "gauge", "Requests waiting to run.", waiting)
        single("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage, 1 is all of it.", kv_usage)
        for metric, text, value in (
            ("vllm:num_preemptions_total", "Preempted requests.", self.preemptions),
            ("vllm:prompt_tokens_total", "Prompt tokens processed.", self.prompt_tokens),
            ("vllm:generation_tokens_total", "Tokens generated.", self.generation_tokens),
            ("simulator:late_seconds_total", "Time lost to a busy machine.", self.late_seconds),
        ):
            single(metric, "counter", text, value)
        for metric, text, label, counts in (
            (
                "vllm:request_success_total",
                "Ended requests.",
                "finished_reason",
                self.finish_reasons,
            ),
            ("simulator:faults_total", "Faults injected.", "kind", self.faults),
        ):
            samples = [f'{metric}{{{labels},{label}="{key}"}} {n}' for key, n in counts.items()]
            family(metric, "counter", text, samples)
        for metric, text, histogram in (
            ("vllm:time_to_first_token_seconds", "Time to first token.", self.ttft),
            ("vllm:inter_token_latency_seconds", "Time between two tokens.", self.inter_token),
            ("vllm:e2e_request_latency_seconds", "Arrival to last token.", self.e2e),
            ("vllm:request_queue_time_seconds", "Time spent waiting.", self.queue_time),
        ):
            family(metric, "histogram", text, histogram.lines(metric, labels))
        return "\n".join(lines) + "\n"
