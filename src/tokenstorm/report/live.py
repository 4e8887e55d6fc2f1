"""A run while it goes on, from what its launcher says: one line, or the lines of a panel. Numbers are left out, never cut off."""

from collections.abc import Sequence
from typing import NamedTuple

from tokenstorm.loadgen.live import Glance, Status
from tokenstorm.printable import printable_line
from tokenstorm.report.figures import duration, figure, many

_LEVELS = "▁▂▃▄▅▆▇█"
_LABEL = 10
_PHASES = {"warmup": "warm-up", "draining": "drain"}


class Line(NamedTuple):
    """One line of the panel. `alarm` marks trouble, `parts` is what stands in it: as much of it is shown as fits."""

    label: str
    parts: Sequence[str]
    alarm: bool = False

    def text(self, columns: int) -> str:
        """The line, at most so many columns wide."""
        line = f"{self.label:<{_LABEL}}{fitting(self.parts, columns - _LABEL, least=1)}"
        return line if len(line) <= columns else f"{line[: columns - 1]}…"


def live_line(status: Status, columns: int = 200) -> str:
    """Time, failures, the rates of the last seconds, in flight, TTFT and latency: as much as fits on one line."""
    if status.opening:
        return f"opening {many(status.opening, 'connection')}, then the load starts"[:columns]
    parts = [f"{status.elapsed_seconds:4.0f} s {_phase(status)}", _failed(status)]
    if status.phase == "draining":
        parts.append("waiting for the last answers, Ctrl-C ends at once")
    if status.ranks_up < status.ranks:
        parts.append(f"{status.ranks - status.ranks_up} of {status.ranks} ranks lost")
    parts += [
        *_rates(status),
        *_doubts(status),
        *_good(status),
        _in_flight(status),
        f"TTFT p50 {duration(status.ttft.p50)} p99 {duration(status.ttft.p99)}",
        f"latency p50 {duration(status.latency.p50)} p99 {duration(status.latency.p99)}",
    ]
    return fitting(parts, columns)


def panel_lines(status: Status, columns: int) -> list[Line]:
    """What the panel shows below its bar."""
    lines = [
        Line("failed", [_failed(status)], alarm=bool(status.failed)),
        *([Line("newest", [printable_line(status.newest_failure)], alarm=True)] if status.newest_failure else []),
        Line(f"last {status.recent.seconds} s", _rates(status)),
        Line("so far", [f"{status.sent} sent", f"{status.succeeded} answered", *_good(status)]),
        *([Line("unsent", [_unsent(status)])] if status.unsent else []),
        Line("in flight", [_in_flight(status)]),
        Line("TTFT", _percentiles(status.ttft)),
        Line("latency", _percentiles(status.latency)),
    ]
    if status.ranks_up < status.ranks:
        lines.append(Line("ranks", [f"{status.ranks - status.ranks_up} of {status.ranks} are lost"], alarm=True))
    if doubts := _doubts(status):
        lines.append(Line("verdict", doubts))
    if status.advice:
        lines.append(Line("too few", [status.advice], alarm=True))
    minute, room = status.minute, max(8, (columns - _LABEL) // 2 - 10)
    pairs = (("sent", minute.sent, "answered", minute.answered), ("TTFT", minute.ttft, "latency", minute.latency))
    for label, first, name, second in pairs:
        lines.append(Line(label, [f"{sparkline(first, room)}  {name} {sparkline(second, room)}"]))
    return lines


def heading(status: Status) -> str:
    """How far the run is, and in which phase."""
    if status.opening:
        return f"opening {many(status.opening, 'connection')}, then the load starts"
    end = status.window_end_seconds
    of = f" of {end:.0f}" if end is not None and status.phase in {"warmup", "measured"} else ""
    hint = ": waiting for the last answers, Ctrl-C ends at once" if status.phase == "draining" else ""
    return f"{status.elapsed_seconds:.0f}{of} s, {_phase(status)}{hint}"


def fitting(parts: Sequence[str], columns: int, least: int = 2) -> str:
    """As many of the parts as fit on a line. The first ones, at `least` so many, are always shown."""
    shown = len(parts)
    while shown > least and len(" · ".join(parts[:shown])) > columns:
        shown -= 1
    return " · ".join(parts[:shown])


def sparkline(values: Sequence[float | None], columns: int) -> str:
    """The last values as blocks between 0 and the highest of them; a space where there is none."""
    shown = values[-columns:]
    highest = max((value for value in shown if value is not None), default=0)
    if not highest:
        return "".join(" " if value is None else _LEVELS[0] for value in shown)
    return "".join(" " if value is None else _LEVELS[round(value / highest * (len(_LEVELS) - 1))] for value in shown)


def _phase(status: Status) -> str:
    return _PHASES.get(status.phase, status.phase)


def _failed(status: Status) -> str:
    kinds = sorted(status.failed_by_kind.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds[:3])
    return f"{status.failed} failed" + (f" ({shown}{', …' if len(kinds) > 3 else ''})" if shown else "")  # noqa: PLR2004 - as above


def _rates(status: Status) -> list[str]:
    recent = status.recent
    asked = "" if recent.asked_rps is None else f" of {figure(recent.asked_rps)} asked"
    return [
        f"sent {recent.sent_rps:.1f}/s{asked}",
        f"answered {recent.answered_rps:.1f}/s",
        f"{recent.output_tokens_per_second:.0f} tok/s",
    ]


def _in_flight(status: Status) -> str:
    of = f" of {status.num_clients}" if status.num_clients else ""
    return f"{status.in_flight}{of} in flight" + (f" +{status.waiting} waiting" if status.waiting else "")


def _unsent(status: Status) -> str:
    own = min(status.unsent, status.unsent_by_generator)
    reasons = ((status.unsent - own, "every client was busy"), (own, "the load generator's fault"))
    return ", ".join(f"{count}: {reason}" for count, reason in reasons if count)


def _doubts(status: Status) -> list[str]:
    """What speaks against the numbers so far."""
    verdict = status.standing.verdict
    if verdict is None or verdict.state == "valid":
        return []
    return [f"{verdict.state} so far ({', '.join(reason.code for reason in verdict.reasons)})"]


def _good(status: Status) -> list[str]:
    return [] if status.goodput is None else [f"{status.goodput:.1%} good"]


def _percentiles(times: Glance) -> list[str]:
    return [f"p50 {duration(times.p50)}", f"p90 {duration(times.p90)}", f"p99 {duration(times.p99)}"]
