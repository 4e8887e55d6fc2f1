"""`python -m tokenstorm.loadgen run plan.json`: a run on its own, beside its plan. `… rank`: one rank of it.

`… series series.json`: a series of them; what is there of it already is not run again.
"""

import argparse
import sys
from pathlib import Path

import msgspec
import uvloop

from tokenstorm.errors import NOT_JSON, TokenstormError, UsageError, fault
from tokenstorm.loadgen.interrupts import handle_signals
from tokenstorm.loadgen.launcher import Launcher
from tokenstorm.loadgen.process import run_rank
from tokenstorm.loadgen.series import SeriesDriver
from tokenstorm.plan import read_plan
from tokenstorm.runs import RunPaths, SeriesPaths
from tokenstorm.series import read_series


class Secrets(msgspec.Struct, forbid_unknown_fields=True):
    """`secrets.json` beside the plan, if there is one: the engine's key and the secret of the launcher's port."""

    api_key: str | None = None
    launcher: str | None = None


def read_secrets(path: Path) -> Secrets:
    """Read and check a secrets file; without one there are no secrets."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Secrets)
    except FileNotFoundError:
        return Secrets()
    except NOT_JSON as error:
        message = f"{path}: {fault(error)}"
        raise UsageError(message) from None
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise UsageError(message) from None


async def run(plan_path: Path) -> int:
    """Carry out a plan in the folder it lies in. Returns the exit code."""
    paths = RunPaths(plan_path.parent)
    try:
        plan, known = read_plan(plan_path), read_secrets(paths.secrets)
        launcher = Launcher(plan, paths, api_key=known.api_key, secret=known.launcher)
        with handle_signals(launcher):
            summary = await launcher.run()
    finally:
        paths.secrets.unlink(missing_ok=True)
    sys.stdout.write(f"{summary.verdict.state}: {paths.summary}\n")
    return 3 if summary.verdict.state == "invalid" else 0


async def run_series(path: Path) -> int:
    """Carry out a series in the folder it lies in. Returns the exit code."""
    paths, secrets = SeriesPaths(path.parent), path.with_name("secrets.json")
    try:
        known = read_secrets(secrets)
        driver = SeriesDriver(read_series(path), paths, api_key=known.api_key, secret=known.launcher)
        with handle_signals(driver):
            summary = await driver.run()
    finally:
        secrets.unlink(missing_ok=True)
    sys.stdout.write(f"{summary.outcome}, {len(summary.points)} runs: {paths.summary}\n")
    return 0 if summary.outcome == "completed" else 1


def main() -> int:
    """Parse the command line and run. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tokenstorm.loadgen", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="carry out a plan").add_argument("plan", type=Path)
    commands.add_parser("series", help="carry out a series, or go on with it").add_argument("series", type=Path)
    commands.add_parser("rank", help="one rank; the launcher starts these")
    args = parser.parse_args()
    work = {
        "run": lambda: run(args.plan),
        "series": lambda: run_series(args.series),
        "rank": run_rank,
    }[args.command]()
    try:
        return uvloop.run(work)
    except TokenstormError as error:
        sys.stderr.write(f"tokenstorm: {error}\n")
        return error.exit_code
