"""Slurm, over any `Shell`: jobs by `sbatch`, their states in one question, cancelled by id."""

import hashlib
import re
import shlex
from collections.abc import Collection, Mapping
from time import monotonic

from tokenstorm.cluster.hostlist import expand
from tokenstorm.cluster.scheduler import Job, JobId, JobState, Outcome
from tokenstorm.cluster.script import render
from tokenstorm.cluster.shell import Output, Shell
from tokenstorm.config import Profile
from tokenstorm.errors import RefusedJob, Unconfirmed, Unreachable, UsageError

LISTED_AFTER_SECONDS = 60.0
_CLEAN = (
    'for name in ${!SLURM_@} ${!SBATCH_@} ${!SRUN_@}; do [ "$name" = SLURM_CONF ] || unset "$name"; done; exec "$@"'
)
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,60}", re.ASCII)
_SILENT = re.compile(r"unable to contact|timed out|connection refused|communication", re.IGNORECASE)
_OUTCOMES: dict[str, Outcome] = {
    "COMPLETED": "completed",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "node_fail",
    "PREEMPTED": "preempted",
    "OUT_OF_MEMORY": "out_of_memory",
    "FAILED": "failed",
}
_PENDING = frozenset(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"))


class Slurm:
    """Jobs are asked about with scontrol, squeue or sacct, the first that answers."""

    def __init__(self, shell: Shell, profile: Profile) -> None:
        self._shell = shell
        self._profile = profile
        self._submitted: dict[JobId, float] = {}

    def fan_out(self, job: Job) -> tuple[str, ...]:
        cpus = f"--cpus-per-task={job.cpus_per_task}"
        argv = ("srun", "--export=ALL", cpus, "--kill-on-bad-exit=0", "--no-kill", "--wait=0")
        if job.tasks is None:
            return argv
        spread = (f"--nodes={min(job.nodes, job.tasks)}", f"--ntasks={job.tasks}", "--distribution=cyclic")
        return ("env", "-u", "SLURM_NTASKS_PER_NODE", *argv, *spread)  # srun warns of a number that does not divide

    async def submit(self, job: Job) -> JobId:
        name = slurm_name(job.name)
        script = job.folder / "script.sh"
        shebang, rest = render(job, self._profile).split("\n", 1)
        text = "\n".join((shebang, *directives(job, self._profile), rest))
        known = await self._run("squeue", "--noheader", "--me", "--states=all", f"--name={name}", "--format=%i")
        if known.status:
            message = f"squeue does not answer, so nothing was submitted: {_said(known)}; try again"
            raise Unreachable(message)
        if ids := known.stdout.decode().split():
            return ids[0]
        await self._shell.put(script, text.encode())
        done = await self._run("sbatch", "--no-requeue", "--no-kill", "--export=NONE", "--parsable", str(script))
        if done.status:
            message = f"sbatch did not take the job {job.name!r}: {_said(done)}"
            raise (Unconfirmed if _SILENT.search(_said(done)) else RefusedJob)(message)
        number = done.stdout.decode().strip().split(";")[0]
        self._submitted[number] = monotonic()
        return number

    async def states(self, ids: Collection[JobId]) -> dict[JobId, JobState]:
        if not ids:
            return {}
        known = await self._ask(ids)
        return {number: known.get(number) or self._unlisted(number) for number in ids}

    async def cancel(self, job: JobId) -> None:
        if not job.isdecimal():
            message = f"{job!r} is no id of a Slurm job"
            raise UsageError(message)
        done = await self._run("scancel", job)
        if done.status and "invalid job id" not in _said(done).lower():
            message = f"scancel {job}: {_said(done)}"
            raise Unreachable(message)

    async def _ask(self, ids: Collection[JobId]) -> dict[JobId, JobState]:
        done = await self._run("scontrol", "--oneliner", "show", "job")
        if done.status == 0:
            return _scontrol(done.stdout.decode(errors="replace"))
        said = [_said(done)]
        done = await self._run("squeue", "--noheader", "--me", "--states=all", "--format=%i|%T|%N|%r")
        if done.status == 0:
            return _table(done.stdout.decode(errors="replace"))
        said.append(_said(done))
        done = await self._run(
            "sacct", "-nPX", f"--jobs={','.join(ids)}", "--format=JobIDRaw,State,NodeList,Reason,ExitCode"
        )
        if done.status == 0:
            return _table(done.stdout.decode(errors="replace"))
        message = f"Slurm does not answer: {'; '.join([*said, _said(done)])}"
        raise Unreachable(message)

    def _unlisted(self, number: JobId) -> JobState:
        if monotonic() - self._submitted.get(number, float("-inf")) < LISTED_AFTER_SECONDS:
            return JobState("pending", reason="not listed yet")
        return JobState("ended", "lost", "Slurm does not know it any more")

    async def _run(self, *argv: str) -> Output:
        return await self._shell.run(["bash", "-c", _CLEAN, "bash", *argv])


def slurm_name(name: str) -> str:
    """A name that Slurm takes as it is; one it would not is told by its hash."""
    return name if _PLAIN.fullmatch(name) else "ts-" + hashlib.sha256(name.encode()).hexdigest()[:32]


def directives(job: Job, profile: Profile) -> list[str]:
    """The `#SBATCH` lines of a job."""
    folder = str(job.folder).replace("%", "%%")
    options = {
        "job-name": slurm_name(job.name),
        "account": profile.account,
        "partition": getattr(profile.partitions, job.kind),
        "qos": profile.qos,
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        "cpus-per-task": job.cpus_per_task,
        "mem": f"{job.memory_mb}M" if job.memory_mb else None,
        "gres": f"gpu:{job.gpus_per_node}" if job.gpus_per_node else None,
        "time": job.time_limit_minutes,
        "signal": f"B:TERM@{job.signal_lead_seconds}",
        "exclude": ",".join(job.not_on) or None,
        "output": f"{folder}/stdout.log",
        "error": f"{folder}/stderr.log",
    }
    lines = [f"#SBATCH --{key}={shlex.quote(str(value))}" for key, value in options.items() if value is not None]
    if job.exclusive:
        lines.append("#SBATCH --exclusive")
    if any(len(line.splitlines()) != 1 for line in lines):
        message = f"the job {job.name!r} has a line break in its folder or its profile, which #SBATCH cannot hold"
        raise UsageError(message)
    return lines


def _scontrol(text: str) -> dict[JobId, JobState]:
    found = {}
    for line in text.splitlines():
        fields = dict(re.findall(r"(?:^| )(JobId|JobState|Reason|ExitCode|NodeList|BatchHost)=(\S*)", line))
        if "JobId" in fields and "JobState" in fields:
            nodes = fields.get("NodeList", "")
            word = "NODE_FAIL" if _lost_its_first_node(fields) else fields["JobState"]
            found[fields["JobId"]] = _state(word, nodes, fields.get("Reason", ""), fields.get("ExitCode", ""))
    return found


def _lost_its_first_node(fields: Mapping[str, str]) -> bool:
    """With --no-kill a job of many nodes goes on without one that is down, as FAILED where its script ran on that one."""
    nodes = expand(fields.get("NodeList", ""))
    return fields["JobState"] == "FAILED" and bool(nodes) and fields.get("BatchHost", nodes[0]) not in nodes


def _table(text: str) -> dict[JobId, JobState]:
    rows = (line.split("|") for line in text.splitlines() if line.count("|") >= 3)  # noqa: PLR2004 - its columns
    return {row[0]: _state(row[1], row[2], row[3], row[4] if row[4:] else "") for row in rows}


def _state(word: str, nodes: str, reason: str, code: str) -> JobState:
    word = word.split(maxsplit=1)[0].rstrip("+")
    where = (nodes,) if nodes not in {"", "(null)", "None assigned"} else ()
    reason = "" if reason == "None" else reason
    if word in _PENDING:
        return JobState("pending", reason=reason)
    if word not in _OUTCOMES:
        return JobState("running", reason=reason, nodes=where)
    status, _, signal = code.partition(":")
    number = None if not code else 128 + int(signal) if signal.isdecimal() and int(signal) else int(status)
    return JobState("ended", _OUTCOMES[word], reason, number, where)


def _said(done: Output) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()
