"""Which key of a profile a site refuses: by what it says, and by what it accepts without that key."""

import re

from tokenstorm.cluster.clusters import clean
from tokenstorm.cluster.directives import directives
from tokenstorm.cluster.scheduler import Job, Kind
from tokenstorm.cluster.shell import Shell
from tokenstorm.config.profile import JobKeys, Partitions, Profile

_ACCEPTED = "to start at"
_NAMED = {
    "account": re.compile("account", re.IGNORECASE),
    "partition": re.compile("partition", re.IGNORECASE),
    "qos": re.compile("qos", re.IGNORECASE),
    "constraint": re.compile("constraint|feature", re.IGNORECASE),
    "reservation": re.compile("reservation", re.IGNORECASE),
    "sbatch": re.compile("(unrecognized|invalid|unknown|ambiguous) option|is ambiguous", re.IGNORECASE),
    "gpu_type": re.compile("gres|tres", re.IGNORECASE),
    "gpu_request": re.compile("gres|tres", re.IGNORECASE),
    "memory_request": re.compile("memory", re.IGNORECASE),
    "cpu_request": re.compile("cpu", re.IGNORECASE),
}
"""What Slurm says of each, as an error or as the reason why a job pends."""


def keys(profile: Profile, kind: Kind, said: str = "") -> str:
    """Which keys decide what nodes a kind of job gets, where they stand: those that `said` speaks of, else all."""
    given = profile.given(kind)
    named = [name for name in given if _NAMED[name].search(said)]
    return f"see {_listed(profile, kind, named or given)} in profiles.{profile.name}"


async def accepted(shell: Shell, job: Job, profile: Profile) -> tuple[bool, str]:
    """Whether `sbatch --test-only` takes a job, and what it says: of options and nodes, and not of all limits."""
    lines = "\n".join(["#!/bin/sh", *directives(job, profile), "true", ""])
    done = await shell.run(clean(profile.cluster, ["sbatch", "--test-only"]), stdin=lines.encode())
    said = (done.stderr or done.stdout).decode(errors="replace").strip()
    return not done.status and _ACCEPTED in said, said or f"status {done.status}"


async def refused(shell: Shell, job: Job, profile: Profile, said: str) -> str:
    """What to look at, where sbatch said that of a job: the keys that it names, or without which it takes the job."""
    given = profile.given(job.kind)
    if any(_NAMED[name].search(said) for name in given):
        return keys(profile, job.kind, said)
    whole = {"cpu": JobKeys(), "gpu": JobKeys(), "partitions": Partitions()}
    alone = profile.of(job.kind).model_copy(update=whole)
    found = []
    for name in given:
        without = alone.model_copy(update={name: JobKeys.model_fields[name].default})
        if (await accepted(shell, job, without))[0]:
            found.append(name)
    if not found:
        return keys(profile, job.kind)
    return f"without {_listed(profile, job.kind, found)} of profiles.{profile.name} it would"


def _listed(profile: Profile, kind: Kind, names: list[str]) -> str:
    return ", ".join(profile.key(kind, name) for name in names)
