"""A comparison as text, and as Markdown: what differs, then each number with its difference and how sure that is."""

from collections.abc import Sequence

from tokenstorm.metrics.intervals import Interval
from tokenstorm.printable import printable_line
from tokenstorm.report.comparing import Compared, Comparison, Versus
from tokenstorm.report.figures import SIMULATED, many, measured

HEADS = ("", "first", "second", "change", "95 % interval", "p", "")
_CHANGES = {"better": "better", "worse": "WORSE", "same": "no difference shown", "unknown": "too little to tell"}
FOOT = (
    "p: how likely so great a difference is by chance (Welch's test), corrected for the number of rows (Holm); "
    "* a side is one run: weaker."
)
MOST_NOTES = 6


def comparison_text(found: Comparison) -> str:
    """The whole comparison for a terminal."""
    lines = [f"*** {SIMULATED} ***", ""] if found.simulated else []
    for one in found.versus:
        lines += [
            f"first   {found.first} ({many(found.runs, 'run')})",
            f"second  {one.name} ({many(one.runs, 'run')})",
            "",
        ]
        lines += [*differing_lines(one), ""]
        for point in one.points:
            if point.values != "{}":
                lines.append(f"at {point.values}")
            lines += [*_aligned([HEADS, *map(cells, point.measures)]), ""]
        lines += [f"REGRESSION  {text}" for text in one.regressions] + [""] * bool(one.regressions)
    lines += [FOOT, *(f"note: {text}" for text in notes(found))]
    return "\n".join(map(printable_line, lines))


def notes(found: Comparison) -> list[str]:
    """The notes, no more than fit."""
    more = len(found.notes) - MOST_NOTES
    return [*found.notes[:MOST_NOTES], *([f"and {more} more"] if more > 0 else [])]


def differing_lines(one: Versus) -> list[str]:
    """In what the two differ."""
    if not one.differs:
        return ["nothing else differs: the same load, engine, machines and versions"]
    return ["what differs:", *(f"  {it.what}, {it.name}: {it.first} -> {it.second}" for it in one.differs)]


def cells(one: Compared) -> tuple[str, ...]:
    """A row: label, both values, the change with its interval, p, and what it means."""
    apart = one.difference
    change = interval = "-"
    if apart:
        change = measured(apart.value, one.unit, signed=True) if apart.ratio is None else f"{apart.ratio:+.1%}"
        interval = (
            _shares(apart.ratio_ci)
            if apart.ratio_ci
            else f"{measured(apart.ci.low, one.unit, signed=True)} to {measured(apart.ci.high, one.unit, signed=True)}"
        )
    return (
        one.label,
        measured(one.first.value, one.unit),
        measured(one.second.value, one.unit),
        change,
        interval,
        "-" if one.p is None else f"{one.p:.3f}" if one.p >= 0.001 else "<0.001",  # noqa: PLR2004 - three digits
        _CHANGES[one.change] + "*" * one.weak,
    )


def _shares(interval: Interval) -> str:
    return f"{interval.low:+.1%} to {interval.high:+.1%}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if place in {0, len(row) - 1} else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def comparison_markdown(found: Comparison) -> str:
    """The whole comparison for a pull request."""
    lines = [f"**{SIMULATED}**", ""] if found.simulated else []
    for one in found.versus:
        state = "regression" if one.regressions else "no regression"
        lines += [f"### `{_code(one.name)}` against `{_code(found.first)}`: {state}", ""]
        lines += [f"- **{_escaped(text)}**" for text in one.regressions]
        lines += [f"- {_escaped(text.strip())}" for text in differing_lines(one)] + [""]
        for point in one.points:
            lines += [f"At `{_code(point.values)}`:", ""] if point.values != "{}" else []
            lines += [_row(("number", *HEADS[1:-1], "result")), _row(["---"] * len(HEADS))]
            lines += [*map(_row, map(cells, point.measures)), ""]
    lines += [FOOT, "", *(f"- {_escaped(text)}" for text in notes(found))]
    return "\n".join(lines) + "\n"


def _row(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"


def _code(text: str) -> str:
    return printable_line(text).replace("`", "'")


def _escaped(text: str) -> str:
    return f"`{_code(text)}`"
