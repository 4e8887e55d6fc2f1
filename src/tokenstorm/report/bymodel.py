"""What the report tells of each of several models."""

from typing import Final

from tokenstorm.metrics.summary import Summary
from tokenstorm.report.asked import percent
from tokenstorm.report.figures import figure, percentile

HEADS: Final = ("model", "sent", "failed", "done/s", "TTFT p50", "TTFT p99", "lat. p50", "lat. p99", "good")
_NAME: Final = 17
_CELL: Final = 9


def model_rows(summary: Summary) -> list[tuple[object, ...]]:
    """A row under `HEADS` for each of several models; none where there is one."""
    return [
        (
            name,
            model.counts.sent,
            model.counts.failed,
            figure(model.achieved_rps),
            *(
                percentile(model.metrics[time], quantile)
                for time in ("ttft_seconds", "latency_seconds")
                for quantile in ("p50", "p99")
            ),
            "-" if model.goodput is None else percent(model.goodput),
        )
        for name, model in summary.models.items()
    ]


def models_table(summary: Summary) -> list[str]:
    """The same as text."""
    rows = model_rows(summary)
    lines = [f"{name:<{_NAME}}" + "".join(f"{cell:>{_CELL}}" for cell in cells) for name, *cells in (HEADS, *rows)]
    return [*lines, ""] if rows else []
