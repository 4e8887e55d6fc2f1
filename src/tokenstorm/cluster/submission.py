"""One submission, by the shell text of `submission.sh` on the login node: its arguments, and what its answer means."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Final, Literal

from tokenstorm.cluster.clusters import JOB, MANY, NAME
from tokenstorm.cluster.scheduler import JobId
from tokenstorm.cluster.shell import Output
from tokenstorm.errors import ClusterError, RefusedJob, Unconfirmed, Unreachable

SECONDS: Final = 120.0
LOCK_SECONDS: Final = 90.0
"""How long to wait for an earlier submission of the same job that goes on without its caller."""
DOUBT_SECONDS: Final = (10.0, 60.0, 300.0)
"""How long Slurm has to list no such job before the second sbatch, the third, and each after that.

It was seen to answer before it made a job of what it was sent, and a squeue that is a cache may be a minute late.
"""
NOTE: Final = "job.started"
_NOT_ASKED, _NOT_TAKEN, _IN_DOUBT, _FORGOTTEN, _WITHDRAWN = 90, 91, 92, 93, 95
OPTIONS: Final = "--no-requeue --no-kill --export=NONE --parsable"
"""Of each sbatch."""
_NO_ANSWER = (
    "timed out|communication (connection|shutdown)|insane message|zero bytes|unable to contact|standby mode|"
    "temporarily un|authentication (error|credential)|message (send|receive) failure"
)
"""What sbatch says when it could not ask Slurm, or got no answer: it tells nothing about the job."""
_WORDS: Final = {
    "note": NOTE,
    "nobody": "withdrawn",  # in the note of a job that must not run: a job that begins ends at once
    "options": OPTIONS,
    "no_answer": _NO_ANSWER,
    "cluster": NAME,
    "not_asked": _NOT_ASKED,
    "not_taken": _NOT_TAKEN,
    "in_doubt": _IN_DOUBT,
    "forgotten": _FORGOTTEN,
    "withdrawn": _WITHDRAWN,
}
"""The words that the shell text and this module share."""
_SUBMITTED = re.compile(rf"^submitted as ({JOB.pattern})$", re.ASCII | re.MULTILINE)


What = Literal["submit", "withdraw"]


@cache
def text() -> str:
    """The shell text, for bash."""
    words = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in _WORDS.items())
    return f"{words}\n{Path(__file__).with_suffix('.sh').read_text(encoding='utf-8')}"


def arguments(what: What, folder: str, name: str) -> tuple[str, ...]:
    """Its arguments."""
    return what, folder, name, f"{LOCK_SECONDS:g}", *(f"{seconds:.0f}" for seconds in DOUBT_SECONDS)


def job_of(done: Output, name: str) -> JobId:
    """The job that was made. Raises `RefusedJob` or `Unreachable` where there is none, `Unconfirmed` where that is not known."""
    if done.status == 0 and (found := _SUBMITTED.search(done.stdout.decode(errors="replace"))):
        return found[1]
    said = (done.stderr or done.stdout).decode(errors="replace").strip() or f"status {done.status}"
    kind: type[ClusterError] = Unconfirmed
    message = f"whether Slurm took the job {name!r} is not known: {said}; it is safe to try again"
    if done.status == _NOT_ASKED:
        kind, message = Unreachable, f"Slurm could not be asked, so that {name!r} was not submitted: {said}; try again"
    elif done.status in {_NOT_TAKEN, MANY}:
        kind, message = RefusedJob, f"sbatch did not take the job {name!r}: {said}"
    elif done.status == _WITHDRAWN:
        kind, message = RefusedJob, f"the job {name!r} was withdrawn, and is not submitted"
    elif done.status == _FORGOTTEN:
        kind = RefusedJob
        message = (
            f"the job {name!r} is lost: its submission was cut off too long ago for Slurm to tell whether a job came of "
            "it (it may have been cancelled since). It is not submitted a second time: create it anew"
        )
    raise kind(message)


def left_of(done: Output, name: str) -> JobId | None:
    """The job that exists although it was withdrawn. Raises `Unconfirmed` while that is not known."""
    if done.status == 0:
        found = _SUBMITTED.search(done.stdout.decode(errors="replace"))
        return found[1] if found else None
    said = (done.stderr or done.stdout).decode(errors="replace").strip() or f"status {done.status}"
    message = f"whether there is a job {name!r} is not known yet: {said}; it is not submitted any more"
    raise Unconfirmed(message)
