"""`bench` with several runs: a series from this machine, shown as its runs come."""

import argparse
from pathlib import Path

import uvloop

from tokenstorm.cli.terminal import live, series_exit_code, show_json, show_line, show_text, tell, tell_progress, width
from tokenstorm.errors import RunError, UsageError
from tokenstorm.load import make
from tokenstorm.loadgen.interrupts import handle_signals
from tokenstorm.loadgen.live import Status
from tokenstorm.loadgen.series import SeriesDriver
from tokenstorm.loadgen.variants import Next
from tokenstorm.metrics.points import Point, SeriesSummary
from tokenstorm.options import api_key_of, by_options, plan_of
from tokenstorm.plan import SeriesPlan
from tokenstorm.report.live import live_line
from tokenstorm.report.page import try_page
from tokenstorm.report.series_page import try_series_page
from tokenstorm.report.series_text import point_line, point_name, series_text
from tokenstorm.report.whole import read_summary
from tokenstorm.runs import SeriesPaths, data_home
from tokenstorm.series import read_series
from tokenstorm.series_parts import Series
from tokenstorm.typed_series import search_defaults, typed_series


def series_of(args: argparse.Namespace) -> SeriesPlan | None:
    """The series that the options ask for; None for a single run. Raises `UsageError`."""
    if args.resume is not None:
        return read_series(SeriesPaths(args.resume).series)
    fields = typed_series(args)
    if fields is None:
        return None
    search_defaults(args)
    plan = plan_of(args)
    with by_options():
        return make({"plan": plan, "series": make(fields, Series), "ranks": args.ranks}, SeriesPlan)


def bench_series(series: SeriesPlan, args: argparse.Namespace) -> int:
    """Run a series; its exit code."""
    paths = _paths(series, args)
    with live() as show:

        def started(run: Next, of: int | None) -> None:
            tell_progress(f"run {run.number}{f' of {of}' if of else ''}: {point_name(run.values, run.repeat)}")

        def second(run: Next, status: Status) -> None:
            if show:
                show(f"{run.number}: {live_line(status, width() - 4)}")

        def point(point: Point, _: SeriesSummary) -> None:
            if not args.json:
                show_line(point_line(point))

        driver = SeriesDriver(
            series, paths, api_key=api_key_of(args), on_start=started, on_second=second, on_point=point
        )
        summary = uvloop.run(_run(driver))
    if args.json:
        show_json(summary)
    else:
        show_text(f"{series_text(summary)}\nseries: {paths.root}")
    _make_pages(paths, summary, quiet=args.json)
    if summary.outcome != "completed":
        tell(f"the series was stopped: `tokenstorm bench --resume {paths.root}` goes on with it")
    return series_exit_code(summary)


def _make_pages(paths: SeriesPaths, summary: SeriesSummary, *, quiet: bool) -> None:
    """The report of the series, and of each of its runs."""
    troubles = [try_series_page(paths, summary)]
    for point in summary.points:
        run = paths.run(point.number)
        if not run.report.exists() and (found := read_summary(run)):
            troubles.append(try_page(run, found))
    for trouble in filter(None, troubles):
        tell(trouble)
    if not quiet and not troubles[0]:
        show_line(f"report: {paths.report}")


async def _run(driver: SeriesDriver) -> SeriesSummary:
    with handle_signals(driver):
        return await driver.run()


def _paths(series: SeriesPlan, args: argparse.Namespace) -> SeriesPaths:
    if args.resume is not None:
        return SeriesPaths(args.resume.absolute())
    root: Path = args.run_dir or data_home() / "runs" / series.plan.run_id
    paths = SeriesPaths(root.absolute())
    if paths.series.exists():
        message = f"{paths.root} holds a series already: go on with it with --resume {paths.root}, or name another folder with --run-dir"
        raise RunError(message)
    if (paths.root / "plan.json").exists():
        message = f"{paths.root} holds a run already: name another folder with --run-dir"
        raise RunError(message)
    return paths


def refuse_beside_resume(args: argparse.Namespace) -> None:
    """Raises `UsageError` for a target or a series that is typed beside one to go on with, and for none of both."""
    if args.resume is None:
        if not args.url:
            message = "the following arguments are required: URL"
            raise UsageError(message)
        return
    given = ["URL"] * bool(args.url) + [
        f"--{name.replace('_', '-')}" for name in ("sweep", "search", "repeats", "run_dir") if getattr(args, name)
    ]
    if given:
        message = f"--resume goes on with a series as it was asked for: leave {given[0]} out"
        raise UsageError(message)
