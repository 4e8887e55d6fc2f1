"""Requests about groups of clients."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import asdict, force_setattr

from tokenstorm.errors import UsageError
from tokenstorm.lengths import Length, Pair, SharedPrefix, Source, length_of
from tokenstorm.load import Load
from tokenstorm.loadgen.endpoint import endpoint_for
from tokenstorm.plan import Mixed, Unit
from tokenstorm.plan import Synthetic as MadeUp
from tokenstorm.series_parts import Series
from tokenstorm.strict import Count, Misfit, Option, Strict, Text, doc
from tokenstorm.timelimit import minutes_between

CLIENTS_PER_NODE = 1000
STARTUP_SECONDS = 120
"""What a job may take from its start until its ranks are ready to send."""
SIGNAL_LEAD_SECONDS = 90
"""How long before its time limit a job is told to end, so that it can drain and write its summary."""
WRITE_SECONDS = 30
"""What a run may take beyond its drain to merge and to write its summary."""
MOST_LEAD_SECONDS = 65_535
"""Slurm takes no more."""
UNKNOWN_LENGTH_MINUTES = 60
"""The time limit of a run whose length nobody can tell: a count of requests in a closed loop."""
PROMPT_BYTES = 4 * 2**20
"""Of all the prompts of a request, in UTF-8. More of them belong into a dataset."""
DATASET = "[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
"""The name of a file in a profile's folder `datasets`."""
_WHERE = "where and when"


def signal_lead(drain_seconds: float) -> int:
    """How long before its limit a job is told to end: its drain has to fit in, however late in its window it is told."""
    return min(MOST_LEAD_SECONDS, max(SIGNAL_LEAD_SECONDS, math.ceil(drain_seconds) + WRITE_SECONDS))


