"""A run as one page that needs nothing else: header, verdict, tables. All text of it is printable and escaped."""

from collections.abc import Sequence
from html import escape

import msgspec

from tokenstorm.metrics.summary import QUANTILES, Metric, Summary
from tokenstorm.printable import printable
from tokenstorm.report.asked import asked_for
from tokenstorm.report.text import duration, prompts_used

_LABELS = {
    "latency_seconds": "Latency, from schedule",
    "service_time_seconds": "Service time, from send",
    "ttft_seconds": "TTFT",
    "ttft_content_seconds": "TTFT, content",
    "ttft_from_schedule_seconds": "TTFT from schedule",
    "tpot_seconds": "Time per output token",
    "inter_chunk_seconds": "Inter-chunk",
    "schedule_delay_seconds": "Schedule delay",
    "client_wait_seconds": "Client wait",
    "send_lag_seconds": "Send lag",
}
_HEADS = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9"}
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.6rem;margin-bottom:0}h2{font-size:1.15rem;margin-top:2rem}p.sub{color:#59636e;margin-top:0}
h1,p,li,td{overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}
.facts{table-layout:fixed}.facts th{width:38%;text-align:left;font-weight:400}.facts td{white-space:pre-wrap}
.scroll{overflow-x:auto}.grid{font-size:.92em}.grid th,.grid td{text-align:right;white-space:nowrap;padding:.3rem}
.grid th.words,.grid td.words{text-align:left;white-space:normal;min-width:6rem}
.simulated{font-size:2rem;font-weight:800;text-align:center;padding:1rem;border:4px solid #bc4c00;color:#bc4c00}
.verdict{padding:.6rem 1rem;border-left:6px solid}.valid{border-color:#1a7f37;background:#eefbf1}
.suspect{border-color:#9a6700;background:#fff8e5}.invalid{border-color:#cf222e;background:#ffeff0}
@media (prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}th,td{border-color:#30363d}
p.sub{color:#9198a1}.valid,.suspect,.invalid{background:none}.simulated{color:#f0883e;border-color:#f0883e}}
@media (max-width:40rem){body{margin:1rem auto}.simulated{font-size:1.3rem}}
"""


def summary_page(summary: Summary) -> str:
    """The whole page."""
    title = summary.plan.name or f"Run {summary.run_id}"
    body = [f"<h1>{_text(title)}</h1>", _head(summary)]
    if summary.environment.simulated:
        body.insert(0, '<p class="simulated">SIMULATED ENGINE<br>these numbers say nothing about real hardware</p>')
    body += [_verdict(summary), _counts(summary), _metrics(summary), _replicas(summary), _ranks(summary)]
    body += [_facts("What was asked for", asked_for(summary.plan)), _environment(summary)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{_text(title)} · tokenstorm</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _head(summary: Summary) -> str:
    plan = summary.plan
    loop = "closed loop" if plan.closed_loop else f"{plan.arrival.kind} arrivals"
    when = f"{summary.started_at or 'start unknown'} to {summary.ended_at or 'end unknown'}"
    group = "" if summary.group_id is None else f" · group {summary.group_id}"
    model = summary.environment.model or "model unknown"
    text = f"{model} · {loop} · {plan.num_clients} clients{group} · {when} · {summary.outcome}"
    return f'<p class="sub">{_text(text)}</p>'


def _verdict(summary: Summary) -> str:
    state = summary.verdict.state
    reasons = "".join(f"<li>{_text(reason.text)}</li>" for reason in summary.verdict.reasons)
    listed = f"<ul>{reasons}</ul>" if reasons else "<p>Nothing speaks against these numbers.</p>"
    return f'<div class="verdict {state}"><strong>Verdict: {state.upper()}</strong>{listed}</div>'


def _counts(summary: Summary) -> str:
    counts, rates = summary.counts, summary.rates
    asked = "" if rates.requested_rps is None else f" of {rates.requested_rps:.4g} asked"
    rows: list[tuple[str, object]] = [
        ("Scheduled", counts.scheduled),
        ("Sent", counts.sent),
        ("Succeeded", counts.succeeded),
        ("Failed", counts.failed),
        *((f"Failed: {kind}", count) for kind, count in sorted(counts.failed_by_kind.items())),
        ("Censored: in flight when the drain ended", counts.censored),
        ("Unsent", counts.unsent),
        ("Requests per second", f"{rates.achieved_rps:.4g}{asked}"),
        ("Output tokens per second", _known(rates.output_tokens_per_second)),
        ("Prompt tokens per second", _known(rates.prompt_tokens_per_second)),
        ("Prompts", prompts_used(summary)),
        ("Tokens counted by", summary.tokens.source or "-"),
        *((f"One {kind}", words) for kind, words in summary.failures.items()),
        *((f"Odd answers: {name}", count) for name, count in summary.warnings.items()),
    ]
    return _facts("Requests in the measured window", rows)


def _known(figure: float | None) -> str:
    return "unknown" if figure is None else f"{figure:.4g}"


def _metrics(summary: Summary) -> str:
    shown = {name: metric for name, metric in summary.metrics.items() if metric.count}
    rows = [
        (
            _LABELS.get(name, name),
            duration(metric.mean),
            *(_percentile(metric, quantile) for quantile in QUANTILES),
            duration(metric.max),
            metric.count,
        )
        for name, metric in shown.items()
    ]
    if not rows:
        return ""
    note = (
        "~ too few samples for this percentile; &gt; a lower bound: requests that failed or never ended would raise it"
    )
    heads = ("", "mean", *(_HEADS[quantile] for quantile in QUANTILES), "max", "samples")
    return _grid("Times", heads, rows) + f'\n<p class="sub">{note}</p>'


def _percentile(metric: Metric, quantile: str) -> str:
    mark = (">" if metric.lower_bound[quantile] else "") + ("" if metric.enough[quantile] else "~")
    return mark + duration(getattr(metric, quantile))


def _replicas(summary: Summary) -> str:
    rows = [
        (name, found.url, found.counts.sent, found.counts.succeeded, found.counts.failed, "yes" * found.left_out)
        for name, found in summary.replicas.items()
    ]
    return _grid("Replicas", ("", "address", "sent", "succeeded", "failed", "left out"), rows, words=(0, 1))


def _ranks(summary: Summary) -> str:
    rows = [
        (rank.rank, rank.host, f"{rank.cpu:.0%}", duration(rank.loop_lag_max_seconds), rank.lost or "")
        for rank in summary.ranks
    ]
    return _grid("Load generator", ("rank", "host", "CPU", "longest loop lag", "lost"), rows, words=(1, 4))


def _environment(summary: Summary) -> str:
    environment = summary.environment
    rows: list[tuple[str, object]] = [
        ("Run", summary.run_id),
        ("tokenstorm", environment.tokenstorm),
        ("Python", environment.python),
        ("Platform", environment.platform),
        ("Hosts", ", ".join(environment.hosts)),
        ("Job", environment.job_id or "-"),
        *((f"Replica {name} says", msgspec.json.encode(said).decode()) for name, said in environment.engine.items()),
        *(("Note", note) for note in environment.notes),
    ]
    return _facts("Where it ran", rows)


def _facts(title: str, rows: Sequence[tuple[str, object]]) -> str:
    """Names and what stands for each."""
    lines = [f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows]
    return f'<h2>{_text(title)}</h2>\n<table class="facts">{"".join(lines)}</table>'


def _grid(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]], words: Sequence[int] = (0,)) -> str:
    """Figures under heads; what is too wide scrolls. `words` are the columns that may hold long texts."""

    def row(tag: str, cells: Sequence[object]) -> str:
        classes = [' class="words"' if column in words else "" for column in range(len(cells))]
        return "".join(f"<{tag}{kind}>{_text(cell)}</{tag}>" for kind, cell in zip(classes, cells, strict=True))

    lines = [f"<tr>{row('th', heads)}</tr>", *(f"<tr>{row('td', cells)}</tr>" for cells in rows)]
    return f'<h2>{_text(title)}</h2>\n<div class="scroll"><table class="grid">{"".join(lines)}</table></div>'


def _text(value: object) -> str:
    """Everything that is shown, fit for a page."""
    return escape(printable(str(value)))
