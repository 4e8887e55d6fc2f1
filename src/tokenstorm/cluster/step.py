"""One command on a compute node, waited for: after the profile's prologue, as a job's script would run it."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.script import render
from tokenstorm.cluster.shell import Output
from tokenstorm.cluster.site import Site
from tokenstorm.cluster.slurm import CLEAN, directives
from tokenstorm.errors import RefusedJob, Unreachable

Kind = Literal["cpu", "gpu"]

NODE_SECONDS = 600.0
"""How long a free node is waited for, and how long the command may take: both together."""
_OF_A_BATCH_JOB = re.compile(r"--(output|error|signal|ntasks-per-node|no-requeue)\b")
_LATE = 124
_STARTED = "tokenstorm-step-started"


def probe_job(site: Site, kind: Kind) -> Job:
    """The smallest job of a kind, as the profile has it booked."""
    job = Job(
        name="tokenstorm-step", command=("true",), folder=site.profile.base_path, kind=kind, time_limit_minutes=15
    )
    return replace(job, gpus_per_node=1) if kind == "gpu" else job


def clean(argv: Sequence[str]) -> list[str]:
    """A command of Slurm's without the variables that it takes for options: the user's, and those of a job around us."""
    return ["bash", "-c", f'{CLEAN}exec "$@"', "bash", *argv]


async def on_node(
    site: Site, argv: Sequence[str], *, kind: Kind = "cpu", stdin: bytes = b"", seconds: float = NODE_SECONDS
) -> Output:
    """Run a command on one node of the partition for that kind; on this machine, where that is all there is.

    Its output holds what the prologue printed. Raises RefusedJob when Slurm gives no node, Unreachable when none was
    free in time, and what the shell raises.
    """
    job = replace(probe_job(site, kind), command=tuple(argv))
    if site.profile.scheduler == "local":
        return await site.shell.run(["bash", "-c", render(job, site.profile)], stdin=stdin, timeout=seconds)
    text = f"echo {_STARTED} >&2\n{render(job, site.profile)}"
    options = [word for line in directives(job, site.profile) for word in shlex.split(line, comments=False)[1:]]
    options = [option for option in options if not _OF_A_BATCH_JOB.match(option)]
    # a login shell, without what this one has: as sbatch starts a script with --export=NONE
    command = [
        "srun",
        "--quiet",
        "--ntasks=1",
        "--export=HOME,USER,LOGNAME,SHELL",
        *options,
        "/bin/bash",
        "-l",
        "-c",
        text,
    ]
    limited = ["timeout", "--signal=TERM", "--kill-after=10", f"{seconds:.0f}", *command]
    done = await site.shell.run(clean(limited), stdin=stdin, timeout=seconds + 30)
    said = done.stderr.decode(errors="replace")
    where = f"partition {getattr(site.profile.partitions, kind)}" if getattr(site.profile.partitions, kind) else "Slurm"
    if done.status == _LATE:
        message = (
            f"{where}: no node was free, or the command did not end, in {seconds:.0f} s; look at squeue and try again"
        )
        raise Unreachable(message)
    if _STARTED not in said:
        message = f"{where} gave no node: {said.strip() or f'srun ended with status {done.status}'}"
        raise RefusedJob(message)
    return replace(done, stderr=said.partition(f"{_STARTED}\n")[2].encode())
