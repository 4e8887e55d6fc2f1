"""One question about all jobs against its bar, on a lab of four nodes that this brings up and ends.

    PYTHONPATH=tests python benchmarks/slurm.py [--jobs 500]

`submit` tells how long one submission takes, `poll` the question about jobs that wait, `ended` the first one after all
were cancelled: each as a share of the bar of one second and one command, where it has one.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from grouplab import profile
from slurmlab import slurm_lab
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.shell import Output
from tokenstorm.cluster.slurm import Slurm

BAR_SECONDS = 1.0
AT_ONCE = 8
NODES_THERE_ARE_NOT = 9


class Counting(LocalShell):
    """Counts the commands."""

    def __init__(self) -> None:
        super().__init__()
        self.commands = 0

    async def run(self, argv: Sequence[str], **options: Any) -> Output:
        self.commands += 1
        return await super().run(argv, **options)


async def measure(folder: Path, jobs: int) -> None:
    shell = Counting()
    slurm, few = Slurm(shell, profile(folder)), asyncio.Semaphore(AT_ONCE)

    async def submit(number: int) -> str:
        name = f"wait-{number}"
        async with few:
            return await slurm.submit(
                Job(name=name, command=("true",), folder=PurePosixPath(folder / name), nodes=NODES_THERE_ARE_NOT)
            )

    began = time.perf_counter()
    ids = await asyncio.gather(*map(submit, range(jobs)))
    took = time.perf_counter() - began
    say(
        "submit",
        f"{jobs} jobs, {len(set(ids))} ids, {took / jobs:.3f} s each, {shell.commands / jobs:.2f} commands each",
    )
    for what in ("poll", "ended"):
        if what == "ended":
            await shell.run(["scancel", *ids])
        shell.commands, times = 0, list[float]()
        for _ in range(1 if what == "ended" else 10):  # what ended is asked about once
            began = time.perf_counter()
            states = await slurm.states(ids)
            times.append(time.perf_counter() - began)
        phases = {phase: sum(state.phase == phase for state in states.values()) for phase in ("pending", "ended")}
        say(
            what,
            f"{statistics.median(times) / BAR_SECONDS:.2f} of the bar, {max(times) / BAR_SECONDS:.2f} at worst of "
            f"{len(times)}; {shell.commands / len(times):.0f} commands each; {phases}",
        )


def say(row: str, text: str) -> None:
    """One line of the answer."""
    sys.stdout.write(f"{row:8} {text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenstorm-bench.") as scratch, slurm_lab(Path(scratch) / "lab") as conf:
        os.environ["SLURM_CONF"] = str(conf)
        asyncio.run(asyncio.wait_for(measure(Path(scratch) / "jobs", options.jobs), 600))


if __name__ == "__main__":
    main()
