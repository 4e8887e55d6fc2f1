"""What load to send: each field with its default, its bounds, its documentation and its option, once.

A `Plan` is a load with all that was left open settled; the request for a group is a load for a service. OpenAPI, the
options of the command line and the arguments of the SDK are made from the fields here.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from tokenstorm.custom import Custom, check_headers, check_key_header, placeholders_in
from tokenstorm.lengths import Source, Talk
from tokenstorm.load_parts import (
    DOCUMENTS,
    GENERATING,
    PAIRING,
    Arrival,
    Cache,
    Cancel,
    Columns,
    Kind,
    ModelShare,
    Objectives,
    Operation,
    Replay,
)
from tokenstorm.misfits import load_error
from tokenstorm.strict import Count, Misfit, NotNegative, Option, Positive, Seed, Strict, Text, doc

T = TypeVar("T")

DEFAULT_SECONDS = 60.0
"""The measured window where nothing else ends the run."""


class Load(Strict, frozen=True, kw_only=True):
    """What to send, and how its arrivals are spread. Seconds are seconds; rates are requests per second of all clients.
    None means open: it is settled when the load is carried out.
    """

    name: Annotated[Text, doc("Shown with the group and its results", Option("--name", "TEXT", "the run"))] = ""
    labels: Annotated[
        dict[Text, Text],
        Meta(max_length=64),
        doc(
            "Shown likewise",
            Option("--label", "KEY=VALUE", "the run", help="may be given again"),
            {"team": "hpc"},
        ),
    ] = {}  # noqa: RUF012 - msgspec gives each its own

    endpoint: Annotated[
        Operation, doc("Which operation of the service is called", Option("--endpoint", None, "requests"))
    ] = "chat"
    inputs: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        doc(
            f"Embeddings: texts in each request (1). Rerank, score: documents for each query ({DOCUMENTS}; 1)",
            Option("--inputs", "N", "requests"),
        ),
    ] = None
    custom: Annotated[
        Custom | None,
        doc(
            "A request of your own, with {prompt} in it, and how its answer is read; for endpoint `custom`",
            Option(
                "--custom",
                "NAME|FILE|JSON",
                "requests",
                help="a request of your own, with {prompt} in it, and how its answer is read: see docs/endpoints.md",
            ),
            {
                "path": "/api/generate",
                "body": {"model": "{model}", "prompt": "{prompt}"},
                "answer": {"text": "/response"},
            },
        ),
    ] = None
    headers: Annotated[
        dict[Text, Text],
        Meta(max_length=64),
        doc(
            "More headers of each request; never secrets: these go into `api_key`",
            Option("--header", "KEY=VALUE", "requests", help="of each request, never a secret; may be given again"),
            {"x-tenant": "hpc"},
        ),
    ] = {}  # noqa: RUF012 - msgspec gives each its own
    api_key_header: Annotated[
        Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")],
        doc(
            "Where the API key stands; as `Bearer` in Authorization, as it is in another (x-api-key, api-key)",
            Option("--api-key-header", "NAME", "requests"),
        ),
    ] = "authorization"
    model: Annotated[
        Text | None,
        doc(
            "The service's own; of an address, the first base model that is listed",
            Option("--model", "NAME", "requests"),
        ),
    ] = None
    models: Annotated[
        tuple[ModelShare, ...],
        Meta(max_length=256),
        doc(
            "Several models, such as adapters (LoRA), each with its part of the requests and its own times; instead of `model`",
            Option("--models", "NAME@WEIGHT,…", "requests"),
            [{"name": "base", "weight": 3}, {"name": "adapter-1"}],
        ),
    ] = ()
    stream: Annotated[bool, doc("Answers come token by token", Option("--stream", None, "requests"))] = True
    max_tokens: Annotated[Count, doc("Of each answer", Option("--max-tokens", "N", "requests"))] = 100
    temperature: Annotated[
        float, Meta(ge=0, le=2), doc("How varied answers are", Option("--temperature", "T", "requests"))
    ] = 0.7
    ignore_eos: Annotated[
        bool | None,
        doc(
            "Ask for exactly `max_tokens`. Where a trace or made-up prompts say how long answers are, this is done for engines that are known to take it",
            Option("--ignore-eos", None, "requests"),
        ),
    ] = None
    extra_body: Annotated[
        dict[str, Any],
        doc("More fields of each request's body; null takes one out", Option("--extra-body", "JSON", "requests")),
    ] = {}  # noqa: RUF012 - msgspec gives each its own
    prompts: object = None
    """A plan has them in one form, the request for a group in another: each declares its own."""
    columns: Columns = {}  # noqa: RUF012 - msgspec gives each its own
    trace: Replay = None
    conversation: Talk = None
    no_repeat: Annotated[
        bool,
        doc("End the run before a prompt of a list or file comes again", Option("--no-repeat", None, "requests")),
    ] = False
    cache: Cache = "keep"
    unique_prompts: Annotated[bool, doc("The same as `cache`: salt", Option("--unique", None, "requests"))] = False

    num_clients: Annotated[Count, doc("Requests in flight at most", Option("--num-clients", "N", default=10))]
    requests_per_second: Annotated[
        Positive | None,
        doc(
            "Of all clients together; without it each client sends when its last answer ended",
            Option("--requests-per-second", "R"),
        ),
    ] = None
    arrival: Annotated[Kind | Arrival, doc("How arrivals spread", Option("--arrival"))] = "constant"
    think_time_seconds: Annotated[
        NotNegative, doc("Closed loop: from an answer to the client's next request", Option("--think-time", "S"))
    ] = 0.0
    ramp_seconds: Annotated[
        NotNegative, doc("Closed loop: over how long the clients start", Option("--ramp-seconds", "S"))
    ] = 1.0
    seed: Annotated[
        Seed | None, doc("Repeats arrivals and prompts, but no salts (random, recorded)", Option("--seed", "N"))
    ] = None

    warmup_seconds: Annotated[NotNegative, doc("Sent, but not counted", Option("--warmup", "S"))] = 0.0
    duration_seconds: Annotated[
        Positive | None,
        doc(
            "Of the measured window. 60, or what the `stages` add up to, or none with `request_count`",
            Option("--duration", "S"),
        ),
    ] = None
    request_count: Annotated[
        Count | None, doc("End after so many measured requests", Option("--request-count", "N"))
    ] = None
    drain_seconds: Annotated[NotNegative, doc("How long the last answers are waited for", Option("--drain", "S"))] = (
        30.0
    )
    request_timeout_seconds: Annotated[Positive, doc("What a request may take", Option("--timeout", "S"))] = 120.0

    cancel: Annotated[
        Cancel | None,
        doc(
            "Give up a share of the requests, as people do: they are counted apart, as neither good nor bad",
            Option(
                "--cancel",
                "SHARE@WHEN",
                "requests",
                help="give up so many requests, as people do: 10%%@2s (after their send), or 10%%@20tokens",
            ),
            {"rate": 0.1, "after_seconds": 2},
        ),
    ] = None

    slo: Objectives = None

    ranks: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        doc("Processes that send (the fewest that carry the load)", Option("--ranks", "N")),
    ] = None
    engine_metrics: Annotated[
        bool,
        doc("Ask each replica for its own metrics, once a second", Option("--engine-metrics", None, "where and when")),
    ] = True
    gpu_exporters: Annotated[
        tuple[str, ...],
        Meta(max_length=64),
        doc(
            "Addresses of DCGM's exporter, or of one with its names, on the nodes of the engines: for power and energy",
            Option(
                "--gpu-exporter", "URL", "where and when", help="of DCGM's exporter, for the energy; may be given again"
            ),
            ["http://mel2103:9400/metrics"],
        ),
    ] = ()
    start: Annotated[
        Literal["auto", "manual"],
        doc(
            "`manual` waits, ready to send, for POST …/run",
            Option("--start", None, "where and when", help="manual: wait for `group run`"),
        ),
    ] = "auto"
    hold_seconds: Annotated[
        float, Meta(gt=0, le=30 * 86400), doc("How long `manual` waits", Option("--hold", "S", "where and when"))
    ] = 600.0

    def __post_init__(self) -> None:
        super().__post_init__()
        arrival = self.spread
        if (arrival.ramp or arrival.stages) and self.requests_per_second is not None:
            message = "the rates of `arrival` are given as well: leave one of the two out"
            raise Misfit(message, "requests_per_second", ["arrival"])
        if self.conversation is not None:
            self.conversation.fits(asdict(self), self.source)
        if self.closed_loop and arrival != Arrival():
            message = f"the kind `{arrival.kind}` needs `requests_per_second`"
            raise Misfit(message, "arrival", ["requests_per_second"])
        if not self.closed_loop and self.think_time_seconds:
            message = "belongs to a closed loop: arrivals at a rate do not wait for answers"
            raise Misfit(message, "think_time_seconds")
        if arrival.stages and self.duration_seconds is not None and arrival.kind != "trace":
            total = math.fsum(stage.seconds for stage in arrival.stages)
            if not math.isclose(total, self.duration_seconds):
                message = f"must be what the `stages` add up to: {total:g}"
                raise Misfit(message, "duration_seconds", ["arrival.stages"])
        if arrival.ramp and self.measured_seconds is None:
            message = "a `ramp` needs `duration_seconds`"
            raise Misfit(message, "arrival", ["arrival.ramp", "duration_seconds"])
        self._check_exporters()
        if self.ranks is not None and self.ranks > self.num_clients:
            message = f"{self.ranks} is above `num_clients` ({self.num_clients}): a rank would have no client"
            raise Misfit(message, "ranks", ["num_clients"])
        self._fits_a_trace()
        self._check_prompts()

    def _check_prompts(self) -> None:
        if self.no_repeat and self.closed_loop and self.warmup_seconds:
            message = "needs a rate, or no warm-up: in a closed loop nobody knows how many prompts a warm-up takes"
            raise Misfit(message, "no_repeat", ["warmup_seconds"])
        if self.unique_prompts and self.cache == "reset":
            message = "salted prompts find nothing in any cache: leave one of the two out"
            raise Misfit(message, "cache", ["unique_prompts"])
        if self.prompts_are_tokens and self.endpoint not in {"completions", "embeddings", "custom"}:
            message = f'must be "completions" or "embeddings" for prompts of token ids: {self.endpoint} takes text'
            raise Misfit(message, "endpoint")
        self._fits_the_endpoint()

    def _fits_the_endpoint(self) -> None:
        """What the operation has not cannot be asked for, nor be an objective: no request could meet it."""
        check_headers(self.headers)
        check_key_header(self.api_key_header, self.headers)
        names = [one.name for one in self.models]
        if self.models and self.model is not None:
            message = "give `model` or `models`, not both"
            raise Misfit(message, "models", ["model"])
        if len(set(names)) < len(names):
            message = "a model is named twice: give each one weight"
            raise Misfit(message, "models")
        if self.models and self.custom is not None and "model" in {*placeholders_in(self.custom.path)}:
            message = "the path of `custom` names one model for all requests: give `model`"
            raise Misfit(message, "models", ["custom"])
        if (self.endpoint == "custom") != (self.custom is not None):
            message = 'endpoint "custom" and a request of your own (`custom`) belong together: give both'
            raise Misfit(message, "custom", ["endpoint"])
        if self.inputs is not None and self.endpoint not in {"embeddings", *PAIRING}:
            message = f"belongs to embeddings, rerank and score: a request of {self.endpoint} has one prompt"
            raise Misfit(message, "inputs", ["endpoint"])
        if self.texts_per_request > 1 and self.trace is not None:
            message = f"a trace has one text for each request, and this load asks for {self.texts_per_request}"
            raise Misfit(message, "endpoint" if self.inputs is None else "inputs", ["trace"])
        if self.ignore_eos and not (self.generates and self.custom is None):
            why = "write it into its body" if self.custom else f"{self.endpoint} generates nothing"
            message = f"belongs to answers of known operations that are generated: {why}"
            raise Misfit(message, "ignore_eos", ["endpoint"])
        if self.cancel is not None and self.cancel.after_tokens is not None and not (self.streams and self.generates):
            message = "only a stream has tokens to count before its end: use `after_seconds`"
            raise Misfit(message, "cancel", ["endpoint", "stream"])
        if self.slo is not None and not self.streams and (timed := self.slo.of_tokens):
            why = "without a stream" if self.generates else f"of {self.endpoint}"
            message = f"no request could meet `{timed[0]}`: an answer {why} comes in one piece; use `latency_seconds`"
            raise Misfit(message, f"slo.{timed[0]}", ["endpoint", "stream"])

    @property
    def streams(self) -> bool:
        """Whether answers come token by token: asked for, and possible."""
        if self.custom is not None:
            return self.stream and self.custom.answer.form != "json"
        return self.stream and self.endpoint in GENERATING

    @property
    def generates(self) -> bool:
        """Whether answers hold tokens that were generated."""
        return self.endpoint in GENERATING or (self.custom is not None and self.custom.answer.text is not None)

    @property
    def texts_per_request(self) -> int:
        """How many of the prompts each request takes: a query and its documents, or so many inputs."""
        if self.endpoint in PAIRING:
            return 1 + (self.inputs or (DOCUMENTS if self.endpoint == "rerank" else 1))
        return self.inputs or 1

    def _check_exporters(self) -> None:
        for place, url in enumerate(self.gpu_exporters):
            if not re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w./-]*)?", url, re.ASCII):
                message = f"must be an address, as in http://mel2103:9400/metrics, not {url!r:.80}"
                raise Misfit(message, f"gpu_exporters[{place}]")

    def _fits_a_trace(self) -> None:
        """What a trace says of its own cannot be asked for as well."""
        if not self.arrival_by_trace:
            if self.spread.kind == "trace":
                message = "the kind `trace` needs a `trace` that gives the times"
                raise Misfit(message, "arrival", ["trace"])
            return
        if self.spread != Arrival() and self.spread.kind != "trace":
            message = "the trace says when requests leave: leave this out, or use `trace.lengths_only`"
            raise Misfit(message, "arrival", ["trace", "trace.lengths_only"])
        for name, also in (("requests_per_second", "trace.lengths_only"), ("request_count", "trace.limit")):
            if getattr(self, name) is not None:
                message = f"the trace says when requests leave: leave this out, or use `{also}`"
                raise Misfit(message, name, ["trace", also])

    @property
    def salted(self) -> bool:
        """Whether each prompt begins otherwise."""
        return self.unique_prompts or self.cache == "salt"

    @property
    def source(self) -> Source | None:
        """Where prompts come from; None in a load that does not say."""
        return None

    @property
    def arrival_by_trace(self) -> bool:
        """Whether requests leave when a trace says."""
        return self.trace is not None and not self.trace.lengths_only

    @property
    def spread(self) -> Arrival:
        """The arrivals, where only their kind is given too."""
        return self.arrival if isinstance(self.arrival, Arrival) else Arrival(kind=self.arrival)

    @property
    def closed_loop(self) -> bool:
        """Whether each client sends when its last answer ended, or begins a session when its last one ended, and not at a rate."""
        rate = self.conversation.sessions_per_second if self.conversation else self.requests_per_second
        return not (rate or self.spread.ramp or self.spread.stages or self.arrival_by_trace)

    @property
    def has_request_rate(self) -> bool:
        """Whether the load says how many requests come in a second: in a closed loop and in conversations the answers say that."""
        return not self.closed_loop and self.conversation is None

    @property
    def ends_by_count(self) -> bool:
        """Whether the run ends after a number of requests, or of sessions."""
        return self.request_count is not None or bool(self.conversation and self.conversation.sessions)

    @property
    def prompts_are_tokens(self) -> bool:
        """Whether prompts are lists of token ids."""
        return False

    @property
    def measured_seconds(self) -> float | None:
        """The measured window, with its default; None when only the count of requests, or a trace, ends it."""
        if self.duration_seconds is not None:
            return self.duration_seconds
        if self.spread.stages:
            return math.fsum(stage.seconds for stage in self.spread.stages)
        return None if self.ends_by_count or self.arrival_by_trace else DEFAULT_SECONDS


def make(fields: Mapping[str, object], kind: type[T]) -> T:
    """Build and check a load of some kind from plain values; a `PlanError` names the field that is wrong."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise load_error(error) from None
