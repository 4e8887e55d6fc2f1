"""A plan in words: each of its fields, with a name for people and a text."""

import shlex
from collections.abc import Collection
from math import floor

import msgspec

from tokenstorm.custom import Custom
from tokenstorm.lengths import Conversation, Length, Pause, length_of
from tokenstorm.load_parts import PAIRING, Arrival, Cancel, ModelShare, Slo, Trace
from tokenstorm.plan import Plan, PromptFile, PromptList, Prompts, Shared, Synthetic, TraceFile, listed
from tokenstorm.targets import GpuSampler, Target

MOST_SHOWN = 20
"""Of prompts, stages and targets."""
MOST_LETTERS = 300
"""Of one prompt."""
_NAMES = {
    "schema": "Schema of the plan",
    "tokenstorm": "Planned by tokenstorm",
    "run_id": "Run",
    "group_id": "Group",
    "max_tokens": "Output tokens at most",
    "stream": "Streamed",
    "ignore_eos": "Exactly so many output tokens (ignore_eos)",
    "inputs": "Texts in each request",
    "custom": "Request of your own",
    "models": "Models",
    "cancel": "Given up, as people do",
    "headers": "Further headers",
    "api_key_header": "Header of the API key",
    "extra_body": "Further fields of each request",
    "columns": "Columns of the dataset",
    "no_repeat": "Ends before a prompt comes again",
    "cache": "The engine's prefix cache",
    "conversation": "Conversations",
    "unique_prompts": "Each prompt salted",
    "num_clients": "Clients",
    "requests_per_second": "Requests per second",
    "arrival": "Arrivals",
    "think_time_seconds": "Think time, seconds",
    "ramp_seconds": "Clients start within, seconds (closed loop)",
    "warmup_seconds": "Warm-up, seconds",
    "duration_seconds": "Measured, seconds",
    "request_count": "Measured requests",
    "drain_seconds": "Drain at most, seconds",
    "request_timeout_seconds": "Timeout of a request, seconds",
    "slo": "Objectives of each request",
    "ranks": "Ranks",
    "engine_metrics": "The engine's own metrics sampled",
    "gpu_exporters": "GPU exporters",
    "gpu_samplers": "GPUs are read at",
    "launch": "Ranks are started by",
    "host": "The launcher listens on",
    "start": "Start",
    "hold_seconds": "Hold at most, seconds (manual start)",
    "barrier_seconds": "Wait for the ranks at most, seconds",
    "record_chunks": "Time of every chunk kept",
}


def asked_for(plan: Plan, only: Collection[str] | None = None) -> list[tuple[str, str]]:
    """The fields of a plan, in its order: every one, or those that are named."""
    fields = {name: _in_words(value) for name, value in listed(plan).items() if only is None or name in only}
    if "requests_per_second" in fields:
        fields["requests_per_second"] = _rate(plan)
    if plan.slo and "slo" in fields:
        fields["slo"] = f"{slo_text(plan.slo)}; {percent(plan.slo.share)} of all scheduled requests are to meet them"
    return [(_NAMES.get(name, name.replace("_", " ").capitalize()), text) for name, text in fields.items()]


def operation_words(plan: Plan) -> str:
    """Which operation is called, and what of it is asked."""
    if plan.custom is not None:
        streamed = ", streamed" if plan.streams else ""
        return f"{plan.custom.method} {plan.custom.path}{streamed}"
    if plan.generates:
        most = f", at most {plan.max_tokens} tokens" if plan.trace is None else ""
        return f"{plan.endpoint}, {'streamed' if plan.streams else 'in one piece'}{most}"
    beside = plan.texts_per_request - (plan.endpoint in PAIRING)
    texts = ("document" if plan.endpoint in PAIRING else "text") + "s" * (beside != 1)
    return f"{plan.endpoint}, {beside} {texts} in each request"


def _rate(plan: Plan) -> str:
    """Of all clients together, however it is given."""
    if plan.conversation is not None:
        return "as answers come (conversations)"
    if plan.arrival.ramp:
        return f"from {plan.arrival.ramp.from_rps:.10g} to {plan.arrival.ramp.to_rps:.10g}"
    if plan.arrival.kind == "trace":
        rates = [stage.rps for stage in plan.arrival.stages or ()]
        return f"as the trace says: {min(rates):.4g} to {max(rates):.4g}" if rates else "as the trace says"
    if plan.arrival.stages:
        return _listed([f"{stage.rps:.10g} for {stage.seconds:.10g} s" for stage in plan.arrival.stages], ", ")
    return "as answers come (closed loop)" if plan.closed_loop else _in_words(plan.requests_per_second)


def _in_words(value: object) -> str:
    match value:
        case bool() | float():
            return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.10g}"
        case Arrival() | Conversation():
            return _conversation(value) if isinstance(value, Conversation) else _arrival(value)
        case PromptList() | PromptFile() | Synthetic() | Shared() | TraceFile() | Trace():
            return _trace(value) if isinstance(value, Trace) else _prompts(value)
        case dict() | Custom() | Cancel() if value:
            return msgspec.json.encode(value).decode()
        case tuple() if value:
            return _several(value)
    return "-" if value in (None, "", {}, ()) else str(value)


def _arrival(arrival: Arrival) -> str:
    return f"{arrival.kind}, burstiness {arrival.burstiness:.10g}" if arrival.kind == "gamma" else arrival.kind


