"""`compare`: did it get worse? And `baseline`: the runs to compare with, under a name."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tokenstorm.cli.terminal import show_json, show_line, show_table, show_text
from tokenstorm.errors import RunError, UsageError
from tokenstorm.report.baselines import baselines, read_baseline, remove_baseline, set_baseline
from tokenstorm.report.compare_html import comparison_page
from tokenstorm.report.compare_text import comparison_markdown, comparison_text
from tokenstorm.report.comparing import Comparison
from tokenstorm.report.comparing import compare as hold_against
from tokenstorm.report.conditions import change_of
from tokenstorm.report.junit import comparison_junit
from tokenstorm.report.sides import Side, read_side

REGRESSED = 4


def compare(args: argparse.Namespace) -> int:
    """Hold runs against the first, or against a baseline; 4 where one of --fail-if came true."""
    conditions = [change_of(text) for text in args.fail_if]
    if len(args.runs) < (1 if args.baseline else 2):
        message = "compare wants two runs, or one and --baseline NAME"
        raise UsageError(message)
    sides = [read_baseline(args.baseline)] if args.baseline else []
    sides += [read_side(name) for name in args.runs]
    found = hold_against(sides[0], sides[1:], conditions, force=args.force)
    _show(found, sides, args.fail_if, _form(args), args.output)
    return REGRESSED if found.regressed else 0


def _form(args: argparse.Namespace) -> str:
    """What was asked for, or what the name of the file tells."""
    by_name = {".json": "json", ".md": "md", ".html": "html", ".xml": "junit", ".txt": "text"}
    form = "json" if args.json else args.format or (by_name.get(args.output.suffix.lower()) if args.output else "text")
    if form is None:
        message = f"-o {args.output}: end its name with one of {', '.join(by_name)}, or give --format"
        raise UsageError(message)
    if form == "html" and args.output is None:
        message = "a page is no text: name the file for it with -o"
        raise UsageError(message)
    return str(form)


def _show(found: Comparison, sides: Sequence[Side], fail_if: Sequence[str], form: str, output: Path | None) -> None:
    if form == "json" and output is None:
        show_json(found)
        return
    match form:
        case "json":
            text = msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
        case "md":
            text = comparison_markdown(found)
        case "html":
            text = comparison_page(found, sides)
        case "junit":
            text = comparison_junit(found, fail_if)
        case _:
            text = comparison_text(found) + "\n"
    if output is None:
        show_text(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"cannot write {output}: {error.strerror}; name another file with -o"
        raise RunError(message) from None
    show_line(str(output))


def baseline_set(args: argparse.Namespace) -> int:
    """Keep runs under a name."""
    told = set_baseline(args.name, args.kept)
    if args.json:
        show_json(told)
    else:
        show_line(f"baseline {told.name}: {len(told.values)} of {told.source}")
    return 0


def baseline_list(args: argparse.Namespace) -> int:
    """All baselines."""
    found = baselines()
    if args.json:
        show_json({"baselines": found, "count": len(found)})
        return 0
    rows = [
        (one.name, one.set_at, (one.model or "?") + " (simulated)" * one.simulated, len(one.values), one.source)
        for one in found
    ]
    show_table(("NAME", "SET", "MODEL", "RUNS", "FROM"), rows)
    return 0


def baseline_remove(args: argparse.Namespace) -> int:
    """Forget a baseline."""
    remove_baseline(args.name)
    if args.json:
        show_json({"removed": args.name})
    else:
        show_line(f"baseline {args.name} is removed")
    return 0
