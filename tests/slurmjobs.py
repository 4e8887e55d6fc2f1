"""Single jobs of a real Slurm, and a site whose commands are not quite Slurm's own."""

import asyncio
import os
import shlex
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from grouplab import profile
from tokenstorm.cluster.directives import slurm_name
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import Job, JobState
from tokenstorm.cluster.shell import Shell
from tokenstorm.cluster.slurm import Slurm

T = TypeVar("T")
SECONDS = 60.0
TELLING = ("squeue", "scontrol", "sacct")
NOT_HERE = "echo 'not on this site' >&2; exit 1"
NO_DATABASE = "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1"
NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


def use(folder: Path, what: Callable[[Slurm], Awaitable[T]], shell: Shell | None = None, **fields: Any) -> T:
    """What comes of it, over the lab of this test's environment."""

    async def run() -> T:
        async with asyncio.timeout(SECONDS):
            return await what(Slurm(shell or LocalShell(), profile(folder, **fields)))

    return asyncio.run(run())


def job(folder: Path, text: str, **fields: Any) -> Job:
    """A job of a folder of its own that runs a line of shell."""
    fields = {
        "name": f"{folder.parent.name}.{folder.name}",
        "time_limit_minutes": 5,
        "signal_lead_seconds": 60,
        **fields,
    }
    return Job(command=("bash", "-c", text), folder=PurePosixPath(folder), **fields)


async def until(slurm: Slurm, number: str, phase: str) -> JobState:
    """Its state, once it is in that phase."""
    while True:
        state = (await slurm.states([number])).get(number)
        if state and state.phase == phase:
            return state
        await asyncio.sleep(0.05)


def accounting(conf: Path) -> bool:
    """Whether the lab has some."""
    return "accounting_storage/slurmdbd" in conf.read_text()


def output(*argv: str) -> str:
    """What a command says, as its user types it."""
    return subprocess.check_output(argv, text=True).strip()


def named(one: Job) -> list[str]:
    """The ids of all jobs of that name."""
    return output("squeue", "--noheader", "--states=all", f"--name={slurm_name(one.name)}", "--format=%i").split()


def wrapped(folder: Path, **commands: str) -> str:
    """A PATH of a site that has scripts in the place of these commands; in them `real` is what is wrapped."""
    wrappers = folder / "wrappers"
    wrappers.mkdir(mode=0o755, exist_ok=True)
    for name, text in commands.items():
        real = shlex.quote(str(shutil.which(name)))
        (wrappers / name).write_text(f'#!/bin/bash\nreal() {{ {real} "$@"; }}\n{text}\n')
        (wrappers / name).chmod(0o755)
    return f"{wrappers}:{os.environ['PATH']}"


def only(folder: Path, name: str) -> str:
    """A PATH of a site that has but one of the commands that tell of jobs; the others are there and fail."""
    return wrapped(folder, **{other: NOT_HERE for other in TELLING if other != name})
