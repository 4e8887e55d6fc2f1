"""Counts and histograms of finished requests, which add up: over a second, a rank, a group, or a thousand ranks.

The same `Tally` is filled by the ranks while they run and by `tokenstorm report` from the result lines.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Literal, Self

import msgspec

from tokenstorm.metrics.counts import Counts, add_fields
from tokenstorm.metrics.goodput import Good
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.turns import Talks
from tokenstorm.plan import Plan
from tokenstorm.result import Result

WAIT_NS = 1_000_000
"""An arrival counts as having waited if no client was free for longer than this."""
STALL_SECONDS = 0.050
"""An event loop that stood still for longer than this has read answers too late."""

REQUEST_METRICS = (
    "latency",
    "service_time",
    "ttft",
    "ttft_content",
    "ttft_from_schedule",
    "tpot",
    "schedule_delay",
    "client_wait",
    "send_lag",
)
READ_METRICS = ("inter_chunk", "read_lag")
"""What is known of reads, and stands in no line: only the timeline has it."""
METRICS = (*REQUEST_METRICS, *READ_METRICS)
STAGE_METRICS = ("latency", "ttft", "tpot")
LENGTHS = ("prompt", "output")


class Window(msgspec.Struct, frozen=True):
    """The measured window, in nanoseconds from the common start; without an end it lasts as long as the run."""

    start: int
    end: int | None
    stages: tuple[int, ...] = ()
    """Where each stage of a staged load ends."""

    @classmethod
    def of(cls, plan: Plan, end: int | None) -> Self:
        """The window of a plan, which may end before the plan says."""
        ends = accumulate(stage.seconds for stage in plan.stages)
        return cls(plan.window_start_ns, end, tuple(plan.window_start_ns + round(seconds * 1e9) for seconds in ends))

    def stage_of(self, at: int) -> int:
        """The number of the stage in which a moment of the window lies; what comes after the last is of that."""
        return min(bisect_right(self.stages, at), len(self.stages) - 1)

    def holds(self, at: int | None) -> bool:
        """Whether an event lies inside."""
        return at is not None and self.start <= at and (self.end is None or at < self.end)

    def phase_of(self, scheduled: int) -> Literal["warmup", "measured"]:
        """The phase of a request that is meant to leave at `scheduled`."""
        return "measured" if scheduled >= self.start else "warmup"

    def overlap(self, first: int, last: int | None) -> int:
        """How much of the time from `first` to `last` lies inside, in nanoseconds; without `last`, to the end."""
        if last is None or (self.end is not None and self.end < last):
            last = self.end
        first = max(first, self.start)
        return last - first if last is not None and last > first else 0

    def share(self, first: int | None, last: int | None) -> float:
        """The part of a stream of evenly spaced events from `first` to `last` that lies inside."""
        if first is None or last is None:
            return 0.0
        if first == last:
            return float(self.holds(first))
        end = last if self.end is None else min(last, self.end)
        return max(0, end - max(first, self.start)) / (last - first)


class StageTally(msgspec.Struct):
    """What the requests of one part of a load add up to: of a stage, by their scheduled time (`done` answers ended in it), or of a model."""

    counts: Counts = msgspec.field(default_factory=Counts)
    good: int = 0
    done: int = 0
    output_tokens: int = 0
    histograms: dict[str, Histogram] = msgspec.field(
        default_factory=lambda: {name: Histogram() for name in STAGE_METRICS}
    )

    def merge(self, other: Self) -> None:
        """Add another's to this."""
        self.counts.merge(other.counts)
        self.good += other.good
        self.done += other.done
        self.output_tokens += other.output_tokens
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)


