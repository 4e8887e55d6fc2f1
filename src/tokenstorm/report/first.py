"""The first screen of the report: what was tested, the verdict, and the headline numbers."""

from tokenstorm.metrics.summary import Metric, Summary
from tokenstorm.plan import Plan
from tokenstorm.report.asked import operation_words, percent, slo_text
from tokenstorm.report.figures import figure, percentile
from tokenstorm.report.markup import text
from tokenstorm.report.talks import session_arrivals
from tokenstorm.report.text import profile

_STAGES = 6
_HOSTS = 3
"""As many as fit on a line."""


def first_screen(summary: Summary) -> str:
    """All of it."""
    return "\n".join((_title(summary), _verdict(summary), _tiles(summary)))


def title_of(summary: Summary) -> str:
    """The name of a run, or its id."""
    return summary.plan.name or f"Run {summary.run_id}"


def _title(summary: Summary) -> str:
    plan, environment = summary.plan, summary.environment
    seconds = summary.windows.measured_end - summary.windows.measured_start
    warmup = f" after {plan.warmup_seconds:g} s of warm-up" if plan.warmup_seconds else ""
    parts = [
        ("Tested", f"{environment.model or 'model unknown'}, {_engines(summary)}"),
        ("Load", f"{load_words(plan)}; {operation_words(plan)}"),
        ("When", f"{_when(summary)}: {round(seconds, 3):g} s measured{warmup}; {summary.outcome}"),
        ("Where", _where(summary)),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{text(words)}</dd></div>" for name, words in parts)
    labels = "".join(f'<span class="label">{text(f"{key}={value}")}</span>' for key, value in plan.labels.items())
    return f'<h1>{text(title_of(summary))}</h1>{labels}\n<dl class="what">{shown}</dl>'


def load_words(plan: Plan) -> str:
    """How requests arrive."""
    clients = f"{plan.num_clients} client{'s' * (plan.num_clients != 1)}"
    if sessions := session_arrivals(plan):
        return f"{sessions}, {clients}"
    if plan.closed_loop:
        return f"closed loop of {clients}"
    if stages := plan.arrival.stages:
        rates = [f"{figure(stage.rps)}/s for {stage.seconds:g} s" for stage in stages[:_STAGES]]
        rate = (
            " at " + ", ".join(rates) + (f" and {len(stages) - _STAGES} more stages" if len(stages) > _STAGES else "")
        )
    else:
        rate = f" at {plan.requests_per_second:g} requests/s" if plan.requests_per_second else profile(plan)
    return f"{plan.arrival.kind} arrivals{rate}, {clients}"


def _engines(summary: Summary) -> str:
    """Their versions as they tell them, and how many replicas there are."""
    versions = sorted(
        {
            str(said["version"])
            for said in summary.environment.engine.values()
            if isinstance(said, dict) and "version" in said
        }
    )
    version = f"engine version {', '.join(versions)}" if versions else "engine version unknown"
    replicas = len(summary.plan.targets)
    return version + (f", {replicas} replicas" if replicas > 1 else "")


def _when(summary: Summary) -> str:
    return (summary.started_at or "start unknown").replace("T", " ").partition(".")[0] + " UTC" * bool(
        summary.started_at
    )


def _where(summary: Summary) -> str:
    environment = summary.environment
    targets = _first([target.url for target in summary.plan.targets], 1)
    job = f", job {environment.job_id}" if environment.job_id else ""
    return f"{targets}, from {_first(environment.hosts, _HOSTS) or 'an unknown host'}{job}"


def _first(names: list[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _verdict(summary: Summary) -> str:
    state, reasons = summary.verdict.state, summary.verdict.reasons
    listed = "".join(f"<li>{text(reason.text)}</li>" for reason in reasons)
    said = f"<ul>{listed}</ul>" if reasons else " Nothing speaks against these numbers."
    return f'<div class="verdict {state}"><strong>Verdict: {state.upper()}</strong>{said}</div>'


def _tiles(summary: Summary) -> str:
    metrics, rates, counts = summary.metrics, summary.rates, summary.counts
    tpot, per_user = metrics["tpot_seconds"], rates.output_tokens_per_second_per_user
    loop = "conversations" if summary.plan.conversation else "closed loop"
    sent = loop if rates.requested_rps is None else f"{figure(rates.requested_rps)} asked"
    if rates.sent_rps is not None:
        sent = f"{figure(rates.sent_rps)} sent, {sent}"
    share = percent(counts.succeeded / counts.scheduled) if counts.scheduled else "-"
    latency = _times("Latency, from schedule", metrics["latency_seconds"])
    answered = _tile("Requests a second", [(figure(rates.achieved_rps), "answered")], sent)
    if summary.plan.generates:
        shown = [
            _times("TTFT", metrics["ttft_seconds"]),
            _times("Time per output token", tpot),
            latency,
            answered,
            _tile("Tokens a second", [(figure(rates.output_tokens_per_second), "output")], _prompt_rate(summary)),
            _tile(
                "Tokens a second per user",
                [("-" if per_user is None else figure(per_user), "p50")],
                f"1 / TPOT; {tpot.count} samples",
            ),
        ]
    else:  # numbers come at once: there is no token to wait for
        prompts = figure(rates.prompt_tokens_per_second)
        shown = [latency, answered, _tile("Tokens a second", [(prompts, "prompt")], "no tokens are generated")]
    tiles = [
        *shown,
        *_goodput(summary),
        _tile("Succeeded", [(share, "")], f"{counts.succeeded} of {counts.scheduled} scheduled"),
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _goodput(summary: Summary) -> list[str]:
    """The share that met the objectives, where there are some."""
    found, slo = summary.goodput, summary.plan.slo
    if found is None or slo is None or found.ratio is None:
        return []
    met = "met" if found.met else "missed"
    return [_tile("Good", [(percent(found.ratio), met)], f"{percent(slo.share)} asked: {slo_text(slo)}")]


def _prompt_rate(summary: Summary) -> str:
    return f"{figure(summary.rates.prompt_tokens_per_second)} prompt tokens a second"


def _times(name: str, metric: Metric) -> str:
    """p50 and p99 of one time, with the number of samples."""
    values = [(percentile(metric, quantile), quantile) for quantile in ("p50", "p99")]
    return _tile(name, values, f"{metric.count} sample{'s' * (metric.count != 1)}")


def _tile(name: str, values: list[tuple[str, str]], below: str) -> str:
    shown = "".join(f"<span>{text(value)} <small>{text(mark)}</small></span>" for value, mark in values)
    return f'<div class="tile"><h3>{text(name)}</h3><p class="value">{shown}</p><p>{text(below)}</p></div>'