class Synthetic(Strict, frozen=True, kw_only=True):
    """Prompts made up from the seed: text by `input`, of so many `words`, or of so many `tokens` ids (completions only).

    `output` is how many tokens each answer may have, in place of `max_tokens`. A `mix` has both, for each of its parts.
    """

    input: Annotated[Count | Length | None, Meta(description="How long the text is", examples=[100])] = None
    words: Annotated[Count | Length | None, Meta(examples=[100])] = None
    tokens: Annotated[Count | Length | None, Meta(examples=[{"kind": "uniform", "low": 50, "high": 200}])] = None
    output: Annotated[Count | Length | None, Meta(description="Of each answer: sets its `max_tokens`")] = None
    mix: Annotated[
        Annotated[tuple[Pair, ...], Meta(min_length=1, max_length=1000)] | None,
        Meta(
            description="Prompts and answers whose lengths belong together, by their weights",
            examples=[[{"input": 500, "output": 100, "weight": 3}, {"input": 8000, "output": 20}]],
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(given is not None for given in (self.input, self.words, self.tokens, self.mix)) != 1:
            message = "give `input`, `words`, `tokens` or `mix`, one of them"
            raise Misfit(message)
        if self.mix is not None and self.output is not None:
            message = "the parts of a `mix` have an `output` of their own: leave this one out"
            raise Misfit(message, "output", ["mix"])

    @property
    def made_up(self) -> MadeUp:
        """As a plan has it."""
        if self.mix is not None:
            parts = [
                Mixed(input=length_of(one.input), output=length_of(one.output), weight=one.weight) for one in self.mix
            ]
            return MadeUp(unit="text", mix=tuple(parts))
        lengths: dict[Unit, int | Length | None] = {"text": self.input, "words": self.words, "tokens": self.tokens}
        unit, length = next((unit, length) for unit, length in lengths.items() if length is not None)
        output = None if self.output is None else length_of(self.output)
        return MadeUp(unit=unit, length=length_of(length), output=output)


class GroupRequest(Load, frozen=True, kw_only=True):
    """A group of clients that sends one load to one service.

    Name the service by `service_id` or `target_url`, and what to ask by `prompts`, `dataset`, `synthetic`, `shared_prefix` or
    `trace`.
    """

    service_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)] | int | None,
        Meta(description="The id of a service or of a replica group of the Server API", examples=["a1b2c3"]),
    ] = None
    target_url: Annotated[
        Text | None,
        Meta(
            description="An engine of your own instead, with or without `/v1`, as the cluster reaches it",
            examples=["http://127.0.0.1:8000"],
        ),
    ] = None
    num_clients: Annotated[
        int,
        Meta(ge=1, le=1_000_000),
        doc(
            f"Requests in flight at most, of the whole group: 1 to {CLIENTS_PER_NODE} for each of its `nodes`",
            Option("--num-clients", "N", default=10),
            10,
        ),
    ]
    prompts: Annotated[
        Annotated[Sequence[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)] | None,
        Meta(
            description=f"Taken in turn, in an order that the seed shuffles; {PROMPT_BYTES} bytes in all at most",
            examples=[["Write a poem about AI.", "What is deep learning?"]],
        ),
    ] = None
    dataset: Annotated[
        Annotated[str, Meta(pattern=f"^{DATASET}$")] | None,
        doc(
            "A file of the profile's folder `datasets`: a prompt a line, JSON lines, or a dataset as it is published",
            Option("--dataset", "NAME", _WHERE),
            "questions.jsonl",
        ),
    ] = None
    synthetic: Synthetic | None = None
    shared_prefix: Annotated[
        SharedPrefix | None,
        Meta(
            description="Made-up prompts of which groups begin alike",
            examples=[{"groups": 20, "prefix": 2000, "question": 100, "zipf": 1.0}],
        ),
    ] = None
    time_limit: Annotated[
        Annotated[int, Meta(ge=1, le=10**8)] | Annotated[str, Meta(max_length=32)] | None,
        doc(
            "Minutes the job may take (what it needs), or a time as Slurm has it (1:30:00): start-up, hold, warm-up, "
            "duration and drain",
            Option("--time-limit", "TIME", _WHERE),
        ),
    ] = None
    api_key: Annotated[
        Annotated[str, Meta(max_length=4096, extra_json_schema={"format": "password", "writeOnly": True})] | None,
        Meta(description="The engine's key, where it is not a service of ours; never shown again"),
    ] = None
    nodes: Annotated[int, Meta(ge=1, le=1000), doc("Nodes that send", Option("--nodes", "N", _WHERE))] = 1
    via: Annotated[
        Literal["direct", "orchestrator"],
        doc("Straight to the replicas, or through the orchestrator's routing", Option("--via", None, _WHERE)),
    ] = "direct"
    series: Annotated[
        Series | None,
        Meta(
            description="Several runs in one job: a `sweep` over fields of the load, or a `search` for the capacity under `slo`",
            examples=[{"search": {"field": "requests_per_second", "start": 4}}],
        ),
    ] = None
    colocate: Annotated[bool, doc("Clients may run on the engine's nodes", Option("--colocate", None, _WHERE))] = False
    exclusive: Annotated[bool, doc("No other job on the clients' nodes", Option("--exclusive", None, _WHERE))] = False

    def __post_init__(self) -> None:
        if isinstance(self.service_id, int):
            force_setattr(self, "service_id", str(self.service_id))
        if isinstance(self.time_limit, str):
            force_setattr(self, "time_limit", self._minutes(self.time_limit))
        self._names_service_and_prompts()
        if self.num_clients > (most := CLIENTS_PER_NODE * self.nodes):
            message = f"{self.num_clients} are more than the {most} that nodes={self.nodes} can hold"
            raise Misfit(message, "num_clients")
        if self.nodes > self.num_clients:
            message = f"{self.nodes} are more than `num_clients` ({self.num_clients})"
            raise Misfit(message, "nodes", ["num_clients"])
        if self.via == "orchestrator" and self.service_id is None:
            message = "the orchestrator routes to its own services only: give `service_id`"
            raise Misfit(message, "via")
        super().__post_init__()
        self._can_be_sent()
        needed = self.seconds_needed or self._seconds_around
        if isinstance(self.time_limit, int) and self.time_limit * 60 < needed:
            parts = f"{STARTUP_SECONDS} s to start, warm-up, duration and drain, {SIGNAL_LEAD_SECONDS} s to end"
            hold = ", hold_seconds" if self.start == "manual" else ""
            message = f"it must be at least {math.ceil(needed / 60)} minutes: {parts}{hold}"
            raise Misfit(message, "time_limit")

    def __repr__(self) -> str:
        shown = asdict(self) | ({"api_key": "***"} if self.api_key else {})
        return f"GroupRequest({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @staticmethod
    def _minutes(text: str) -> int:
        try:
            return minutes_between(text, 1, 10**8)
        except ValueError as error:
            raise Misfit(str(error), "time_limit") from None

    def _names_service_and_prompts(self) -> None:
        if (self.service_id is None) == (self.target_url is None):
            message = "name the service by `service_id` or `target_url`, one of them"
            raise Misfit(message, "service_id")
        sources = (self.prompts, self.dataset, self.synthetic, self.shared_prefix, self.trace)
        if sum(given is not None for given in sources) != 1:
            message = "give `prompts`, `dataset`, `synthetic`, `shared_prefix` or `trace`, one of them"
            raise Misfit(message, "prompts")
        if self.columns and self.dataset is None:
            message = "belongs to a `dataset`: name one"
            raise Misfit(message, "columns", ["dataset"])
        if self.trace is not None and not re.fullmatch(DATASET, self.trace.path):
            message = f"{self.trace.path!r} is no name: give that of a file in the profile's folder `datasets`"
            raise Misfit(message, "trace")
        size = sum(len(prompt.encode(errors="replace")) for prompt in self.prompts or ())
        if size > PROMPT_BYTES:
            message = f"they have {size} bytes, {PROMPT_BYTES} at most: put them into a file and name it as `dataset`"
            raise Misfit(message, "prompts", ["dataset"])
        if blank := [place for place, prompt in enumerate(self.prompts or ()) if not prompt.strip()]:
            message = f"number {blank[0]} is blank (the first one is number 0)"
            raise Misfit(message, "prompts")

    def _can_be_sent(self) -> None:
        """Whatever the load generator would refuse is refused here."""
        if self.api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", self.api_key):
            message = "it must be of printable ASCII characters, without spaces: it travels in a header"
            raise Misfit(message, "api_key")
        if self.target_url is not None:
            try:
                endpoint_for(self.target_url, self.endpoint)
            except UsageError as error:
                raise Misfit(error.message, error.field or "target_url") from None
        self._is_json("extra_body", self.extra_body)
        if self.custom is not None:
            self._is_json("custom", self.custom.body)

    @staticmethod
    def _is_json(field: str, value: object) -> None:
        """Raises `Misfit` for what a request's body cannot carry, although it came as JSON."""
        try:
            if msgspec.json.decode(msgspec.json.encode(value)) != value:
                message = "it holds a number that JSON has not: NaN or an infinity"
                raise Misfit(message, field)
        except UnicodeEncodeError as error:
            message = f"it holds characters that cannot be sent ({error.reason})"
            raise Misfit(message, field) from None
        except (OverflowError, RecursionError, TypeError):
            message = "it holds what JSON cannot carry: an integer beyond 64 bits, or too deep a nesting"
            raise Misfit(message, field) from None

    @property
    def source(self) -> Source:
        if self.trace is not None:
            return "trace"
        return "file" if self.dataset is not None else "questions" if self.prompts is not None else "made up"

    @property
    def prompts_are_tokens(self) -> bool:
        """Whether prompts are lists of token ids."""
        return self.synthetic is not None and self.synthetic.tokens is not None

    @property
    def seconds_needed(self) -> float | None:
        """What the job takes at most; None for a count of requests in a closed loop, which nobody can tell."""
        length = self.measured_seconds
        if length is None:
            if self.requests_per_second is None or self.request_count is None:
                return None
            length = self.request_count / self.requests_per_second
        if self.series is not None:
            return self._seconds_around + self.series.seconds_at_most(self.warmup_seconds, length, self.drain_seconds)
        return self._seconds_around + length

    @property
    def _seconds_around(self) -> float:
        """What the job takes beside the measured window."""
        return STARTUP_SECONDS + self._held_seconds + self.warmup_seconds + self.drain_seconds + SIGNAL_LEAD_SECONDS

    @property
    def _held_seconds(self) -> float:
        return self.hold_seconds if self.start == "manual" else 0.0

    @property
    def minutes(self) -> int:
        """The job's time limit."""
        return self.limit(UNKNOWN_LENGTH_MINUTES)

    def limit(self, unknown_minutes: int, replay_seconds: float | None = None) -> int:
        """The job's time limit in minutes; that of a run whose length nobody can tell is given, or how long its trace takes."""
        if isinstance(self.time_limit, int):  # text is made minutes of when the request is made
            return self.time_limit
        needed = self.seconds_needed if replay_seconds is None else self._seconds_around + replay_seconds
        if needed is None:
            return max(math.ceil(self._seconds_around / 60), unknown_minutes + math.ceil(self._held_seconds / 60))
        return math.ceil(needed / 60)


def shown_fields(request: GroupRequest) -> dict[str, Any]:
    """The request as plain values, to be kept and shown: without the API key."""
    fields: dict[str, Any] = msgspec.to_builtins(request)
    del fields["api_key"]
    return fields
