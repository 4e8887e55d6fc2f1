"""Slurm's commands for one of several clusters behind a login: how each is told its cluster, and how a job's id names one.

The id of a job is Slurm's number, as in `123`; of a job on another cluster than the one the profile means it is
`123;NAME`, as `sbatch --parsable` writes it.
"""

import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Sequence

from tokenstorm.cluster.scheduler import JobId

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
"""A cluster's name."""
JOB = re.compile(rf"([0-9]+)(?:;({NAME}))?", re.ASCII)
"""An id: the number, and the cluster where that is another."""
MANY = 94
"""The status of a command that was not run, since the profile or the user's SLURM_CLUSTERS names several clusters."""
_CLEAN = f"""\
M=${{M:-${{SBATCH_CLUSTERS:-${{SLURM_CLUSTERS-}}}}}}
case $M in all|*,*)
    of='SLURM_CLUSTERS on the login node' one="name it in the profile's \\`cluster\\`"
    [ -z "$named" ] || of="the profile's \\`cluster\\`" one='name that one'
    echo "$of is '$M', and a job has to be on one cluster: $one" >&2
    exit {MANY} ;;
esac
for name in ${{!S@}}; do
    case $name in
        SLURM_CONF|SLURM_CONF_SERVER|SLURM_JWT|SLURM_SACK_*) ;;
        SLURM_*|SBATCH_*|SRUN_*|SQUEUE_*|SACCT_*|SCANCEL_*|SCONTROL_*|SINFO_*) unset "$name" ;;
    esac
done
export M
"""
_RUN = 'name=$1; shift; exec "$name" ${M:+-M "$M"} "$@"'


def prelude(cluster: str | None) -> str:
    """Shell text that goes before Slurm's commands: each is told its cluster by `${M:+-M "$M"}`, right after its name.

    The cluster is this one; else that of the user's SLURM_CLUSTERS; else the login's own, with `M` empty. `named` is
    this one or nothing. It drops the variables that change what Slurm's commands answer; those that find it and log in stay.
    """
    return f"named={shlex.quote(cluster or '')} M=$named\n{_CLEAN}"


def by_cluster(ids: Collection[JobId], usual: str | None) -> dict[str | None, dict[str, JobId]]:
    """The ids of each cluster, by their number; `usual` is the cluster of an id that names none. Text that is no id is left out."""
    found: defaultdict[str | None, dict[str, JobId]] = defaultdict(dict)
    for job in ids:
        if match := JOB.fullmatch(job):
            found[match[2] or usual][match[1]] = job
    return dict(found)


def clean(cluster: str | None, argv: Sequence[str]) -> list[str]:
    """One of Slurm's commands for one cluster. The variables of a job in which this may run are removed."""
    return ["bash", "-c", prelude(cluster) + _RUN, "bash", *argv]