class Tally(msgspec.Struct):
    """What some finished requests add up to. Histograms and counts speak of the measured requests.

    The figures for rates count what lies inside the window, whenever it was scheduled: `done_in_window` answers,
    `output_tokens_in_window` (spread evenly from a request's first token to its last) and `prompt_tokens_in_window`
    (at the first token, or where there is none at the end). `waited` arrivals found every client of their rank busy;
    `overslept` ones were never sent although a client was free, or while the rank stood still. `warnings` are successes by
    what was odd about them,
    `failures` one failure's words for each kind, the same whichever order they came in.
    `prompt_asked` and `prompt_counted` are the tokens of prompts whose length was asked for, by us and by the server, and
    `prompt_off` is the share by which one of them was off at most.
    `last_event` is the last one that rates count: a successful answer's end, or a token. `good` requests met the plan's
    objectives. `lengths` are tokens of prompts and answers that succeeded, `busy_ns` is the sum of the times that requests were in
    flight inside the window, `service_ns` that of the service times of all answers, warm-up included.
    `talks` are the sessions and turns of conversations.
    """

    counts: Counts = msgspec.field(default_factory=Counts)
    warmup: Counts = msgspec.field(default_factory=Counts)
    replicas: dict[str, Counts] = {}
    histograms: dict[str, Histogram] = msgspec.field(default_factory=lambda: {name: Histogram() for name in METRICS})
    done_in_window: int = 0
    output_tokens_in_window: float = 0.0
    prompt_tokens_in_window: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    prompt_asked: int = 0
    prompt_counted: int = 0
    prompt_off: float = 0.0
    token_sources: dict[str, int] = {}
    chunks: int = 0
    coalesced: int = 0
    waited: int = 0
    overslept: int = 0
    warnings: dict[str, int] = {}
    failures: dict[str, str] = {}
    last_event: int = 0
    good: Good = msgspec.field(default_factory=Good)
    lengths: dict[str, Histogram] = msgspec.field(default_factory=lambda: {name: Histogram() for name in LENGTHS})
    busy_ns: int = 0
    service_ns: int = 0
    stages: dict[int, StageTally] = {}
    models: dict[str, StageTally] = {}
    talks: Talks = msgspec.field(default_factory=Talks)

    def add(self, results: Sequence[Result], window: Window) -> None:
        """Take in finished requests."""
        times = _Times()
        for result in results:
            self._add_to_rates(result, window)
            outcome = result.outcome
            if result.phase == "warmup":
                self.warmup.add(result, outcome)
                continue
            self.counts.add(result, outcome)
            self.good.count += bool(result.good)
            if (replica := self.replicas.get(result.replica)) is None:
                replica = self.replicas[result.replica] = Counts()
            replica.add(result, outcome)
            if result.sent is None or result.slot_free is None:
                if result.slot_free is None:
                    self.waited += result.count
                else:
                    self.overslept += result.count
                continue
            self.waited += times.add_send(result, result.sent, result.slot_free) > WAIT_NS
            if result.error is not None:
                kind, words = result.error.kind, result.error.detail
                self.failures[kind] = min(words, self.failures.get(kind, words))
            elif result.done is not None:
                times.add_answer(result, result.sent, result.done)
                self._add_tokens(result)
        times.record(self.histograms)
        answers = [result for result in results if result.error is None and result.phase == "measured"]
        self.lengths["prompt"].record_many([tokens for result in answers if (tokens := result.prompt_tokens)])
        self.lengths["output"].record_many([tokens for result in answers if (tokens := result.output_tokens)])
        if window.stages:
            self._add_to_stages(results, window)
        self._add_to_models(results, window)
        self.talks.add(results)

    def merge(self, other: Self) -> None:
        """Add another tally to this one; any order gives the same."""
        self.counts.merge(other.counts)
        self.warmup.merge(other.warmup)
        for replica, counts in other.replicas.items():
            self.replicas.setdefault(replica, Counts()).merge(counts)
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        add_fields(self, other, _SUMS)
        self.token_sources = dict(Counter(self.token_sources) + Counter(other.token_sources))
        self.warnings = dict(Counter(self.warnings) + Counter(other.warnings))
        for kind, words in other.failures.items():
            self.failures[kind] = min(words, self.failures.get(kind, words))
        self.last_event = max(self.last_event, other.last_event)
        add_fields(self.good, other.good, Good.__struct_fields__)
        self.prompt_off = max(self.prompt_off, other.prompt_off)
        for name, histogram in other.lengths.items():
            self.lengths[name].merge(histogram)
        for number, stage in other.stages.items():
            self.stages.setdefault(number, StageTally()).merge(stage)
        for name, part in other.models.items():
            self.models.setdefault(name, StageTally()).merge(part)
        self.talks.merge(other.talks)

    @property
    def arrived(self) -> int:
        """How many were scheduled of what arrives by itself: measured requests, or sessions where there are conversations."""
        sessions = self.talks.sessions
        return sessions.started + sessions.unsent if self.talks.turns else self.counts.scheduled

    def _add_to_stages(self, results: Sequence[Result], window: Window) -> None:
        """Each request to the stage in which it was scheduled, each answer to the one in which it ended."""
        times: dict[int, _Times] = {}
        for result in results:
            if result.done is not None and result.error is None and window.holds(result.done):
                self._stage(window.stage_of(result.done)).done += 1
            if result.phase == "warmup":
                continue
            number = window.stage_of(result.scheduled)
            stage = self._stage(number)
            stage.counts.add(result, result.outcome)
            stage.good += bool(result.good)
            if result.sent is not None and result.done is not None and result.error is None:
                times.setdefault(number, _Times()).add_answer(result, result.sent, result.done)
        for number, found in times.items():
            found.record(self.stages[number].histograms)

    def _add_to_models(self, results: Sequence[Result], window: Window) -> None:
        """Each request to the model that it asked for, where there are several; those that were never sent asked for none."""
        times: dict[str, _Times] = {}
        for result in results:
            if result.model is None:
                continue
            if (part := self.models.get(result.model)) is None:
                part = self.models[result.model] = StageTally()
            succeeded = result.done is not None and result.error is None
            part.done += succeeded and window.holds(result.done)
            if result.phase == "warmup":
                continue
            part.counts.add(result, result.outcome)
            part.good += bool(result.good)
            if succeeded and result.sent is not None and result.done is not None:
                part.output_tokens += result.output_tokens or 0
                times.setdefault(result.model, _Times()).add_answer(result, result.sent, result.done)
        for name, found in times.items():
            found.record(self.models[name].histograms)

    def _stage(self, number: int) -> StageTally:
        if (stage := self.stages.get(number)) is None:
            stage = self.stages[number] = StageTally()
        return stage

    def _add_to_rates(self, result: Result, window: Window) -> None:
        if result.sent is not None:
            self.busy_ns += window.overlap(result.sent, result.done)
        if result.done is None:
            return
        succeeded = result.error is None
        self.last_event = max(self.last_event, result.done if succeeded else result.last_token or 0)
        self.service_ns += result.done - result.sent if succeeded and result.sent is not None else 0
        self.done_in_window += succeeded and window.holds(result.done)
        tokens = 0.0
        if result.output_tokens:
            first = result.first_token or result.done
            tokens = result.output_tokens * window.share(first, result.last_token or result.done)
            self.output_tokens_in_window += tokens
        if result.good:
            self.good.done_in_window += window.holds(result.done)
            self.good.output_tokens_in_window += tokens
        if result.prompt_tokens and window.holds(result.first_token or result.done):
            self.prompt_tokens_in_window += result.prompt_tokens

    def _add_tokens(self, result: Result) -> None:
        self.prompt_tokens += result.prompt_tokens or 0
        self.output_tokens += result.output_tokens or 0
        if result.prompt_asked and result.prompt_tokens is not None:
            self.prompt_asked += result.prompt_asked
            self.prompt_counted += result.prompt_tokens
            self.prompt_off = max(self.prompt_off, abs(result.prompt_tokens / result.prompt_asked - 1))
        if source := result.token_source:
            self.token_sources[source] = self.token_sources.get(source, 0) + 1
        self.chunks += result.chunks
        self.coalesced += result.coalesced
        for warning in result.warnings or ():
            self.warnings[warning] = self.warnings.get(warning, 0) + 1


