"""A run that is watched: from events to one line."""

from collections.abc import Callable

from tokenstorm.api.group_answers import Change, Second
from tokenstorm.report.figures import duration
from tokenstorm.report.text import fitting


class Watching:
    """Shows each event as one line of at most `columns()` characters, if there is somebody to show it to."""

    def __init__(self, show: Callable[[str], None] | None, columns: Callable[[], int]) -> None:
        self._show = show
        self._columns = columns

    def see(self, event: Change | Second) -> None:
        """The next event."""
        if self._show:
            self._show(second_line(event, self._columns()) if isinstance(event, Second) else change_line(event))


def change_line(change: Change) -> str:
    """A status and its reason."""
    how = change.outcome or change.status
    return f"group {change.group_id} is {how}" + (f": {change.reason}" if change.reason else "")


def second_line(second: Second, columns: int = 200) -> str:
    """One second: how many failed since the start, what speaks against its numbers, rate, in flight, TTFT and latency: so much of it as fits."""
    asked = f"/{second.target_rps:.4g}" if second.target_rps else ""
    waiting = f" +{second.waiting} waiting" if second.waiting else ""
    parts = [
        f"{second.t:4d} s {second.phase}",
        f"{second.so_far.failed} failed",
        f"{second.succeeded}{asked} req/s",
        f"{second.output_tokens} tok/s",
        f"{second.in_flight} in flight{waiting}",
        f"TTFT p50 {duration(second.ttft.p50)} p99 {duration(second.ttft.p99)}",
        f"latency p50 {duration(second.latency.p50)} p99 {duration(second.latency.p99)}",
    ]
    if second.so_far.goodput is not None:
        parts.insert(2, f"{second.so_far.goodput:.1%} good")
    if (verdict := second.so_far.verdict) and verdict.state != "valid":
        parts.insert(2, f"{verdict.state} so far ({', '.join(reason.code for reason in verdict.reasons)})")
    return fitting(parts, columns)
