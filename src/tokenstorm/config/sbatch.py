"""Options of `sbatch` that a profile may give its jobs, and those that each job has of its own."""

import shlex

_OF_EACH_JOB = (
    "array",
    "chdir",
    "clusters",
    "error",
    "export",
    "export-file",
    "input",
    "job-name",
    "no-requeue",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "signal",
    "test-only",
    "wait",
    "wrap",
)
_IN_SHORT = "DJMNWaeino"
"""Options of sbatch that belong to each job: given to all, they would keep them from starting or from being found."""


def refused(line: str) -> str | None:
    """Why a line of a profile's `sbatch` cannot be taken, if it cannot."""
    if not line.startswith("-") or len(line.splitlines()) != 1 or "\0" in line:
        return f"{line!r} is no option of sbatch: write each as it stands after #SBATCH, such as --licenses=a"
    try:
        taken = _of_each_job(line)
    except ValueError as error:
        return f"{line!r} cannot be read: {error}"
    return f"{taken} is tokenstorm's own to set, for each job: leave it out" if taken else None


def _of_each_job(line: str) -> str | None:
    """The first option of a line that is for no profile to set. sbatch takes long ones cut short, too."""
    for option in (word for word in shlex.split(line) if word.startswith("-")):
        name = option.lstrip("-").partition("=")[0]
        long = option.startswith("--")
        if any(own.startswith(name) for own in _OF_EACH_JOB) if long else name[:1] in _IN_SHORT:
            return option
    return None
