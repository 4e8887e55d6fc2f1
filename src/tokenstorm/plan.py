"""What to do: the whole of one run, as a frozen value and as `plan.json`.

A plan is complete: the same plan gives the same requests at the same offsets, on any machine and over any number of
ranks. Plans that differ only in their run id give the same arrivals and prompts, but other salts. Secrets are not part of it.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from tokenstorm import __version__
from tokenstorm.errors import NOT_JSON, OtherVersion, PlanError
from tokenstorm.lengths import Draw, Length, SharedPrefix, Source, weighted
from tokenstorm.load import DEFAULT_SECONDS, Load, make
from tokenstorm.load_parts import Arrival, Stage, TraceFormat
from tokenstorm.misfits import load_error
from tokenstorm.series_parts import Series
from tokenstorm.strict import Count, Misfit, Positive, Seed, Strict
from tokenstorm.targets import GpuSampler, Target
from tokenstorm.written import refuse_later_version, refuse_other_version

SCHEMA: Literal[1] = 1


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


Unit = Literal["text", "words", "tokens"]
"""What is counted of a prompt that is made up: see `Synthetic`."""


class Mixed(Strict, frozen=True, kw_only=True):
    """One part of a mix of lengths, with nothing left open."""

    input: Length
    output: Length
    weight: Positive


class Synthetic(Strict, frozen=True, kw_only=True, tag="synthetic", tag_field="kind"):
    """Prompts made up from the seed: `text` or `words`, or `tokens` ids (completions only).

    `length` is that of the prompt, and `output` sets the `max_tokens` of each request; a `mix` has both. `vocabulary` is how
    many ids there are, or how many words at most: the list that is shipped has about 400.
    """

    unit: Unit
    length: Length | None = None
    output: Length | None = None
    mix: Annotated[tuple[Mixed, ...], Meta(min_length=1)] | None = None
    vocabulary: Annotated[int, Meta(ge=2)] = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.length is None) == (self.mix is None):
            message = "give `length` or `mix`, one of them"
            raise Misfit(message, also=["length", "mix"])
        if self.mix is not None and self.output is not None:
            message = "the parts of a `mix` have an `output` of their own: leave this one out"
            raise Misfit(message, "output", ["mix"])

    def lengths(self, draw: Draw) -> tuple[int, int | None]:
        """The length of a prompt, and of its answer where that is asked for, from `draw` alone."""
        if self.mix is not None:
            part = self.mix[weighted([one.weight for one in self.mix], draw)]
            return part.input.draw(draw), part.output.draw(draw)
        assert self.length is not None, "there is a mix or a length"
        return self.length.draw(draw), self.output.draw(draw) if self.output else None


class Shared(SharedPrefix, frozen=True, kw_only=True, tag="shared_prefix", tag_field="kind"):
    """Prompts that are made up, of which groups begin alike."""


class TraceFile(Strict, frozen=True, kw_only=True, tag="trace", tag_field="kind"):
    """The file that the plan's `trace` replays, and what it was found to be; `sha256` pins the content.

    `format` is None, and `rows` is 0, in a preview: nobody has looked at the file.
    """

    path: str
    sha256: str
    format: TraceFormat | None = None
    rows: int = 0


Prompts = PromptList | PromptFile | Synthetic | Shared | TraceFile


class Plan(Load, frozen=True, kw_only=True):
    """One run: a load of which nothing is open any more, whom it is sent to, and how.

    `requests_per_second` None without a ramp or stages is a closed loop. The run ends by `duration_seconds` or when
    `request_count` measured requests were sent, whichever comes first. `ranks` are processes; `launch` is the argv
    prefix that starts all of them at once (empty: child processes of the launcher). `host` is where the launcher
    listens: an address, or a network of which the machine it runs on has one: an interface's name, a CIDR, or `auto`.
    `gpu_samplers` run beside the service's engines.
    """

    schema: Literal[1] = SCHEMA
    tokenstorm: str = __version__
    run_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    group_id: int | None = None

    targets: Annotated[tuple[Target, ...], Meta(min_length=1)]
    prompts: Prompts
    arrival: Arrival = Arrival()
    seed: Seed
    duration_seconds: Positive | None = DEFAULT_SECONDS

    gpu_samplers: tuple[GpuSampler, ...] = ()
    ranks: Count = 1
    launch: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    barrier_seconds: Positive = 60.0
    record_chunks: bool = False

    def __post_init__(self) -> None:
        if self.duration_seconds is None and self.arrival.stages:
            message = f"must be what the `stages` add up to: {self.measured_seconds:g}"
            raise Misfit(message, "duration_seconds", ["arrival.stages"])
        if self.duration_seconds is None and not self.ends_by_count:
            message = "give `duration_seconds` or `request_count`: the run would never end"
            raise Misfit(message, "duration_seconds", ["duration_seconds", "request_count"])
        if isinstance(self.prompts, TraceFile) != (self.trace is not None):
            message = "a `trace` and prompts of the kind `trace` belong together"
            raise Misfit(message, "trace", ["prompts"])
        if self.columns and not isinstance(self.prompts, PromptFile):
            message = "belongs to a file of prompts: name one"
            raise Misfit(message, "columns", ["prompts"])
        super().__post_init__()

    @property
    def source(self) -> Source:
        match self.prompts:
            case PromptList():
                return "questions"
            case PromptFile():
                return "file"
            case TraceFile():
                return "trace"
        return "made up"

    @property
    def arriving(self) -> "Plan":
        """What arrives by itself: this plan, or where it has conversations a plan whose requests are its sessions."""
        if (conversation := self.conversation) is None:
            return self
        return replace(
            self,
            conversation=None,
            requests_per_second=conversation.sessions_per_second,
            request_count=conversation.sessions,
        )

    @property
    def live_history(self) -> bool:
        """Whether what the engine answers is said to it again."""
        return self.conversation is not None and self.conversation.history == "live"

    @property
    def gpu_sources(self) -> list[GpuSampler]:
        """All that tell of the deployment's GPUs: the service's own samplers, and the exporters that were named."""
        named = [GpuSampler(node=urlsplit(url).netloc, url=url) for url in self.gpu_exporters]
        return [*self.gpu_samplers, *named]

    @property
    def prompts_are_tokens(self) -> bool:
        """Whether prompts are lists of token ids."""
        return isinstance(self.prompts, Synthetic) and self.prompts.unit == "tokens"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that were asked for; those of a trace only tell its rate."""
        return () if self.arrival.kind == "trace" else self.arrival.stages or ()

    @property
    def prompts_are_measured(self) -> bool:
        """Whether prompts are text of so many tokens."""
        return isinstance(self.prompts, TraceFile | Shared) or (
            isinstance(self.prompts, Synthetic) and self.prompts.unit == "text"
        )

    @property
    def output_is_asked(self) -> bool:
        """Whether the prompts say how long each answer is."""
        prompts = self.prompts
        made_up = isinstance(prompts, Synthetic) and (prompts.output is not None or prompts.mix is not None)
        return made_up or isinstance(prompts, TraceFile) or (isinstance(prompts, Shared) and prompts.output is not None)

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


