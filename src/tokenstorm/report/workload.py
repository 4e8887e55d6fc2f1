"""What a prepared workload holds, for the terminal: before the run, and at its end."""

from tokenstorm.loadgen.arrivals import rate_in
from tokenstorm.metrics.reports import Spread, WorkloadFacts
from tokenstorm.metrics.summary import Summary
from tokenstorm.plan import Plan, Shared


def workload_lines(facts: WorkloadFacts) -> list[str]:
    """The facts, a thought a line."""
    tied = f", {facts.tied / facts.rows:.1%} of them at the same moment as the one before" if facts.tied else ""
    lines = [
        f"trace      {facts.format}: {facts.rows} requests in {facts.span_seconds:.4g} s{tied}",
        f"           {facts.mean_rps:.4g} req/s on average, {facts.peak_rps} in the busiest second",
        f"           prompts of {_spread(facts.input)}",
        f"           answers of {_spread(facts.output)}",
    ]
    if facts.ideal_reuse is not None:
        lines.append(f"           {facts.ideal_reuse:.1%} of the prompt tokens would come from an ideal prefix cache")
    if facts.no_output:
        lines.append(f"           {facts.no_output} rows have an answer of 0 tokens: 1 is asked")
    if facts.skipped:
        reasons = "; ".join(f"{count} times: {reason}" for reason, count in facts.skipped.items())
        lines.append(f"           {sum(facts.skipped.values())} rows were left out: {reasons}")
    return lines


def lengths_lines(summary: Summary) -> list[str]:
    """How lengths in tokens were made, and what became of them; nothing where nobody asked for any."""
    environment, tokens = summary.environment, summary.tokens
    if environment.vocabulary is None:
        return []
    shared = shared_lines(summary.plan, summary.counts.sent + summary.windows.warmup.sent)
    made = f"of {environment.vocabulary} words of one token each" if environment.vocabulary else "of words, not tokens"
    template = f", less {environment.template_tokens} of the template" if environment.template_tokens else ""
    lines = [*shared, f"text       {made}{template}"]
    if environment.ignore_eos and summary.plan.ignore_eos is None:
        lines.append(
            "           answers of exactly the tokens that were asked: the engine takes `ignore_eos`, so it was set"
        )
    if tokens.prompt_ratio is not None and tokens.prompt_off is not None:
        counted = f"{tokens.prompt_ratio:.4g} times the {tokens.prompt_asked} prompt tokens that were asked"
        lines.append(f"           the server counted {counted}, {tokens.prompt_off:.1%} off at most")
    return lines


def prefix_lines(summary: Summary) -> list[str]:
    """What the engine's prefix cache found, beside the ideal; nothing where nobody knows the ideal."""
    ideal, found = summary.tokens.prefix_ideal, summary.tokens.prefix_found
    if ideal is None:
        return []
    said = (
        "does not tell what its prefix cache found"
        if found is None
        else f"found {found:.1%} of the prompt tokens in its prefix cache"
    )
    return [f"cache      the engine {said}; the ideal is {ideal:.1%}"]


def shared_lines(plan: Plan, requests: int | None = None) -> list[str]:
    """What an ideal prefix cache would find of a load whose groups begin alike; nothing for other loads."""
    shared = plan.prompts
    if not isinstance(shared, Shared) or plan.conversation is not None:  # which share their own past, too
        return []
    known = requests if requests is not None else plan.request_count
    if known is None and not plan.closed_loop and plan.window_end_ns is not None:
        known = round((rate_in(plan, 0, plan.window_end_ns) or 0.0) * plan.window_end_ns / 1e9)
    among = "" if known is None else f" among {known} requests"
    ideal = f"{shared.ideal_reuse(known):.1%} of the prompt tokens would come from an ideal prefix cache{among}"
    return [f"prefixes   {shared.groups} groups share {shared.prefix} tokens each: {ideal}"]


def _spread(spread: Spread) -> str:
    return f"{spread.least} to {spread.most} tokens (mean {spread.mean:.4g}, p50 {spread.median}, p99 {spread.p99})"
