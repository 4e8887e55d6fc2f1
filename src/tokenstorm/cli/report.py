"""What runs left on this machine: `report` for one of them, `runs` for all."""

import argparse
import sys

import msgspec

from tokenstorm.cli.terminal import (
    exit_code_of,
    series_exit_code,
    show_json,
    show_line,
    show_summary,
    show_table,
    show_text,
    tell,
)
from tokenstorm.errors import PlanError, RunError, UsageError
from tokenstorm.metrics.summary import Metric
from tokenstorm.plan import Plan, read_plan
from tokenstorm.report.conditions import refuse_for_series
from tokenstorm.report.figures import figure, percentile
from tokenstorm.report.formats import Format, format_of, save_as, write_as
from tokenstorm.report.life import life_of
from tokenstorm.report.load import load_summary
from tokenstorm.report.series_page import made_series_page
from tokenstorm.report.series_text import series_text
from tokenstorm.report.sides import find_runs, newest_first
from tokenstorm.report.whole import read_series_summary, read_summary
from tokenstorm.runs import RunPaths, SeriesPaths, data_home, write_atomically


def report(args: argparse.Namespace) -> int:
    """The numbers of a run, from its files."""
    form = _form(args)
    paths = RunPaths(find_runs(args.run_dir))
    if SeriesPaths(paths.root).series.exists():
        refuse_for_series(args.fail_on)
        return _report_series(args, form, SeriesPaths(paths.root))
    life = life_of(paths)
    summary = load_summary(paths, rebuild=args.rebuild, goes_on=life.goes_on)
    code = exit_code_of(summary, args.fail_on)
    if target := args.output or (paths.report if form == "html" else None):
        save_as(form, paths, summary, target, args.fail_on)
        show_line(str(target))
    elif form in {"text", "json"}:
        show_summary(summary, str(paths.root), as_json=form == "json", wide=args.wide)
    else:
        write_as(form, paths, summary, sys.stdout.buffer, args.fail_on)
    if life.doubt:
        tell(life.doubt)
    return code


def _report_series(args: argparse.Namespace, form: Format, paths: SeriesPaths) -> int:
    """The same of a series: its points and its answer."""
    if form not in {"text", "json", "html"}:
        message = f"{paths.root} is a series, of which there is text, json and html: for {form} name one of its runs, {paths.run(1).root}"
        raise UsageError(message)
    summary = read_series_summary(paths)
    if summary is None or not summary.points:
        message = f"no run of the series in {paths.root} is complete yet"
        raise RunError(message)
    if form == "html":
        made = made_series_page(summary)
    elif form == "json":
        made = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
    else:
        made = f"{series_text(summary)}\nseries: {paths.root}\n".encode()
    if target := args.output or (paths.report if form == "html" else None):
        try:
            write_atomically(target, made)
        except OSError as error:
            message = f"cannot write {target}: {error.strerror}"
            raise RunError(message) from None
        show_line(str(target))
    elif form == "json":
        show_json(summary)
    else:
        show_text(made.decode())
    return series_exit_code(summary)


def _form(args: argparse.Namespace) -> Format:
    form: Format
    if args.json:
        form = "json"
    elif args.format:
        form = args.format
    else:
        form = format_of(args.output) if args.output else "text"
    if form == "parquet" and args.output is None:
        message = "Parquet is no text: name the file for it with -o"
        raise UsageError(message)
    return form


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run in the list. What only a summary tells is None without one."""

    run_id: str
    name: str = ""
    started_at: str | None = None
    model: str | None = None
    simulated: bool = False
    state: str
    """The verdict, or why there is none."""
    succeeded: int | None = None
    scheduled: int | None = None
    achieved_rps: float | None = None
    output_tokens_per_second: float | None = None
    ttft: Metric | None = None
    latency: Metric | None = None
    run_dir: str


def runs(args: argparse.Namespace) -> int:
    """All runs on this machine, the newest first."""
    rows = [_row(paths) for paths in newest_first(data_home() / "runs")]
    if args.json:
        show_json({"runs": rows, "count": len(rows)})
        return 0
    heads = ("RUN", "STARTED", "NAME", "MODEL", "VERDICT", "SUCCEEDED", "REQ/S", "TOK/S", "TTFT P99", "LATENCY P99")
    show_table(heads, [_cells(row) for row in rows])
    return 0


def _row(paths: RunPaths) -> RunRow:
    try:
        plan: Plan | None = read_plan(paths.plan)
    except PlanError:
        plan = None
    name, run_id = (plan.name, plan.run_id) if plan else ("", paths.root.name)
    try:
        summary = read_summary(paths)
    except (RunError, OSError):
        return RunRow(run_id=run_id, name=name, state="unreadable", run_dir=str(paths.root))
    if summary is None:
        state = "running" if life_of(paths).goes_on else "no summary"
        return RunRow(
            run_id=run_id, name=name, model=plan.model if plan else None, state=state, run_dir=str(paths.root)
        )
    return RunRow(
        run_id=summary.run_id,
        name=summary.plan.name,
        started_at=summary.started_at,
        model=summary.environment.model,
        simulated=summary.environment.simulated,
        state=summary.verdict.state,
        succeeded=summary.counts.succeeded,
        scheduled=summary.counts.scheduled,
        achieved_rps=summary.rates.achieved_rps,
        output_tokens_per_second=summary.rates.output_tokens_per_second,
        ttft=summary.metrics["ttft_seconds"],
        latency=summary.metrics["latency_seconds"],
        run_dir=str(paths.root),
    )


def _cells(row: RunRow) -> tuple[object, ...]:
    started = row.started_at and row.started_at.partition(".")[0].replace("T", " ")
    counts = None if row.scheduled is None else f"{row.succeeded}/{row.scheduled}"
    return (
        row.run_id[:8],
        started,
        row.name or None,
        (row.model or "?") + " (simulated)" * row.simulated,
        row.state,
        counts,
        None if row.achieved_rps is None else figure(row.achieved_rps),
        None if row.achieved_rps is None else figure(row.output_tokens_per_second),
        row.ttft and percentile(row.ttft, "p99"),
        row.latency and percentile(row.latency, "p99"),
    )
