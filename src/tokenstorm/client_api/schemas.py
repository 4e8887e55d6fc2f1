"""What the Client API takes: the request for a group, with what each field means. Answers are in `answers`."""

import math
import re
from datetime import datetime
from typing import Annotated, Any, Literal, NoReturn, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from tokenstorm.errors import UsageError
from tokenstorm.loadgen.endpoint import Endpoint, endpoints_of
from tokenstorm.plan import Plan, encode_plan, make_plan

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


def signal_lead(drain_seconds: float) -> int:
    """How long before its limit a job is told to end: its drain has to fit in, however late in its window it is told."""
    return min(MOST_LEAD_SECONDS, max(SIGNAL_LEAD_SECONDS, math.ceil(drain_seconds) + WRITE_SECONDS))


Text = Annotated[str, Field(max_length=512)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=2**31)]


class Strict(BaseModel):
    """Takes what is written and nothing else: no unknown fields, no text for numbers, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Length(Strict):
    """How long a prompt is: `n`, or `low` to `high` (uniform), or `mean` and `stddev` (normal)."""

    kind: Literal["fixed", "uniform", "normal"] = "fixed"
    n: Count | None = None
    low: Count | None = None
    high: Count | None = None
    mean: Positive | None = None
    stddev: NotNegative | None = None


class Synthetic(Strict):
    """Prompts made up from the seed: of so many words, or of so many token ids (endpoint `completions` only)."""

    words: Count | Length | None = Field(None, examples=[100])
    tokens: Count | Length | None = Field(None, examples=[{"kind": "uniform", "low": 50, "high": 200}])

    def plan_fields(self) -> dict[str, object]:
        """As a plan has it."""
        length = self.tokens if self.words is None else self.words
        written = {"n": length} if isinstance(length, int) else length.model_dump() if length else {}
        return {"kind": "synthetic", "unit": "tokens" if self.words is None else "words", "length": written}


class Ramp(Strict):
    """A rate that changes linearly over the measured window, in requests per second."""

    from_rps: NotNegative
    to_rps: NotNegative


class Stage(Strict):
    """A rate held for some seconds; 0 is a pause."""

    rps: NotNegative
    seconds: Positive


class Arrival(Strict):
    """How arrivals are spread around the rate; `ramp` or `stages` take the place of `requests_per_second`."""

    kind: Literal["constant", "poisson", "gamma"] = "constant"
    burstiness: float = Field(1.0, ge=0.01, le=1e6, description="Of gamma arrivals: 1 is Poisson, less is burstier")
    ramp: Ramp | None = None
    stages: list[Stage] | None = Field(None, min_length=1, max_length=1000)


EXAMPLE: dict[str, Any] = {
    "service_id": "a1b2c3",
    "num_clients": 10,
    "requests_per_second": 2.0,
    "duration_seconds": 60,
    "prompts": ["Write a poem about AI.", "Explain machine learning.", "What is deep learning?"],
    "max_tokens": 100,
    "time_limit": 10,
}


class GroupRequest(Strict):
    """A group of clients that sends one load to one service.

    Name the service by `service_id` or `target_url`, and what to ask by `prompts`, `dataset` or `synthetic`.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    service_id: Annotated[str, Field(min_length=1, max_length=200)] | int | None = Field(
        None, description="The id of a service or of a replica group of the Server API", examples=["a1b2c3"]
    )
    target_url: Text | None = Field(
        None,
        description="An engine of your own instead, with or without `/v1`, as the cluster reaches it",
        examples=["http://127.0.0.1:8000"],
    )
    num_clients: int = Field(
        ge=1,
        le=1_000_000,
        description=f"Requests in flight at most, of the whole group: 1 to {CLIENTS_PER_NODE} for each of its `nodes`",
        examples=[10],
    )
    requests_per_second: Positive | None = Field(
        None, description="Of all clients together; without it each client sends when its last answer ended"
    )
    duration_seconds: Positive | None = Field(
        None, description="Of the measured window. 60, or what the `stages` add up to, or none with `request_count`"
    )
    request_count: Count | None = Field(None, description="End after so many measured requests")
    prompts: list[Annotated[str, Field(min_length=1)]] | None = Field(
        None,
        min_length=1,
        description=f"Taken in turn, in an order that the seed shuffles; {PROMPT_BYTES} bytes in all at most",
        examples=[["Write a poem about AI.", "What is deep learning?"]],
    )
    dataset: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$",
        description="A file of the profile's folder `datasets`: a prompt a line, or JSON lines with prompt or messages",
        examples=["questions.jsonl"],
    )
    synthetic: Synthetic | None = None
    unique_prompts: bool = Field(default=False, description="Salt each request's prompt, so that no prefix cache helps")
    max_tokens: Count = 100
    temperature: float = Field(0.7, ge=0, le=2)
    time_limit: int | None = Field(
        None,
        ge=1,
        le=10**8,
        description="Minutes the job may take (what it needs): start-up, hold, warm-up, duration and drain",
    )
    arrival: Literal["constant", "poisson", "gamma"] | Arrival = Field("constant", description="How arrivals spread")
    think_time_seconds: NotNegative = Field(0.0, description="Closed loop: from an answer to the client's next request")
    ramp_seconds: NotNegative = Field(1.0, description="Closed loop: over how long the clients start")
    seed: int | None = Field(
        None, ge=0, le=2**63 - 1, description="Repeats arrivals and prompts, but no salts (random, recorded)"
    )
    warmup_seconds: NotNegative = Field(0.0, description="Sent, but not counted")
    drain_seconds: NotNegative = Field(30.0, description="How long the last answers are waited for")
    request_timeout_seconds: Positive = 120.0
    stream: bool = True
    endpoint: Literal["chat", "completions"] = "chat"
    model: Text | None = Field(None, description="The first one that the service names")
    ignore_eos: bool = Field(default=False, description="Ask for exactly `max_tokens`")
    extra_body: dict[str, Any] = Field({}, description="More fields of each request's body; null takes one out")
    api_key: Annotated[SecretStr, Field(max_length=4096)] | None = Field(
        None, description="The engine's key, where it is not a service of ours; never shown again"
    )
    nodes: int = Field(1, ge=1, le=1000, description="Nodes that send")
    ranks: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None, description="Processes that send (the fewest that carry the load)"
    )
    start: Literal["auto", "manual"] = Field("auto", description="`manual` waits, ready to send, for POST …/run")
    hold_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] = Field(600.0, description="How long `manual` waits")
    via: Literal["direct", "orchestrator"] = Field(
        "direct", description="Straight to the replicas, or through the orchestrator's routing"
    )
    colocate: bool = Field(default=False, description="Clients may run on the engine's nodes")
    exclusive: bool = Field(default=False, description="No other job on the clients' nodes")
    name: Text = ""
    labels: dict[Text, Text] = Field({}, max_length=64, examples=[{"team": "hpc"}])

    @field_validator("service_id")
    @classmethod
    def _as_text(cls, service_id: str | int | None) -> str | int | None:
        return None if service_id is None else str(service_id)

    @field_validator("prompts")
    @classmethod
    def _can_be_asked(cls, prompts: list[str] | None) -> list[str] | None:
        size = sum(len(prompt.encode()) for prompt in prompts or ())
        if size > PROMPT_BYTES:
            message = f"they have {size} bytes, {PROMPT_BYTES} at most: put them into a file and name it as `dataset`"
            raise ValueError(message)
        if blank := [place for place, prompt in enumerate(prompts or ()) if not prompt.strip()]:
            message = f"number {blank[0]} is blank (the first one is number 0)"
            raise ValueError(message)
        return prompts

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key.get_secret_value()):
            message = "it must be of printable ASCII characters, without spaces: it travels in a header"
            raise ValueError(message)
        return key

    @field_validator("target_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                Endpoint.parse(url)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return url

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.service_id is None) == (self.target_url is None):
            _refuse("service_id", "name the service by `service_id` or `target_url`, one of them")
        if sum(given is not None for given in (self.prompts, self.dataset, self.synthetic)) != 1:
            _refuse("prompts", "give `prompts`, `dataset` or `synthetic`, one of them")
        if self.synthetic and (self.synthetic.words is None) == (self.synthetic.tokens is None):
            _refuse("synthetic", "give `words` or `tokens`, one of them")
        if self.num_clients > CLIENTS_PER_NODE * self.nodes:
            most = CLIENTS_PER_NODE * self.nodes
            _refuse("num_clients", f"{self.num_clients} are more than the {most} that nodes={self.nodes} can hold")
        if self.nodes > self.num_clients:
            _refuse("nodes", f"{self.nodes} are more than `num_clients` ({self.num_clients})")
        if self.via == "orchestrator" and self.service_id is None:
            _refuse("via", "the orchestrator routes to its own services only: give `service_id`")
        self._makes_a_plan()
        needed = self.seconds_needed or self._seconds_around
        if self.time_limit is not None and self.time_limit * 60 < needed:
            parts = f"{STARTUP_SECONDS} s to start, warm-up, duration and drain, {SIGNAL_LEAD_SECONDS} s to end"
            hold = ", hold_seconds" if self.start == "manual" else ""
            _refuse("time_limit", f"it must be at least {math.ceil(needed / 60)} minutes: {parts}{hold}")
        return self

    def _makes_a_plan(self) -> None:
        """Whatever the load generator would refuse is refused here, by the same code."""
        shown = {"kind": "list", "prompts": ["-"]}
        fields = {
            "prompts": shown,
            **self.plan_fields(),
            "targets": [{"replica": "0", "url": self.target_url or "http://127.0.0.1"}],
        }
        if self.prompts:
            fields["prompts"] = shown
        try:
            plan = make_plan({**fields, "run_id": "0" * 32, "ranks": self.ranks or 1, "seed": self.seed or 0})
            endpoints_of(plan)
            if msgspec.json.decode(encode_plan(plan), type=Plan) != plan:
                _refuse("extra_body", "it holds a number that JSON has not: NaN or an infinity")
        except UsageError as error:
            field = (error.field or "").partition(".")[0].partition("[")[0]
            _refuse(field if field in type(self).model_fields else "arrival", error.message)
        except UnicodeEncodeError as error:
            _refuse("extra_body", f"it holds characters that cannot be sent ({error.reason})")
        except (OverflowError, RecursionError, TypeError):
            _refuse("extra_body", "it holds what JSON cannot carry: an integer beyond 64 bits, or too deep a nesting")

    @property
    def measured_seconds(self) -> float | None:
        """The measured window, with its default; None when only the count of requests ends it."""
        if self.duration_seconds is not None:
            return self.duration_seconds
        if isinstance(self.arrival, Arrival) and self.arrival.stages:
            return math.fsum(stage.seconds for stage in self.arrival.stages)
        return None if self.request_count is not None else 60.0

    @property
    def seconds_needed(self) -> float | None:
        """What the job takes at most; None for a count of requests in a closed loop, which nobody can tell."""
        length = self.measured_seconds
        if length is None:
            if self.requests_per_second is None or self.request_count is None:
                return None
            length = self.request_count / self.requests_per_second
        return self._seconds_around + length

    @property
    def _seconds_around(self) -> float:
        """What the job takes beside the measured window."""
        hold = self.hold_seconds if self.start == "manual" else 0.0
        return STARTUP_SECONDS + hold + self.warmup_seconds + self.drain_seconds + SIGNAL_LEAD_SECONDS

    @property
    def minutes(self) -> int:
        """The job's time limit."""
        return self.limit(UNKNOWN_LENGTH_MINUTES)

    def limit(self, unknown_minutes: int) -> int:
        """The job's time limit in minutes; that of a run whose length nobody can tell is given."""
        if self.time_limit is not None:
            return self.time_limit
        needed = self.seconds_needed
        if needed is None:
            hold = self.hold_seconds if self.start == "manual" else 0.0
            return unknown_minutes + math.ceil(hold / 60)
        return math.ceil(needed / 60)

    def plan_fields(self) -> dict[str, object]:
        """What a plan has from the request: all but ids, targets, ranks, and the prompts of a dataset."""
        same = (
            "num_clients requests_per_second request_count unique_prompts max_tokens temperature think_time_seconds "
            "ramp_seconds warmup_seconds drain_seconds request_timeout_seconds stream endpoint model ignore_eos "
            "extra_body start hold_seconds name labels"
        )
        fields: dict[str, object] = {field: getattr(self, field) for field in same.split()}
        fields["duration_seconds"] = self.measured_seconds
        fields["arrival"] = {"kind": self.arrival} if isinstance(self.arrival, str) else self.arrival.model_dump()
        if self.prompts is not None:
            fields["prompts"] = {"kind": "list", "prompts": self.prompts}
        elif self.synthetic is not None:
            fields["prompts"] = self.synthetic.plan_fields()
        return fields


class RunRequest(Strict):
    """When to release groups: all at one moment."""

    start_at: Annotated[datetime, Field(strict=False)] | None = Field(
        None,
        description="The common start, UTC (5 seconds from now)",
        examples=["2026-01-01T12:00:00Z"],
    )


class RunGroupsRequest(RunRequest):
    """Which groups to release, and when."""

    group_ids: list[Annotated[int, Field(ge=1, le=2**62)]] = Field(min_length=1, max_length=1000, examples=[[1, 2]])


_PORT = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"


class ObserverRequest(Strict):
    """Who wants to know."""

    url: str = Field(
        max_length=2048,
        pattern=r"^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(:"
        + _PORT
        + r")?([/?][!-~]*)?$",
        description="Gets a POST with the group's status at every change of it",
        examples=["http://127.0.0.1:9000/hook"],
    )


def _refuse(field: str, message: str) -> NoReturn:
    """One field does not fit the others: said as pydantic says it of a single field."""
    error = PydanticCustomError("value_error", "{text}", {"text": message})
    details = [InitErrorDetails(type=error, loc=(field,), input=None)]
    raise ValidationError.from_exception_data(GroupRequest.__name__, details)
