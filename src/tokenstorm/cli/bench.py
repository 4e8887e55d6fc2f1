"""Load from this machine, with no services: `bench` and `report`."""

import argparse
import sys
from pathlib import Path

import uvloop

from tokenstorm.cli.terminal import live, show_summary, tell, width
from tokenstorm.errors import RunError, UsageError
from tokenstorm.loadgen.launcher import Launcher, NotWritten, handle_signals
from tokenstorm.metrics.summary import Summary
from tokenstorm.options import api_key_of, plan_of, refuse_unjudged
from tokenstorm.plan import Plan
from tokenstorm.program import OutputLost
from tokenstorm.report.life import life_of
from tokenstorm.report.load import load_summary
from tokenstorm.report.text import live_line
from tokenstorm.runs import RunPaths, data_home


def bench(args: argparse.Namespace) -> int:
    """Load an endpoint from this machine."""
    plan = plan_of(args)
    refuse_unjudged(args, plan.slo)
    return _load(plan, args, api_key_of(args))


def _load(plan: Plan, args: argparse.Namespace, api_key: str | None) -> int:
    paths = _run_paths(args.run_dir, plan)
    try:
        summary = uvloop.run(_run(plan, paths, api_key))
    except NotWritten as error:
        show_summary(error.summary, str(paths.root), as_json=args.json)
        raise
    try:
        code = show_summary(summary, str(paths.root), as_json=args.json, fail_on=args.fail_on)
        sys.stdout.flush()
    except OutputLost as lost:
        lost.add_note(f"`tokenstorm report {paths.root}` shows the results")
        raise
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
    with live() as show:
        each_second = (lambda status: show(live_line(status, width()))) if show else None
        launcher = Launcher(plan, paths, api_key=api_key, on_second=each_second)
        with handle_signals(launcher):
            return await launcher.run()


def _found(name: str) -> Path:
    """The folder of a run: a path, or a run id or the beginning of one."""
    folder, runs = Path(name), data_home() / "runs"
    if folder.exists():
        return folder
    found = [one for one in runs.glob("*") if one.name.startswith(name)]
    if len(found) != 1:
        which = f"{len(found)} runs begin so" if found else "it is no folder, and no run begins so"
        message = f"{name}: {which} in {runs}"
        raise RunError(message)
    return found[0]


def report(args: argparse.Namespace) -> int:
    """The numbers of a run, from its files."""
    paths = RunPaths(_found(args.run_dir))
    if paths.root.is_file():
        message = f"{paths.root} is a file: give the folder of the run, {paths.root.parent}"
        raise UsageError(message)
    life = life_of(paths)
    summary = load_summary(paths, rebuild=args.rebuild, goes_on=life.goes_on)
    code = show_summary(summary, str(paths.root), as_json=args.json, fail_on=args.fail_on)
    if life.doubt:
        tell(life.doubt)
    return code