def _conversation(talk: Conversation) -> str:
    turns = "all recorded turns" if talk.turns is None else f"{length_text(length_of(talk.turns))} turns"
    think = talk.think_seconds
    parts = [
        f"sessions of {turns}",
        f"{pause_text(think)} s of thought" if think else "",
        f"a first question of {length_text(length_of(talk.first))} tokens" if talk.first is not None else "",
        f"{talk.history} history" if talk.history != "live" else "",
        f"{talk.sessions} sessions" if talk.sessions else "",
        f"{talk.sessions_per_second:.10g} sessions a second" if talk.sessions_per_second else "",
    ]
    return ", ".join(filter(None, parts))


def pause_text(pause: float | Pause) -> str:
    """A time between turns, as it is typed."""
    match pause:
        case Pause(kind="uniform"):
            return f"{pause.low:.10g}:{pause.high:.10g}"
        case Pause(kind="exponential"):
            return f"exponential:{pause.mean:.10g}"
        case Pause():
            return f"lognormal:{pause.mean:.10g}~{pause.stddev:.10g}"
    return f"{pause:.10g}"


def _several(values: tuple[object, ...]) -> str:
    """Targets, where GPUs are read, or the words of a command."""
    places = [place for one in values if (place := _place(one))]
    return _listed(places, "\n") if places else shlex.join(map(str, values))


def _place(value: object) -> str:
    match value:
        case ModelShare():
            return f"{value.name}, weight {value.weight:.10g}"
        case Target():
            return f"{value.replica}: {value.url}"
        case GpuSampler():
            return f"{value.node}: {'all' if value.gpus is None else value.gpus} GPUs at {value.url}"
    return ""


def _prompts(prompts: Prompts) -> str:
    match prompts:
        case PromptList():
            texts = [text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} …" for text in prompts.prompts]
            return _listed(texts, "\n")
        case PromptFile():
            return f"{prompts.path}\nSHA-256 {prompts.sha256}"
        case Shared():
            return _shared(prompts)
        case TraceFile():
            return (
                f"{prompts.path} ({prompts.format or 'not looked at'}, {prompts.rows} rows)\nSHA-256 {prompts.sha256}"
            )
    return f"made up: {_made_up(prompts)}"


def _shared(shared: Shared) -> str:
    asked = f"Zipf with exponent {shared.zipf:.10g}" if shared.zipf else "asked evenly"
    answers = "" if shared.output is None else f", answers of {length_text(length_of(shared.output))} tokens"
    question = length_text(length_of(shared.question))
    return f"made up: {shared.groups} groups ({asked}) that share {shared.prefix} tokens, then {question} of their own{answers}"


def _trace(trace: Trace) -> str:
    until = "its end" if trace.until_seconds is None else f"{trace.until_seconds:.10g} s"
    parts = [
        trace.path,
        "its lengths alone" if trace.lengths_only else f"{trace.speed:.10g} times as fast",
        f"from {trace.from_seconds:.10g} to {until}",
        *([f"{trace.limit} rows at most"] if trace.limit else []),
        *(["without rows that contradict its format"] if trace.skip_bad_rows else []),
    ]
    return ", ".join(parts)


def _made_up(made_up: Synthetic) -> str:
    unit = {"text": "words", "words": "words", "tokens": "token ids"}[made_up.unit]
    of = f"of a vocabulary of {made_up.vocabulary}"
    if made_up.length is not None:
        answers = f"; answers of {length_text(made_up.output)} tokens" if made_up.output else ""
        return f"{length_text(made_up.length)} {unit} {of}{answers}"
    parts = [
        f"{length_text(part.input)} {unit} and {length_text(part.output)} tokens of an answer (weight {part.weight:g})"
        for part in made_up.mix or ()
    ]
    return f"{_listed(parts, ', ')}, {of}"


def length_text(length: Length) -> str:
    """A length in words."""
    match length.kind:
        case "uniform":
            return f"{length.low} to {length.high}"
        case "normal" | "lognormal":
            bounds = [f"{name} {value}" for name, value in (("from", length.low), ("to", length.high)) if value]
            kind = " (lognormal)" if length.kind == "lognormal" else ""
            return " ".join([f"{length.mean:.10g} ± {length.stddev:.10g}{kind}", *bounds])
        case "histogram":
            return f"{len(length.bins or ())} bins of a histogram"
    return str(length.n)


def _listed(texts: list[str], between: str) -> str:
    """So many of them as one looks at."""
    more = [f"and {len(texts) - MOST_SHOWN} more"] if len(texts) > MOST_SHOWN else []
    return between.join([*texts[:MOST_SHOWN], *more])


def slo_text(slo: Slo) -> str:
    """The objectives of a request."""
    bounds = {
        "TTFT": slo.ttft_seconds,
        "TPOT": slo.tpot_seconds,
        "latency": slo.latency_seconds,
        "inter-chunk p99": slo.inter_chunk_p99_seconds,
    }
    return ", ".join(f"{name} ≤ {_seconds(bound)}" for name, bound in bounds.items() if bound is not None)


def percent(share: float) -> str:
    """A share that is not rounded up to all of them."""
    return f"{floor(share * 1e4 + 1e-9) / 1e2:.4g}%"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.10g} ms" if seconds < 1 else f"{seconds:.10g} s"