class SeriesPlan(Strict, frozen=True, kw_only=True):
    """`series.json`: the plan from which each run's own is made, and how they differ.

    `ranks` None means the fewest that carry each run on the machine of the driver.
    """

    schema: Literal[1] = SCHEMA
    tokenstorm: str = __version__
    plan: Plan
    series: Series
    ranks: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.series.search and self.plan.slo is None:
            message = "a search needs objectives"
            raise Misfit(message, "plan.slo", ["plan.slo"])
        if self.series.search and (self.plan.measured_seconds is None or self.plan.ends_by_count):
            message = "a search sets the length of each run: give `duration_seconds`, and no count"
            raise Misfit(message, "plan.request_count", ["plan.duration_seconds"])
        if self.plan.start == "manual":
            message = "a series starts its runs itself: leave `manual` out"
            raise Misfit(message, "plan.start")


def new_run_id() -> str:
    """128 random bits, as 32 hex digits."""
    return secrets.token_hex(16)


def make_plan(fields: Mapping[str, object]) -> Plan:
    """Build and check a plan from plain values; a `PlanError` names the field that is wrong."""
    return make(fields, Plan)


def plan_for(load: Load, **settled: object) -> Plan:
    """The plan that carries a load out, with what the load leaves open. Raises `PlanError`.

    `settled` are the fields that a load has not, and `seed` or `ranks` where they are open.
    """
    fields = {name: getattr(load, name) for name in Load.__struct_fields__}
    return make_plan(fields | {"arrival": load.spread, "duration_seconds": load.measured_seconds} | settled)


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
        refuse_later_version(data, where, str(load_error(error)))
        message = f"{where}: {load_error(error)}"
        raise PlanError(message) from None
    except NOT_JSON as error:
        message = f"{where} is not JSON: {error}"
        raise PlanError(message) from None


def encode_plan(plan: Plan) -> bytes:
    """The plan as `plan.json` holds it."""
    return msgspec.json.format(msgspec.json.encode(listed(plan)), indent=2) + b"\n"


_FIRST = ("schema", "tokenstorm", "run_id", "group_id", "name", "labels", "targets")
_LAST = ("start", "hold_seconds", "barrier_seconds", "record_chunks")


def listed(plan: Plan) -> dict[str, object]:
    """A plan's fields in the order in which people read them: what names the run first, how it is started last."""
    between = [name for name in plan.__struct_fields__ if name not in {*_FIRST, *_LAST}]
    return {name: getattr(plan, name) for name in (*_FIRST, *between, *_LAST)}
