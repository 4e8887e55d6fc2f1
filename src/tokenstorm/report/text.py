"""A run for the terminal, once it is over."""

from tokenstorm.metrics.summary import Summary
from tokenstorm.plan import Plan, Shared, Synthetic, TraceFile
from tokenstorm.printable import printable_line
from tokenstorm.report.asked import operation_words, percent, slo_text
from tokenstorm.report.bymodel import models_table
from tokenstorm.report.certainty import certain_lines, steady_words
from tokenstorm.report.figures import SIMULATED, duration, figure, many
from tokenstorm.report.rates import rate_words, unsent_words
from tokenstorm.report.table import stages_table, times_table
from tokenstorm.report.talks import session_arrivals, session_words, turns_table
from tokenstorm.report.workload import lengths_lines, prefix_lines, workload_lines

FAILURE_COLUMNS = 140
"""The most columns of a failure's message. The lines and the summary have all that was kept."""
_CERTAIN = ("likely", "", "", "")
"""What begins the lines of what is likely: with 95 % the means, with 99 % the bounds of percentiles."""


def summary_text(summary: Summary, *, wide: bool = False) -> str:
    """The table at the end of a run, and what to think of it. Its tables fit 80 columns, or are `wide` and have all percentiles."""
    lines = []
    if summary.environment.simulated:
        lines += [f"*** {SIMULATED} ***", ""]
    lines += [
        *_head(summary),
        "",
        *times_table(summary, wide=wide),
        "",
        *stages_table(summary, wide=wide),
        *models_table(summary),
        *turns_table(summary, wide=wide),
        *_replicas(summary),
        *(levels := replica_levels(summary)),
        *[""][: len(levels)],
        *_energy(summary),
        *_verdict(summary),
    ]
    return "\n".join(map(printable_line, lines))  # of what came from outside, nothing begins a line of its own


def prompts_used(summary: Summary) -> str:
    """How many prompts there were and how often each was used: what a prefix cache makes of them depends on it."""
    plan, stock = summary.plan, summary.environment.prompts
    if stock is None:
        made_up = isinstance(plan.prompts, Synthetic | Shared | TraceFile)
        return f"made up for each {'session' if plan.conversation else 'request'}" if made_up else "-"
    sent = summary.counts.sent + summary.windows.warmup.sent
    times = -(-sent // stock.count)
    bound = "about" if plan.closed_loop and plan.ranks > 1 else "at most"  # there, ranks go on at their own pace
    used = f"{bound} {many(times, 'time')}"
    if stock.distinct < stock.count:
        text = f"{stock.distinct} distinct of {stock.count}, each of the {stock.count} used {used}"
    else:
        text = f"{stock.count} distinct, each used {used}"
    if stock.left_out:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in stock.left_out.items())
        text += f" ({sum(stock.left_out.values())} records left out: {reasons})"
    return f"{text}, with a salt for each request" if plan.salted else text


def _head(summary: Summary) -> list[str]:
    plan, counts, rates = summary.plan, summary.counts, summary.rates
    seconds = summary.windows.measured_end - summary.windows.measured_start
    loop = "closed loop" if plan.closed_loop else f"{plan.arrival.kind} arrivals{profile(plan)}"
    loop = session_arrivals(plan) or loop
    model = ", ".join(one.name for one in plan.models) or summary.environment.model or "?"
    where = plan.targets[0].url + (f" and {len(plan.targets) - 1} more" if len(plan.targets) > 1 else "")
    warmup = f" after {plan.warmup_seconds:g} s of warm-up" if plan.warmup_seconds else ""
    others = (("censored", counts.censored), ("given up", counts.cancelled), ("unsent", counts.unsent))
    return [
        f"{model} at {where}: {operation_words(plan)}",
        f"{loop}, {many(plan.num_clients, 'client')}, {many(plan.ranks, 'rank')}, {round(seconds, 3):g} s measured{warmup}",
        "",
        f"requests   {counts.scheduled} scheduled, {counts.succeeded} succeeded, {counts.failed} failed"
        + "".join(f", {count} {name}" for name, count in others if count),
        *_failures(summary),
        *([f"sessions   {sessions}"] if (sessions := session_words(summary)) else []),
        *([f"unsent     {unsent}"] if (unsent := unsent_words(summary)) else []),
        f"prompts    {prompts_used(summary)}",
        *(workload_lines(summary.environment.workload) if summary.environment.workload else ()),
        f"rate       {rate_words(summary)}",
        f"tokens     {_output_rate(summary)}"
        f"{figure(rates.prompt_tokens_per_second)} prompt tok/s"
        + _per_user(rates.output_tokens_per_second_per_user)
        + (f" (counted by {summary.tokens.source})" if summary.tokens.source else ""),
        *lengths_lines(summary),
        *prefix_lines(summary),
        *([f"lengths    {lengths}"] if (lengths := _lengths(summary)) else []),
        *([f"in flight  {in_flight}"] if (in_flight := _in_flight(summary)) else []),
        *([f"goodput    {goodput}"] if (goodput := _goodput(summary)) else []),
        *([f"steady     {steady_words(summary.steady)}"] if summary.steady and not summary.steady.fault else []),
        *(f"{head:<11}{line}" for head, line in zip(_CERTAIN, certain_lines(summary), strict=False)),
        *([f"odd        {odd}"] if (odd := _odd(summary.warnings)) else []),
    ]


def _failures(summary: Summary) -> list[str]:
    """Each kind of failure, the most frequent first, with the words of one of them."""
    kinds = sorted(summary.counts.failed_by_kind.items(), key=lambda kind: (-kind[1], kind[0]))
    lines = [f"{count} {kind}: {summary.failures.get(kind) or 'no words'}" for kind, count in kinds]
    heads = ["failed", *[""] * len(lines)]
    return [f"{head:<11}{line}"[:FAILURE_COLUMNS] for head, line in zip(heads, lines, strict=False)]


