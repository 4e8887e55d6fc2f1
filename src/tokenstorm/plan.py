"""What to do: the whole of one run, as a frozen value and as `plan.json`.

A plan is complete: the same plan gives the same requests at the same offsets, on any machine and over any number of
ranks. Plans that differ only in their run id give the same arrivals and prompts, but other salts. Secrets are not part of it.
"""

import math
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tokenstorm import __version__
from tokenstorm.errors import NOT_JSON, PlanError
from tokenstorm.written import OtherVersion, refuse_later_version, refuse_other_version

SCHEMA: Literal[1] = 1

Positive = Annotated[float, Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
Count = Annotated[int, Meta(ge=1, le=2**31)]


class Misfit(ValueError):
    """A part of a plan that makes no sense; `field` and `also` are as in `UsageError`, seen from that part.

    msgspec makes a `ValidationError` of it, which knows the place of the part in the plan.
    """

    def __init__(self, message: str, field: str = "", also: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.also = also


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a plan: unknown fields are refused, floats are finite."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                message = f"must be a finite number, not {value}"
                raise Misfit(message, name)


class Target(Strict, frozen=True, kw_only=True):
    """One replica of the service: its name in the results, and its base URL without `/v1`."""

    replica: str
    url: str


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


class Arrival(Strict, frozen=True, kw_only=True):
    """How arrivals are spread in time around the asked rate.

    `burstiness` is the shape of the gamma distribution of the gaps: 1 is Poisson, below 1 is burstier.
    """

    kind: Literal["constant", "poisson", "gamma"] = "constant"
    burstiness: Annotated[float, Meta(ge=0.01, le=1e6)] = 1.0
    ramp: Ramp | None = None
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1)] | None = None

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


class Length(Strict, frozen=True, kw_only=True):
    """How long a synthetic prompt is: `n` (fixed), `low` to `high` (uniform), or `mean` and `stddev` (normal)."""

    kind: Literal["fixed", "uniform", "normal"] = "fixed"
    n: Count | None = None
    low: Count | None = None
    high: Count | None = None
    mean: Positive | None = None
    stddev: NotNegative | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = {"fixed": ("n",), "uniform": ("low", "high"), "normal": ("mean", "stddev")}[self.kind]
        for name in ("n", "low", "high", "mean", "stddev"):
            if (getattr(self, name) is None) == (name in needed):
                message = f"a `{self.kind}` length takes {' and '.join(f'`{field}`' for field in needed)}, nothing else"
                raise Misfit(message)
        if self.low is not None and self.high is not None and self.low > self.high:
            message = f"`low` ({self.low}) is above `high` ({self.high})"
            raise Misfit(message)


class PromptList(Strict, frozen=True, kw_only=True, tag="list", tag_field="kind"):
    """Prompts written out in the plan."""

    prompts: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        super().__post_init__()
        for place, prompt in enumerate(self.prompts):
            if not prompt.strip():
                message = f"it is blank: {prompt!r:.40}"
                raise Misfit(message, f"prompts[{place}]")


class PromptFile(Strict, frozen=True, kw_only=True, tag="file", tag_field="kind"):
    """A file of text with a prompt a line, or of JSON lines with `prompt` or `messages` and, if wanted, `max_tokens`.

    `sha256` pins the content: a rank that reads another file refuses to start.
    """

    path: str
    sha256: str


class Synthetic(Strict, frozen=True, kw_only=True, tag="synthetic", tag_field="kind"):
    """Prompts made up from the seed: `words` of text, or `tokens` ids (completions only).

    `vocabulary` is how many ids there are, or how many words at most: the list that is shipped has about 400.
    """

    unit: Literal["words", "tokens"]
    length: Length
    vocabulary: Annotated[int, Meta(ge=2)] = 1000


Prompts = PromptList | PromptFile | Synthetic


