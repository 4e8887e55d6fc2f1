"""Conversations for people: how their sessions arrived and ended, and what each turn was like."""

from tokenstorm.lengths import Pause
from tokenstorm.metrics.summary import Summary, TurnReport
from tokenstorm.plan import Plan
from tokenstorm.report.asked import percent
from tokenstorm.report.figures import figure, many, percentile

TURN_HEADS = (
    "turn",
    "sent",
    "answered",
    "prompt tokens",
    "cached",
    "TTFT p50",
    "TTFT p99",
    "latency p50",
    "latency p99",
)
_WIDTHS = (12, 7, 9, 14, 8, 10, 10, 12, 12)
_NARROW = (0, 1, 2, 3, 4, 5, 8)


def session_arrivals(plan: Plan) -> str:
    """How sessions arrive, where there are some; "" where there are none."""
    talk = plan.conversation
    if talk is None:
        return ""
    think = talk.think_seconds
    mean = f"{think.kind} times" if isinstance(think, Pause) else f"{think:g} s"
    thinking = f", {mean} of thought between turns" if think else ""
    if talk.sessions_per_second is None:
        return f"a session after the other for each client{thinking}"
    return f"{plan.arrival.kind} arrivals of {figure(talk.sessions_per_second)} sessions/s{thinking}"


def session_words(summary: Summary) -> str:
    """How the sessions of the measured window ended; "" where there are none."""
    found = summary.sessions
    if found is None:
        return ""
    parts = [
        (found.completed, "completed"),
        (found.failed, f"ended with a turn that failed{' or was given up' * (summary.plan.cancel is not None)}"),
        (found.too_long, "too long for the model"),
        (found.cut, "cut by the end of the run"),
        (found.unsent, "never begun"),
    ]
    told = "".join(f", {count} {what}" for count, what in parts if count)
    cut = f"; {many(found.turns_cut, 'turn')} never asked" if found.turns_cut else ""
    asked = "" if found.requested_per_second is None else f" of {figure(found.requested_per_second)} asked"
    return f"{found.started} begun{told}{cut} ({figure(found.started_per_second)} sessions/s{asked})"


def turn_cells(turn: TurnReport) -> tuple[str, ...]:
    """The cells of a turn's row, below `TURN_HEADS`."""
    ttft, latency = turn.metrics["ttft_seconds"], turn.metrics["latency_seconds"]
    return (
        f"{turn.turn}{' and later' * turn.and_later}",
        str(turn.counts.sent),
        str(turn.counts.succeeded),
        "-" if turn.prompt_tokens.mean is None else figure(turn.prompt_tokens.mean),
        "-" if turn.cached is None else percent(turn.cached),
        *(percentile(metric, quantile) for metric in (ttft, latency) for quantile in ("p50", "p99")),
    )


def turns_table(summary: Summary, *, wide: bool) -> list[str]:
    """A row for each turn number; nothing outside of conversations."""
    if not summary.turns:
        return []
    shown = range(len(TURN_HEADS)) if wide else _NARROW
    rows = [TURN_HEADS, *map(turn_cells, summary.turns)]
    lines = [f"{row[0]:<{_WIDTHS[0]}}" + "".join(f"{row[at]:>{_WIDTHS[at]}}" for at in shown[1:]) for row in rows]
    return [*lines, ""]