def _output_rate(summary: Summary) -> str:
    """Output tokens a second, of an operation that has any."""
    rate = summary.rates.output_tokens_per_second
    return "" if rate is None and not summary.plan.generates else f"{figure(rate)} output tok/s, "


def _per_user(rate: float | None) -> str:
    """What the median user sees come."""
    return "" if rate is None else f", {figure(rate)} tok/s per user"


def _lengths(summary: Summary) -> str:
    """How long prompts and answers were."""
    texts = [
        f"{name}s of {found.mean:.4g} tokens"
        + ("" if found.min == found.max else f" ({found.min} to {found.max}, p50 {found.p50}, p99 {found.p99})")
        for name, found in (("prompt", summary.lengths.get("prompt")), ("answer", summary.lengths.get("output")))
        if found and found.mean is not None
    ]
    return ", ".join(texts)


def _in_flight(summary: Summary) -> str:
    found = summary.concurrency
    if found is None:
        return ""
    return f"{figure(found.mean)} on average" + (
        "" if found.peak is None else f", {found.peak} at most of {many(summary.plan.num_clients, 'client')}"
    )


def _goodput(summary: Summary) -> str:
    """How many requests met the objectives, and what those are."""
    found, slo = summary.goodput, summary.plan.slo
    if found is None or slo is None:
        return ""
    all_ = "all scheduled but those given up" if summary.counts.cancelled else "all scheduled"
    share = "none was scheduled" if found.ratio is None else f"{percent(found.ratio)} of {all_} are good"
    rates = f"{figure(found.rps)} req/s, {figure(found.output_tokens_per_second)} output tok/s"
    return f"{share}: {rates} ({slo_text(slo)}; {percent(slo.share)} asked: {'met' if found.met else 'MISSED'})"


_ODD = {
    "no_token": "without a token",
    "not_streamed": "in one piece instead of a stream",
    "short": "shorter than asked",
    "skipped": "with events that say nothing",
    "unknown": "with parts that are neither an answer nor an error",
    "usage": "with a usage that contradicts them",
}


def _odd(warnings: dict[str, int]) -> str:
    """Successful answers by what was odd about them."""
    return ", ".join(f"{many(count, 'answer')} {_ODD.get(name, name)}" for name, count in warnings.items())


def profile(plan: Plan) -> str:
    """How the rate changed, if it did."""
    arrival = plan.arrival
    if arrival.kind == "trace" and plan.trace is not None:
        return f" {plan.trace.speed:g} times as fast as recorded"
    if arrival.ramp:
        return f" from {arrival.ramp.from_rps:g} to {arrival.ramp.to_rps:g} req/s"
    return (
        " at " + ", ".join(f"{stage.rps:g}x{stage.seconds:g}" for stage in arrival.stages or ())
        if arrival.stages
        else ""
    )


def replica_levels(summary: Summary) -> list[str]:
    """What each replica said of its load."""
    lines = []
    for name, said in (summary.engine.replicas if summary.engine else {}).items():
        parts = [
            f"{word} {level.mean:.1f} on average, {level.max:g} at most"
            for word, level in (("running", said.running), ("waiting", said.waiting))
            if level
        ]
        parts += [f"KV cache {said.kv_usage.max:.1%} at most"] if said.kv_usage else []
        parts += [f"prefix cache hits {said.hit_rate:.0%}"] if said.hit_rate is not None else []
        parts += [f"drafts accepted {said.acceptance:.0%}"] if said.acceptance is not None else []
        parts += [f"{said.preemptions:.0f} preemptions"] if said.preemptions else []
        if parts:
            lines.append(f"engine of replica {name}: {', '.join(parts)}")
    return lines


def _energy(summary: Summary) -> list[str]:
    """What the GPUs took, or why nobody knows."""
    energy = summary.energy
    if energy is None:
        return []
    if not energy.valid:
        return [*(f"energy unknown: {reason.text}" for reason in energy.reasons), ""]
    parts = [f"{figure(energy.joules)} J, {figure(energy.average_watts)} W on average"]
    for value, what in (
        (energy.joules_per_output_token, "output token"),
        (energy.joules_per_total_token, "token"),
        (energy.joules_per_request, "request"),
    ):
        parts += [f"{figure(value)} J per {what}"] if value is not None else []
    return [f"energy of {many(len(energy.gpus), 'GPU')}: {', '.join(parts)}", ""]


def _replicas(summary: Summary) -> list[str]:
    if len(summary.replicas) == 1:
        return []
    lines = [
        f"replica {name} ({replica.url}): {replica.counts.sent} sent, {replica.counts.succeeded} succeeded, {replica.counts.failed} failed"
        + (", left out for some time" if replica.left_out else "")
        for name, replica in summary.replicas.items()
    ]
    return [*lines, ""]


def _verdict(summary: Summary) -> list[str]:
    client = summary.client
    lag = duration(summary.metrics["send_lag_seconds"].p99)
    whose = "the kernel's, of arrival" if client.clock == "kernel" else "of the reads"
    longest = duration(client.gc_longest_seconds)
    lines = [
        f"load generator: {client.cpu_max:.0%} of a core at most, send lag p99 {lag}, longest collection {longest}",
        f"times of answers: {whose}",
        f"verdict: {summary.verdict.state.upper()}",
    ]
    lines += [f"  - {reason.text}" for reason in summary.verdict.reasons]
    if summary.outcome == "running":
        lines.append("  the run goes on: these are its numbers so far")
    elif summary.outcome != "completed":
        lines.append(f"  the run was {summary.outcome} before its planned end")
    lines += [f"  note: {note}" for note in summary.environment.notes]
    return lines
