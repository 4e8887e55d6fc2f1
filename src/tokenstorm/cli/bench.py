"""`bench`: load from this machine, with no services."""

import argparse
import sys
from pathlib import Path

import uvloop

from tokenstorm.cli.panel import screen
from tokenstorm.cli.series import bench_series, refuse_beside_resume, series_of
from tokenstorm.cli.terminal import show_line, show_summary, tell, tell_progress
from tokenstorm.errors import RunError, UsageError
from tokenstorm.loadgen.interrupts import handle_signals
from tokenstorm.loadgen.launcher import Launcher, NotWritten
from tokenstorm.metrics.summary import Summary
from tokenstorm.options import api_key_of, plan_of, refuse_unjudged
from tokenstorm.plan import Plan
from tokenstorm.program import OutputLost
from tokenstorm.report.conditions import refuse_for_series
from tokenstorm.report.formats import format_of, save_as
from tokenstorm.report.page import try_page
from tokenstorm.report.workload import shared_lines, workload_lines
from tokenstorm.runs import RunPaths, data_home


def bench(args: argparse.Namespace) -> int:
    """Load an endpoint from this machine."""
    refuse_beside_resume(args)
    if series := series_of(args):
        refuse_for_series(args.fail_on)
        if args.output:
            message = f"-o {args.output} is for the results of a single run: `tokenstorm report FOLDER -o FILE` writes those of a series"
            raise UsageError(message)
        return bench_series(series, args)
    plan = plan_of(args)
    for line in shared_lines(plan):
        tell_progress(line)
    refuse_unjudged(args, plan.slo)
    return _load(plan, args, api_key_of(args))


def _load(plan: Plan, args: argparse.Namespace, api_key: str | None) -> int:
    form = format_of(args.output) if args.output else None
    paths = _run_paths(args.run_dir, plan)
    try:
        summary = uvloop.run(_run(plan, paths, api_key))
    except NotWritten as error:
        show_summary(error.summary, str(paths.root), as_json=args.json, wide=args.wide)
        raise
    try:
        code = show_summary(summary, str(paths.root), as_json=args.json, fail_on=args.fail_on, wide=args.wide)
        sys.stdout.flush()
    except OutputLost as lost:
        lost.add_note(f"`tokenstorm report {paths.root}` shows the results")
        raise
    finally:
        trouble = try_page(paths, summary)
    if trouble:
        tell(trouble)
    elif not args.json:
        show_line(f"report: {paths.report}")
    if form:
        save_as(form, paths, summary, args.output, args.fail_on)
    return code


def _run_paths(run_dir: Path | None, plan: Plan) -> RunPaths:
    paths = RunPaths((run_dir or data_home() / "runs" / plan.run_id).absolute())
    try:
        str(paths.root).encode()
        taken = paths.plan.exists()
    except UnicodeEncodeError:
        message = f"--run-dir {str(run_dir)!r} must be a name in UTF-8"
        raise UsageError(message) from None
    except OSError as error:
        message = f"cannot use the run directory {paths.root}: {error.strerror}; choose another with --run-dir"
        raise RunError(message) from None
    if taken:
        message = f"{paths.root} holds a run already: name another folder with --run-dir"
        raise RunError(message)
    return paths


async def _run(plan: Plan, paths: RunPaths, api_key: str | None) -> Summary:
    with screen() as shown:
        launcher = Launcher(
            plan,
            paths,
            api_key=api_key,
            on_second=shown.show,
            on_note=tell_progress,
            on_workload=lambda facts: tell_progress("\n".join(workload_lines(facts))),
        )
        with handle_signals(launcher):
            return await launcher.run()
