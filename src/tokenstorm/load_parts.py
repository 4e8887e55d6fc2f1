"""The parts of a load that have fields of their own: how arrivals spread, what makes a request good, which trace is replayed."""

from typing import Annotated, Literal

from msgspec import Meta

from tokenstorm.strict import Count, Misfit, NotNegative, Option, Positive, Strict, Text, doc


class Ramp(Strict, frozen=True, kw_only=True):
    """A rate that changes linearly over the measured window, in requests per second."""

    from_rps: NotNegative
    to_rps: NotNegative

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_rps + self.to_rps <= 0:
            message = "`from_rps` and `to_rps` cannot both be 0: nothing would be sent"
            raise Misfit(message)


class Stage(Strict, frozen=True, kw_only=True):
    """A rate held for some seconds; 0 is a pause."""

    rps: NotNegative
    seconds: Positive


Operation = Literal["chat", "completions", "responses", "messages", "embeddings", "rerank", "score", "custom"]
"""What can be asked of a service."""
GENERATING: frozenset[Operation] = frozenset(("chat", "completions", "responses", "messages"))
"""Operations whose answers are generated, token by token, and may be streamed."""
OF_CHAT: frozenset[Operation] = frozenset(("chat", "completions"))
"""Operations that answer with choices."""
WITH_MESSAGES: frozenset[Operation] = frozenset(("chat", "responses", "messages"))
"""Operations that take the messages of a conversation."""
PAIRING: frozenset[Operation] = frozenset(("rerank", "score"))
"""Operations that hold texts against a query."""
DOCUMENTS = 10
"""How many documents a rerank has beside its query where nobody says."""

Kind = Literal["constant", "poisson", "gamma"]
Column = Literal["prompt", "output_tokens", "system"]
"""A part of a prompt that a column of a table may have."""
Columns = Annotated[
    dict[Column, Text],
    doc(
        "Of a dataset: which of its columns have the `prompt`, the `output_tokens` and what a `system` says",
        Option(
            "--column",
            "PART=NAME",
            "requests",
            help="which column of a dataset has the prompt, its output_tokens, or what a system says: prompt=question; may be given again",
        ),
        {"prompt": "question"},
    ),
]
Cache = Annotated[
    Literal["keep", "salt", "reset"],
    doc(
        "What the engine's prefix cache may know: `keep` leaves that to it, `salt` begins each prompt otherwise, "
        "`reset` has it emptied before the start (vLLM, SGLang)",
        Option("--cache", None, "requests"),
    ),
]
TraceFormat = Literal["mooncake", "bailian", "azure", "burstgpt", "vllm"]


class Arrival(Strict, frozen=True, kw_only=True):
    """How arrivals are spread around the rate; `ramp` or `stages` take the place of `requests_per_second`."""

    kind: Kind | Literal["trace"] = "constant"
    burstiness: Annotated[
        float,
        Meta(ge=0.01, le=1e6),
        doc("Of gamma arrivals: 1 is Poisson, less is burstier", Option("--burstiness", "K")),
    ] = 1.0
    ramp: Annotated[
        Ramp | None, doc(None, Option("--ramp", "FROM:TO", help="a rate that changes linearly, as in 1:50"))
    ] = None
    stages: Annotated[
        Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=1000)] | None,
        doc(None, Option("--stages", "RATExS,…", help="rates and their seconds, as in 5x30,20x30")),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ramp and self.stages:
            message = "give `ramp` or `stages`, not both"
            raise Misfit(message, also=["ramp", "stages"])
        if self.stages and not any(stage.rps for stage in self.stages):
            message = "`stages` need one `rps` above 0: nothing would be sent"
            raise Misfit(message, also=["stages"])
        if self.kind != "gamma" and self.burstiness != 1:
            message = f"`burstiness` belongs to kind `gamma`, not `{self.kind}`"
            raise Misfit(message, also=["burstiness"])


