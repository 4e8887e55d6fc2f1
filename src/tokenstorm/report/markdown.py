"""A run as Markdown that fits a pull request. What a server or a user wrote is code: no link, no mention, no HTML."""

import re
from collections.abc import Iterable, Sequence

from tokenstorm.metrics.summary import QUANTILES, Summary
from tokenstorm.printable import printable_line
from tokenstorm.report.asked import percent
from tokenstorm.report.certainty import certain_lines, steady_words
from tokenstorm.report.figures import SIMULATED, duration, figure, percentile
from tokenstorm.report.first import load_words, title_of
from tokenstorm.report.rates import rate_words, unsent_words
from tokenstorm.report.talks import TURN_HEADS, session_words, turn_cells

MOST_LETTERS = 160
"""Of a failure's words."""
_ROWS = {
    "ttft_seconds": "TTFT",
    "tpot_seconds": "TPOT",
    "inter_chunk_seconds": "inter-chunk",
    "latency_seconds": "latency, from schedule",
    "service_time_seconds": "latency, from send",
}


def summary_markdown(summary: Summary) -> str:
    """Verdict, headline numbers, times and failures."""
    plan, counts, rates = summary.plan, summary.counts, summary.rates
    seconds = summary.windows.measured_end - summary.windows.measured_start
    share = percent(counts.succeeded / counts.scheduled) if counts.scheduled else "-"
    lines = [
        f"### {_code(title_of(summary))}: {summary.verdict.state}",
        "",
        *([f"**{SIMULATED}**", ""] * summary.environment.simulated),
        f"{_code(summary.environment.model or 'model unknown')} at {_code(plan.targets[0].url)}"
        + (f" and {len(plan.targets) - 1} more" if len(plan.targets) > 1 else "")
        + f"; {load_words(plan)}; {round(seconds, 3):g} s measured; {summary.started_at or 'start unknown'}",
        "",
        f"- requests: {rate_words(summary)}; {share} of {counts.scheduled} succeeded",
        f"- {figure(rates.output_tokens_per_second)} output tokens/s, {figure(rates.prompt_tokens_per_second)} prompt tokens/s",
        *(f"- {summary.verdict.state}: {_code(reason.text)}" for reason in summary.verdict.reasons),
        *(
            f"- {count} failed with {_code(kind)}: {_code(summary.failures.get(kind, ''))}"
            for kind, count in counts.failed_by_kind.items()
        ),
        *([f"- {counts.cancelled} were given up, as was asked"] if counts.cancelled else []),
        *([f"- sessions: {sessions}"] if (sessions := session_words(summary)) else []),
        *([f"- {counts.censored} were in flight when the drain ended"] if counts.censored else []),
        *([f"- {counts.unsent} were not sent ({unsent})"] if (unsent := unsent_words(summary)) else []),
        *([f"- {steady_words(summary.steady)}"] if summary.steady and not summary.steady.fault else []),
        *(f"- likely: {line}" for line in certain_lines(summary)),
        "",
        *_times(summary),
        *_turns(summary),
        f"run {summary.run_id}, tokenstorm {_code(summary.environment.tokenstorm)}",
    ]
    return "\n".join(lines) + "\n"


def _times(summary: Summary) -> list[str]:
    rows = [
        [label, *(percentile(metric, quantile) for quantile in QUANTILES), duration(metric.max), str(metric.count)]
        for name, label in _ROWS.items()
        if (metric := summary.metrics[name]).count
    ]
    if not rows:
        return []
    heads = ["", "p50", "p90", "p95", "p99", "p99.9", "max", "samples"]
    marks = [cell[0] for row in rows for cell in row if cell.startswith(("~", ">"))]
    note = ["`~` too few samples for this percentile; `>` a lower bound"] if marks else []
    return [*_table(heads, rows), *note, ""]


def _turns(summary: Summary) -> list[str]:
    """A row for each turn number of conversations."""
    return _table(TURN_HEADS, [turn_cells(turn) for turn in summary.turns]) if summary.turns else []


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return [
        *(f"| {' | '.join(cell.replace('>', '&gt;').replace('~', '&#126;') for cell in line)} |" for line in lines),
        "",
    ]


def _code(text: str) -> str:
    """A text in as many backticks as none of its own can end; empty where it says nothing."""
    shown = printable_line(text)
    shown = shown if len(shown) <= MOST_LETTERS else f"{shown[:MOST_LETTERS]} …"
    if not shown.strip():
        return "-"
    ticks = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    return f"{ticks} {shown} {ticks}" if "`" in shown else f"`{shown}`"
