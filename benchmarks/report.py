"""What is made of a large run against its bars: report.html and Parquet, each by a command of its own.

    python benchmarks/report.py [--requests 1000000] [--forms html,parquet,csv]

The run's files are written by hand: an hour at a constant rate, an answer in 30 to 1500 ms, 1% timeouts.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from msgspec.structs import replace

from measuring import say
from page import second
from tokenstorm.loadgen.arrivals import mean_rate
from tokenstorm.metrics.rebuild import tally_of
from tokenstorm.metrics.reports import Environment, RankReport
from tokenstorm.metrics.summarize import Run, summarize
from tokenstorm.plan import encode_plan, make_plan
from tokenstorm.result import SCHEMA, Failure, Result, encode_result
from tokenstorm.runs import RunPaths

SECONDS_BAR, MEMORY_BAR, SIZE_BAR = 20.0, 500e6, 5e6
"""Of report.html of a million requests."""
HOUR = 3600


def write_run(root: Path, requests: int) -> None:
    """The folder of a run that is over."""
    rng, paths, gap = random.Random(1), RunPaths(root), HOUR * 10**9 // requests
    asked = {
        "run_id": "f" * 32,
        "targets": [{"replica": "0", "url": "http://127.0.0.1:1"}],
        "prompts": {"kind": "list", "prompts": ["hello"]},
        "num_clients": 1000,
        "seed": 1,
        "requests_per_second": requests / HOUR,
        "duration_seconds": float(HOUR),
    }
    plan = make_plan(asked)
    replica, end = plan.targets[0].replica, HOUR * 10**9
    root.mkdir(parents=True)
    paths.plan.write_bytes(encode_plan(plan))
    with paths.results(0, 0).open("wb") as file:
        for seq in range(requests):
            due = seq * gap
            first, tokens = due + rng.randint(3 * 10**7, 10**8), rng.randint(2, 64)
            last = first + tokens * 2 * 10**7
            failed = Failure("timeout", "no answer in 120 s") if seq % 100 == 99 else None
            result = Result(SCHEMA, seq, 0, replica, "measured", due, due, due + 10**5, done=last, error=failed)
            if not failed:
                result = replace(result, first_token=first, last_token=last, output_tokens=tokens)
            file.write(encode_result(result) + b"\n")
    with paths.timeline.open("wb") as file:
        file.writelines(msgspec.json.encode(second(t)) + b"\n" for t in range(HOUR))
    run = Run(
        plan=plan,
        outcome="completed",
        window_end=end,
        requested_rps=mean_rate(plan, end),
        started_at="2026-01-01T00:00:00.000+00:00",
        ended_at="2026-01-01T01:00:00.000+00:00",
        ranks=[RankReport(rank=0, host="n1", start_monotonic_ns=0)],
        waited_below_cap=0,
        unsent_by_lost_ranks=0,
        left_out=[],
        environment=Environment(model="m"),
    )
    tally = tally_of({0: paths.results(0, 0)}, plan, end, lambda _: None)
    paths.summary.write_bytes(msgspec.json.encode(summarize(run, tally)))


def measured(root: Path, form: str) -> tuple[float, float, int, int]:
    """Seconds, those of them on a core, the most bytes of memory, and bytes of the file that `tokenstorm report` made."""
    target = root / f"made.{form}"
    argv = [sys.executable, "-m", "tokenstorm", "report", str(root), "--format", form, "-o", str(target)]
    began = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, code, used = os.wait4(process.pid, 0)
    assert code == 0, json.dumps(argv)
    return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, target.stat().st_size


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--forms", default="html,parquet")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "run"
        write_run(root, args.requests)
        sys.stdout.write(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        for form in args.forms.split(","):
            took, cpu, memory, size = measured(root, form)
            say(f"{form} of {args.requests} requests: time", took, SECONDS_BAR)
            say("  of it on a core, which other work does not lengthen", cpu, SECONDS_BAR)
            say("  memory", memory, MEMORY_BAR)
            if form == "html":
                say("  size", size, SIZE_BAR)


if __name__ == "__main__":
    main()