class Slo(Strict, frozen=True, kw_only=True):
    """Objectives of one request: times that are not to be exceeded, in seconds. A request is good if it succeeded and met all.

    A request that has no such time did not meet its objective: there is no `tpot` where an answer has one token only.
    """

    ttft_seconds: Annotated[Positive | None, doc("From the send to the first token")] = None
    tpot_seconds: Annotated[Positive | None, doc("Per output token after the first")] = None
    latency_seconds: Annotated[Positive | None, doc("From the scheduled time to the end of the answer")] = None
    inter_chunk_p99_seconds: Annotated[
        Positive | None, doc("The 99th percentile of the request's own times between reads with tokens")
    ] = None
    share: Annotated[
        float,
        Meta(gt=0, le=1),
        doc("How many of all scheduled requests are to be good, for the exit code and the report"),
    ] = 0.99

    @property
    def bounds(self) -> dict[str, float | None]:
        """The objectives alone, by name."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name != "share"}

    @property
    def of_tokens(self) -> list[str]:
        """The objectives that only an answer which is streamed can meet."""
        return [name for name, bound in self.bounds.items() if bound is not None and name != "latency_seconds"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if all(value is None for value in self.bounds.values()):
            message = f"an objective is needed: {', '.join(f'`{name}`' for name in self.bounds)}"
            raise Misfit(message)


class ModelShare(Strict, frozen=True, kw_only=True):
    """One of several models that are asked for, such as an adapter (LoRA), and its part of the requests."""

    name: Annotated[Text, Meta(min_length=1)]
    weight: Positive = 1.0


class Cancel(Strict, frozen=True, kw_only=True):
    """Requests that are given up before their answer is whole, as people do; which ones follows from the seed and their number."""

    rate: Annotated[float, Meta(gt=0, le=1), doc("The share of requests that would be given up")]
    after_seconds: Annotated[Positive | None, doc("So long after it was sent, if it goes on")] = None
    after_tokens: Annotated[Count | None, doc("At so many pieces with text, if there are as many")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.after_seconds is None) == (self.after_tokens is None):
            message = "give `after_seconds` or `after_tokens`, one of them"
            raise Misfit(message, also=["after_seconds", "after_tokens"])

    @property
    def when(self) -> str:
        """As it is typed."""
        return f"{self.after_tokens}tokens" if self.after_seconds is None else f"{self.after_seconds:.10g}s"


class Trace(Strict, frozen=True, kw_only=True):
    """A recorded log of requests that is replayed: when they came, how long they and their answers were, what they shared."""

    path: Annotated[str, Meta(min_length=1, max_length=4096, description="The file; of a group, one of its `datasets`")]
    format: Annotated[
        TraceFormat | None,
        doc("What the trace is, where its content leaves a doubt", Option("--trace-format")),
    ] = None
    speed: Annotated[
        float, Meta(ge=0.001, le=1e6), doc("How many times as fast as it was recorded", Option("--trace-speed", "X"))
    ] = 1.0
    from_seconds: Annotated[NotNegative, doc("Begin so long after the trace begins", Option("--trace-from", "S"))] = 0.0
    until_seconds: Annotated[
        Positive | None, doc("End so long after the trace begins", Option("--trace-until", "S"))
    ] = None
    limit: Annotated[Count | None, doc("Replay so many rows at most", Option("--trace-limit", "N"))] = None
    lengths_only: Annotated[
        bool, doc("Take the lengths and what is shared; the times are those of `arrival`", Option("--trace-lengths"))
    ] = False
    skip_bad_rows: Annotated[
        bool, doc("Leave out rows that contradict the format, and count them", Option("--skip-bad-rows"))
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.until_seconds is not None and self.until_seconds <= self.from_seconds:
            message = f"{self.until_seconds:g} is not after `from_seconds` ({self.from_seconds:g})"
            raise Misfit(message, "until_seconds", ["from_seconds"])


Replay = Annotated[
    Trace | None,
    doc(
        "Replay a recorded trace of requests",
        Option("--trace", "FILE", help="replay a recorded trace: Mooncake, Bailian, Azure, BurstGPT or vLLM's"),
        {"path": "conversation_trace.jsonl", "speed": 2},
    ),
]

Objectives = Annotated[
    Slo | None,
    doc(
        "Objectives of each request; those that meet all of them are its goodput",
        Option("--slo", "NAME=TIME,…", help="what makes a request good: ttft=500ms,tpot=50ms,latency=5s,share=99%%"),
        {"ttft_seconds": 0.5, "tpot_seconds": 0.05},
    ),
]
"""The fields of a load that replay a trace, and that say what makes a request good."""
