"""From a `Job` to the `#SBATCH` lines of its script: pure. Sites want requests in different forms; the job gets the same."""

import hashlib
import re

from tokenstorm.cluster.scheduler import Job
from tokenstorm.config.profile import Profile
from tokenstorm.config.sbatch import values, without
from tokenstorm.errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,60}", re.ASCII)
_READ_AS_IT_IS = re.compile(r"[\w./:,=@%+-]+", re.ASCII)


def directives(job: Job, profile: Profile) -> list[str]:
    """The `#SBATCH` lines of a job, with what the profile says of its kind. Raises `UsageError`."""
    folder, jobs = str(job.folder).replace("%", "%%"), profile.of(job.kind)
    excluded = [*job.not_on, *values(jobs.sbatch, "exclude")]
    options = {
        "job-name": slurm_name(job.name),
        "account": jobs.account,
        "partition": jobs.partition,
        "qos": jobs.qos,
        "constraint": jobs.constraint,
        "reservation": jobs.reservation,
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        **_cpus(job, jobs),
        **_memory(job, jobs),
        **_gpus(job, jobs),
        "time": job.time_limit_minutes,
        "signal": f"{'B:' if job.signal_to == 'script' else ''}TERM@{job.signal_lead_seconds}",
        "output": f"{folder}/stdout.log",
        "error": f"{folder}/stderr.log",
        "open-mode": "append",  # what a second instance would cut off is the first one's
    }
    lines = [f"#SBATCH --{key}={_quoted(str(value))}" for key, value in options.items() if value is not None]
    if job.exclusive:
        lines.append("#SBATCH --exclusive")
    lines += [f"#SBATCH {line}" for line in without(jobs.sbatch, "exclude")]
    if excluded:  # in the end, where it counts: a line above may have one beside another option
        lines.append(f"#SBATCH --exclude={_quoted(','.join(excluded))}")
    if "\\" in folder:
        message = f"{folder} holds a backslash, by which sbatch would find its logs elsewhere: choose another base_path"
        raise UsageError(message)
    if any(len(line.splitlines()) != 1 for line in lines):
        message = f"the job {job.name!r} has a line break in its folder or its profile, which #SBATCH cannot hold"
        raise UsageError(message)
    return lines


def _cpus(job: Job, jobs: Profile) -> dict[str, int]:
    match jobs.cpu_request:
        case "cpus-per-task":
            return {"cpus-per-task": job.cpus_per_task}
        case "cpus-per-gpu":
            return {"cpus-per-gpu": _share(job.cpus_per_task * job.tasks_per_node, job, jobs, "cpu_request")}
        case "none":
            return {}


def _memory(job: Job, jobs: Profile) -> dict[str, str]:
    if not job.memory_mb:
        return {}
    match jobs.memory_request:
        case "mem":
            return {"mem": f"{job.memory_mb}M"}
        case "mem-per-cpu":
            return {"mem-per-cpu": f"{-(-job.memory_mb // _cpus_of_a_node(job, jobs))}M"}
        case "mem-per-gpu":
            return {"mem-per-gpu": f"{_share(job.memory_mb, job, jobs, 'memory_request')}M"}
        case "none":
            return {}


def _gpus(job: Job, jobs: Profile) -> dict[str, str | int]:
    if not job.gpus_per_node:
        return {}
    each, kind = job.gpus_per_node, f"{jobs.gpu_type}:" if jobs.gpu_type else ""
    match jobs.gpu_request:
        case "gres":
            return {"gres": f"gpu:{kind}{each}"}
        case "gpus-per-node":
            return {"gpus-per-node": f"{kind}{each}"}
        case "gpus":  # a total alone may be spread unevenly over several nodes
            spread = {"gpus-per-node": f"{kind}{each}"} if job.nodes > 1 else {}
            return {"gpus": f"{kind}{each * job.nodes}", **spread}
        case "none":
            return {}


def _cpus_of_a_node(job: Job, jobs: Profile) -> int:
    """The CPUs that a job gets on each node; CPUs per GPU are rounded up."""
    if jobs.cpu_request == "cpus-per-gpu":
        return _cpus(job, jobs)["cpus-per-gpu"] * job.gpus_per_node
    return job.cpus_per_task * job.tasks_per_node


def _share(total: int, job: Job, jobs: Profile, key: str) -> int:
    """Each GPU's share of a node's total, rounded up. Raises `UsageError` for a job without GPUs."""
    if not job.gpus_per_node:
        where = f"profiles.{jobs.name}.{jobs.key(job.kind, key)}"
        message = f"{where}: the job {job.name!r} has no GPU of which it could ask a share: choose another form"
        raise UsageError(message)
    return -(-total // job.gpus_per_node)


def slurm_name(name: str) -> str:
    """A name that Slurm accepts: the name itself, or else a hash of it."""
    return name if _PLAIN.fullmatch(name) else "ts-" + hashlib.sha256(name.encode()).hexdigest()[:32]


def _quoted(text: str) -> str:
    """As sbatch reads the lines of a script: in quotes a backslash takes the meaning of what follows, and of nothing else."""
    if _READ_AS_IT_IS.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
