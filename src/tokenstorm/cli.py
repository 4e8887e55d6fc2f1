"""The `tokenstorm` command."""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import uvloop

from tokenstorm import __version__
from tokenstorm.errors import RunError, TokenstormError, UsageError
from tokenstorm.loadgen.launcher import Launcher, NotWritten, handle_signals
from tokenstorm.loadgen.live import Status
from tokenstorm.metrics.summary import Summary
from tokenstorm.options import add_load_options, api_key_of, plan_of
from tokenstorm.plan import Plan
from tokenstorm.report.load import load_summary
from tokenstorm.report.text import live_line, summary_text
from tokenstorm.runs import RunPaths, data_home
from tokenstorm.simulator import __main__ as simulator

INVALID = 3
INTERRUPTED = 128 + signal.SIGINT
DEMO_LOAD = "--num-clients 50 --requests-per-second 20 --duration 10 --warmup 2 --max-tokens 64"


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 wrong usage, 3 done but the verdict is `invalid`."""
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.run
    try:
        code = command(args)
        sys.stdout.flush()
    except TokenstormError as error:
        sys.stderr.write(f"tokenstorm: {error}\n")
        return error.exit_code
    except BrokenPipeError:  # whoever read the output has gone; nothing must be written at the exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokenstorm", description="Load tests of AI inference services.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"tokenstorm {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    bench = commands.add_parser("bench", help="load an endpoint from this machine", allow_abbrev=False)
    bench.add_argument(
        "url",
        nargs="+",
        metavar="URL",
        help="of an OpenAI-compatible service, with or without /v1; several are replicas",
    )
    add_load_options(bench)
    _add_run_options(bench)
    bench.set_defaults(run=_bench)

    report = commands.add_parser("report", help="the numbers of a run, from its files", allow_abbrev=False)
    report.add_argument("run_dir", metavar="RUN", help="a run directory, or a run id")
    report.add_argument("--rebuild", action="store_true", help="from the result lines, even if there is a summary")
    report.add_argument("--json", action="store_true", help="print the summary as JSON")
    report.set_defaults(run=_report)

    sim = commands.add_parser("sim", help="a simulated engine that costs no GPU", allow_abbrev=False)
    simulator.add_arguments(sim)
    sim.set_defaults(run=simulator.run)

    demo = commands.add_parser(
        "demo", help="everything on this machine: a simulated engine, load, results", allow_abbrev=False
    )
    _add_run_options(demo)
    demo.set_defaults(run=_demo)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where the run's files go (a new folder in the data folder)"
    )
    parser.add_argument("--record-chunks", action="store_true", help="keep the time of every chunk in the result lines")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")


def _bench(args: argparse.Namespace) -> int:
    plan = plan_of(args)
    return _load(plan, args, api_key_of(args))


def _load(plan: Plan, args: argparse.Namespace, api_key: str | None) -> int:
    paths = _run_paths(args.run_dir, plan)
    try:
        summary = uvloop.run(_run(plan, paths, api_key))
    except NotWritten as error:
        _show(error.summary, paths, as_json=args.json)
        raise
    return _show(summary, paths, as_json=args.json)


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
    with _live_line() as show:
        launcher = Launcher(plan, paths, api_key=api_key, on_second=show)
        with handle_signals(launcher):
            return await launcher.run()


@contextlib.contextmanager
def _live_line() -> Iterator[Callable[[Status], None] | None]:
    """One line that is written over each second, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(status: Status) -> None:
        line = live_line(status, shutil.get_terminal_size().columns - 1)
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")


def _show(summary: Summary, paths: RunPaths, *, as_json: bool) -> int:
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    else:
        sys.stdout.write(f"{summary_text(summary)}\nrun: {paths.root}\n")
    return INVALID if summary.verdict.state == "invalid" else 0


def _report(args: argparse.Namespace) -> int:
    root = Path(args.run_dir)
    if not root.exists() and (data_home() / "runs" / args.run_dir).exists():
        root = data_home() / "runs" / args.run_dir
    paths = RunPaths(root)
    return _show(load_summary(paths, rebuild=args.rebuild), paths, as_json=args.json)


def _demo(args: argparse.Namespace) -> int:
    """Deploy the simulator as a process of its own, load it, show the results, and stop it again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="+")
    add_load_options(parser)

    async def demo() -> tuple[Summary, RunPaths]:
        say = _progress(quiet=args.json)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tokenstorm.simulator",
            "--port",
            "0",
            "--preset",
            "medium",
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for the load, which then drains
        )
        try:
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
            if not line:
                message = "the simulated engine did not start"
                raise RunError(message)
            say(line.strip())
            url = line.split(" at ")[1].split()[0]
            say(f"tokenstorm bench {url} {DEMO_LOAD}")
            options = parser.parse_args(
                [url, *DEMO_LOAD.split()], namespace=argparse.Namespace(record_chunks=args.record_chunks)
            )
            plan = plan_of(options)
            paths = _run_paths(args.run_dir, plan)
            return await _run(plan, paths, None), paths
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    summary, paths = uvloop.run(demo())
    return _show(summary, paths, as_json=args.json)


def _progress(*, quiet: bool) -> Callable[[str], None]:
    def say(line: str) -> None:
        if not quiet:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    return say