class _Times:
    """The durations of a batch of requests, by metric, to be recorded together."""

    def __init__(self) -> None:
        self.by_metric: dict[str, list[int]] = {name: [] for name in REQUEST_METRICS}

    def record(self, histograms: Mapping[str, Histogram]) -> None:
        """Put them into the histograms that there are."""
        for name, histogram in histograms.items():
            histogram.record_many(self.by_metric.get(name, []))

    def add_send(self, result: Result, sent: int, slot_free: int) -> int:
        """How the send went; returns how long the arrival waited for a client."""
        wait = slot_free - result.scheduled
        self.by_metric["schedule_delay"].append(sent - result.scheduled)
        self.by_metric["client_wait"].append(wait)
        self.by_metric["send_lag"].append(sent - slot_free)
        return wait

    def add_answer(self, result: Result, sent: int, done: int) -> None:
        """How a successful answer came."""
        metrics = self.by_metric
        metrics["latency"].append(done - result.scheduled)
        metrics["service_time"].append(done - sent)
        first = result.first_token
        if first is None:
            return
        metrics["ttft"].append(first - sent)
        metrics["ttft_from_schedule"].append(first - result.scheduled)
        if result.first_content is not None:
            metrics["ttft_content"].append(result.first_content - sent)
        if (tpot := result.tpot) is not None:
            metrics["tpot"].append(tpot)


_SUMS = (
    "done_in_window",
    "output_tokens_in_window",
    "prompt_tokens_in_window",
    "prompt_tokens",
    "output_tokens",
    "prompt_asked",
    "prompt_counted",
    "chunks",
    "coalesced",
    "waited",
    "overslept",
    "busy_ns",
    "service_ns",
)