class Plan(Strict, frozen=True, kw_only=True):
    """One run. Seconds are seconds; rates are requests per second of the whole group.

    `requests_per_second` None without a ramp or stages is a closed loop. The run ends by `duration_seconds` or when
    `request_count` measured requests were sent, whichever comes first. `ranks` are processes; `launch` is the argv
    prefix that starts all of them at once (empty: child processes of the launcher). `host` is where the launcher
    listens: an address, or a network of which the machine it runs on has one: an interface's name, a CIDR, or `auto`.
    """

    schema: Literal[1] = SCHEMA
    tokenstorm: str = __version__
    run_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    group_id: int | None = None
    name: str = ""
    labels: dict[str, str] = {}

    targets: Annotated[tuple[Target, ...], Meta(min_length=1)]
    endpoint: Literal["chat", "completions"] = "chat"
    model: str | None = None
    stream: bool = True
    max_tokens: Count = 100
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.7
    ignore_eos: bool = False
    extra_body: dict[str, Any] = {}
    prompts: Prompts
    unique_prompts: bool = False

    num_clients: Count
    requests_per_second: Positive | None = None
    arrival: Arrival = Arrival()
    think_time_seconds: NotNegative = 0.0
    ramp_seconds: NotNegative = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]

    warmup_seconds: NotNegative = 0.0
    duration_seconds: Positive | None = 60.0
    request_count: Count | None = None
    drain_seconds: NotNegative = 30.0
    request_timeout_seconds: Positive = 120.0

    ranks: Count = 1
    launch: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    start: Literal["auto", "manual"] = "auto"
    hold_seconds: Positive = 600.0
    barrier_seconds: Positive = 60.0
    record_chunks: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        shaped = self.arrival.ramp or self.arrival.stages
        if shaped and self.requests_per_second is not None:
            message = "the rates of `arrival` are given as well: leave one of the two out"
            raise Misfit(message, "requests_per_second", ["arrival"])
        if self.closed_loop and self.arrival != Arrival():
            message = f"the kind `{self.arrival.kind}` needs `requests_per_second`"
            raise Misfit(message, "arrival", ["requests_per_second"])
        if not self.closed_loop and self.think_time_seconds:
            message = "belongs to a closed loop: arrivals at a rate do not wait for answers"
            raise Misfit(message, "think_time_seconds")
        if self.arrival.stages:
            total = math.fsum(stage.seconds for stage in self.arrival.stages)
            if self.duration_seconds is None or not math.isclose(total, self.duration_seconds):
                message = f"must be what the `stages` add up to: {total:g}"
                raise Misfit(message, "duration_seconds", ["arrival.stages"])
        if self.arrival.ramp and self.duration_seconds is None:
            message = "a `ramp` needs `duration_seconds`"
            raise Misfit(message, "arrival", ["arrival.ramp", "duration_seconds"])
        if self.duration_seconds is None and self.request_count is None:
            message = "give `duration_seconds` or `request_count`: the run would never end"
            raise Misfit(message, "duration_seconds", ["duration_seconds", "request_count"])
        if self.ranks > self.num_clients:
            message = f"{self.ranks} is above `num_clients` ({self.num_clients}): a rank would have no client"
            raise Misfit(message, "ranks", ["num_clients"])
        if self.prompts_are_tokens and self.endpoint == "chat":
            message = 'must be "completions" for prompts of token ids: chat takes text'
            raise Misfit(message, "endpoint")

    @property
    def closed_loop(self) -> bool:
        """Whether each client sends when its last answer ended, instead of at a rate."""
        return self.requests_per_second is None and not (self.arrival.ramp or self.arrival.stages)

    @property
    def prompts_are_tokens(self) -> bool:
        """Whether prompts are lists of token ids."""
        return isinstance(self.prompts, Synthetic) and self.prompts.unit == "tokens"

    @property
    def window_start_ns(self) -> int:
        """Where the measured window starts, from the common start."""
        return round(self.warmup_seconds * 1e9)

    @property
    def window_end_ns(self) -> int | None:
        """Where the measured window ends at the latest, from the common start; None without a duration."""
        if self.duration_seconds is None:
            return None
        return round((self.warmup_seconds + self.duration_seconds) * 1e9)


def new_run_id() -> str:
    """128 random bits, as 32 hex digits."""
    return secrets.token_hex(16)


def make_plan(fields: Mapping[str, object]) -> Plan:
    """Build and check a plan from plain values; a `PlanError` names the field that is wrong."""
    try:
        return msgspec.convert(fields, Plan)
    except msgspec.ValidationError as error:
        raise _plan_error(error) from None


def read_plan(path: Path) -> Plan:
    """Read `plan.json`; a `PlanError` says what is wrong with it, one for another major version included."""
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"cannot read the plan {path}: {error.strerror}"
        raise PlanError(message) from None
    return decode_plan(data, str(path))


def decode_plan(data: bytes, where: str) -> Plan:
    """Decode a plan; `where` names its source in errors."""
    try:
        return _decode_plan(data, where)
    except OtherVersion as error:
        raise PlanError(str(error)) from None


def _decode_plan(data: bytes, where: str) -> Plan:
    refuse_other_version(data, where)
    try:
        return msgspec.json.decode(data, type=Plan)
    except msgspec.ValidationError as error:
        refuse_later_version(data, where, str(_plan_error(error)))
        message = f"{where}: {_plan_error(error)}"
        raise PlanError(message) from None
    except NOT_JSON as error:
        message = f"{where} is not JSON: {error}"
        raise PlanError(message) from None


def encode_plan(plan: Plan) -> bytes:
    """The plan as `plan.json` holds it."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n"


_BOUNDS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_UNKNOWN, _MISSING = "Object contains unknown field ", "Object missing required field "


def _plan_error(error: msgspec.ValidationError) -> PlanError:
    """What msgspec, or a part of the plan itself, found; msgspec tells the place at the end of its text."""
    what, _, place = str(error).rpartition(" - at `$")
    what, place = (what, place.rstrip("`").lstrip(".")) if what else (place, "")
    if isinstance(misfit := error.__cause__, Misfit):
        also = [_joined(place, field) for field in misfit.also]
        return PlanError(str(misfit), _joined(place, misfit.field) or None, also)
    for beginning, said in ((_UNKNOWN, "there is no such field"), (_MISSING, "it is missing")):
        if what.startswith(beginning):
            name = what.removeprefix(beginning).strip("`")
            return PlanError(said, _joined(place, name))
    if what == "Invalid enum value 2" and place == "schema":
        what = "Another version of tokenstorm wrote this: it must be 1"
    if bound := re.fullmatch(r"Expected `(?:int|float)` (>=|<=|>|<) (-?[\d.e+]+)", what):
        what = f"Must be {_BOUNDS[bound[1]]} {float(bound[2]):g}"
    what = what.replace("Expected `str` of length >= 1", "Must not be empty")
    return PlanError(f"{what[0].lower()}{what[1:]}", place or None)


def _joined(place: str, field: str) -> str:
    return ".".join(filter(None, (place, field)))
