"""Slurm, over any `Shell`: jobs by `sbatch`, their states in one question, cancelled by id."""

import hashlib
import re
from collections.abc import Collection, Mapping
from time import monotonic

from tokenstorm.cluster.hostlist import expand
from tokenstorm.cluster.scheduler import Job, JobId, JobState, Outcome
from tokenstorm.cluster.script import render
from tokenstorm.cluster.shell import Output, Shell
from tokenstorm.config import Profile
from tokenstorm.errors import RefusedJob, Unconfirmed, Unreachable, UsageError

LISTED_AFTER_SECONDS = 60.0
"""A job that none of Slurm's commands lists is lost when that lasted so long: it may be too new for them."""
SUBMIT_SECONDS = 120.0
_ONE_BY_ONE = 16
"""How many jobs at most are asked about by their ids; for more, one listing of all jobs costs less."""
_NOT_ASKED, _NOT_TAKEN = 90, 91
CLEAN = """for name in ${!SLURM_@} ${!SBATCH_@} ${!SRUN_@}; do [ "$name" = SLURM_CONF ] || unset "$name"; done
"""
# A second submission waits for a first whose caller was lost on the way, and finds its job by the note that it left, or
# by the job's name where it was cut before that.
_SUBMIT = rf"""{CLEAN}cd -- "$1" || exit {_NOT_ASKED}
known=
exec 9>> .submit && flock -w 60 9
listed() {{ scontrol --oneliner show job | sed -n "s/^JobId=\([0-9]*\) JobName=$1 .*/\1/p"; return "${{PIPESTATUS[0]}}"; }}
if [ ! -s job.id ]; then
    [ ! -s job.started ] || known=$(cat job.started)
    [ -n "$known" ] || known=$(squeue --noheader --me --states=all --name="$2" --format=%i) || known=$(listed "$2") ||
        known=$(sacct --noheader --parsable2 --allocations --name="$2" --format=JobIDRaw) || exit {_NOT_ASKED}
    if [ -z "$known" ]; then
        known=$(sbatch --no-requeue --no-kill --export=NONE --parsable script.sh) || exit {_NOT_TAKEN}
    fi
    printf '%s\n' "${{known%%[!0-9]*}}" > .job.id && mv .job.id job.id && rm -f .submit || exit
fi
cat job.id
"""
# The script's own note, for when Slurm has forgotten the job already. A second job of the same folder ends at once.
_CLAIM = (
    '(set -o noclobber; printf "%s\\n" "$SLURM_JOB_ID" > job.started) 2> /dev/null ||',
    '    [ "$(cat job.started)" = "$SLURM_JOB_ID" ] || { echo "job $(cat job.started) has this folder" >&2; exit 1; }',
)
_SQUEUE = CLEAN + "exec squeue --noheader --me --states=all --format='%i|%T|%r|%N'"
_SCONTROL = CLEAN + "exec scontrol --oneliner show job"
_EACH = CLEAN + 'for id; do scontrol --oneliner show job "$id"; done'
_SACCT = (
    CLEAN
    + 'exec sacct --noheader --parsable2 --allocations --jobs="$1" --format=JobIDRaw,State,Reason,NodeList,ExitCode'
)
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,60}", re.ASCII)
_SILENT = re.compile(r"timed out|communication|insane message|zero bytes", re.IGNORECASE)
_FIELDS = re.compile(r"(?:^| )(JobId|JobState|Reason|ExitCode|NodeList|BatchHost)=(\S*)")
_COLUMNS = 4
_READ_AS_IT_IS = re.compile(r"[\w./:,=@%+-]+", re.ASCII)
_OUTCOMES: dict[str, Outcome] = {
    "COMPLETED": "completed",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "node_fail",
    "PREEMPTED": "preempted",
    "OUT_OF_MEMORY": "out_of_memory",
    "FAILED": "failed",
}
_PENDING = frozenset(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"))

States = dict[JobId, JobState]


class Slurm:
    """One question tells of all jobs: squeue's, or that of another command where there is none.

    Only of jobs that it calls ended, or does not list, more is asked: exit codes, and whether they were there.
    """

    def __init__(self, shell: Shell, profile: Profile) -> None:
        self._shell = shell
        self._profile = profile
        self._ended: States = {}
        self._unlisted: dict[JobId, float] = {}

    def fan_out(self, job: Job) -> tuple[str, ...]:
        cpus = f"--cpus-per-task={job.cpus_per_task}"
        argv = ("srun", "--export=ALL", cpus, "--kill-on-bad-exit=0", "--no-kill", "--wait=0")
        if job.tasks is None:
            return argv
        spread = (f"--nodes={min(job.nodes, job.tasks)}", f"--ntasks={job.tasks}", "--distribution=cyclic")
        return ("env", "-u", "SLURM_NTASKS_PER_NODE", *argv, *spread)  # srun warns of a number that does not divide

    async def submit(self, job: Job) -> JobId:
        shebang, rest = render(job, self._profile, first=_CLAIM).split("\n", 1)
        text = "\n".join((shebang, *directives(job, self._profile), rest))
        await self._shell.put(job.folder / "script.sh", text.encode())
        argv = ["bash", "-c", _SUBMIT, "bash", str(job.folder), slurm_name(job.name)]
        done = await self._shell.run(argv, timeout=SUBMIT_SECONDS)
        number = done.stdout.decode(errors="replace").strip()
        if done.status == 0 and number.isdecimal():
            return number
        said = _said(done) or f"status {done.status}"
        if done.status == _NOT_ASKED:
            message = f"Slurm does not answer, so that {job.name!r} was not submitted: {said}; try again"
            raise Unreachable(message)
        message = f"sbatch did not take the job {job.name!r}: {said}"
        raise (RefusedJob if done.status == _NOT_TAKEN and not _SILENT.search(said) else Unconfirmed)(message)

    async def states(self, ids: Collection[JobId]) -> States:
        asked = [number for number in ids if number not in self._ended]
        found = await self._ask(asked) if asked else {}
        self._ended |= {number: state for number, state in found.items() if state.phase == "ended"}
        self._unlisted = {number: since for number, since in self._unlisted.items() if number not in found}
        now = monotonic()
        for number in asked:
            if number not in found and now - self._unlisted.setdefault(number, now) > LISTED_AFTER_SECONDS:
                found[number] = JobState("ended", "lost", "Slurm does not know it any more")
        return {number: state for number in ids if (state := self._ended.get(number) or found.get(number))}

    async def cancel(self, job: JobId) -> None:
        if not job.isdecimal():
            message = f"{job!r} is no id of a Slurm job"
            raise UsageError(message)
        done = await self._bash(f'{CLEAN}exec scancel "$1"', job)
        if done.status and "invalid job id" not in _said(done).lower():
            message = f"scancel {job}: {_said(done)}"
            raise Unreachable(message)

    async def _ask(self, ids: list[JobId]) -> States:
        """What is known of these jobs. Raises `Unreachable` when none of the commands answers."""
        listing = await self._bash(_SQUEUE)
        if listing.status:
            return await self._ask_others(ids, _said(listing))
        found = _mine(_table(listing.stdout), ids)
        unsure = [number for number in ids if number not in found or found[number].phase == "ended"]
        if unsure:
            text, some = (_EACH, unsure) if len(unsure) <= _ONE_BY_ONE else (_SCONTROL, [])
            found |= _mine(_scontrol((await self._bash(text, *some)).stdout), ids)
        gone = [number for number in unsure if number not in found]
        if gone:
            told = await self._bash(_SACCT, ",".join(gone))
            found |= _mine(_table(told.stdout), gone) if told.status == 0 else {}
        return found

    async def _ask_others(self, ids: list[JobId], why: str) -> States:
        """The same where there is no squeue."""
        listing = await self._bash(_SCONTROL)
        found = _mine(_scontrol(listing.stdout), ids) if listing.status == 0 else {}
        gone = [number for number in ids if number not in found]
        if not gone:
            return found
        told = await self._bash(_SACCT, ",".join(gone))
        if told.status and listing.status:
            message = f"Slurm does not answer: {'; '.join(filter(None, (why, _said(listing), _said(told))))}"
            raise Unreachable(message)
        return found | (_mine(_table(told.stdout), gone) if told.status == 0 else {})

    async def _bash(self, text: str, *arguments: str) -> Output:
        return await self._shell.run(["bash", "-c", text, "bash", *arguments])


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
        "constraint": profile.constraint,
        "reservation": profile.reservation,
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
        "open-mode": "append",  # what a second instance would cut off is the first one's
    }
    lines = [f"#SBATCH --{key}={_quoted(str(value))}" for key, value in options.items() if value is not None]
    if job.exclusive:
        lines.append("#SBATCH --exclusive")
    lines += [f"#SBATCH {line}" for line in profile.sbatch]
    if "\\" in folder:
        message = f"{folder} holds a backslash, by which sbatch would find its logs elsewhere: choose another base_path"
        raise UsageError(message)
    if any(len(line.splitlines()) != 1 for line in lines):
        message = f"the job {job.name!r} has a line break in its folder or its profile, which #SBATCH cannot hold"
        raise UsageError(message)
    return lines


def _quoted(text: str) -> str:
    """As sbatch reads the lines of a script: in quotes a backslash takes the meaning of what follows, and of nothing else."""
    if _READ_AS_IT_IS.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _mine(found: Mapping[JobId, JobState], ids: Collection[JobId]) -> States:
    return {number: state for number, state in found.items() if number in ids}


def _scontrol(text: bytes) -> States:
    found = {}
    for line in text.decode(errors="replace").splitlines():
        fields: dict[str, str] = {}
        for name, value in _FIELDS.findall(line):
            fields.setdefault(name, value)  # what comes after them, folders and comments, may look the same
        if "JobId" in fields and "JobState" in fields:
            nodes = fields.get("NodeList", "")
            word = "NODE_FAIL" if _lost_its_first_node(fields) else fields["JobState"]
            found[fields["JobId"]] = _state(word, fields.get("Reason", ""), nodes, fields.get("ExitCode", ""))
    return found


def _lost_its_first_node(fields: Mapping[str, str]) -> bool:
    """With --no-kill a job of many nodes goes on without one that is down, as FAILED where its script ran on that one."""
    nodes = expand(fields.get("NodeList", ""))
    return fields["JobState"] == "FAILED" and bool(nodes) and fields.get("BatchHost", nodes[0]) not in nodes


def _table(text: bytes) -> States:
    """Of squeue, and of sacct, which tells the exit code too."""
    rows = (line.split("|") for line in text.decode(errors="replace").splitlines())
    return {row[0]: _state(row[1], row[2], row[3], "".join(row[4:])) for row in rows if len(row) >= _COLUMNS}


def _state(word: str, reason: str, nodes: str, code: str) -> JobState:
    """`word` may say more, as `CANCELLED by 1000`; `code` is `status:signal`."""
    word = word.split(maxsplit=1)[0].rstrip("+") if word else ""
    reason = "" if reason in {"None", "(null)"} else reason
    if word in _PENDING:
        return JobState("pending", reason=reason)
    if word not in _OUTCOMES:
        return JobState("running", reason=reason, nodes=expand(nodes))
    status, _, signal = code.partition(":")
    number = None
    if status.isdecimal():
        number = 128 + int(signal) if signal.isdecimal() and int(signal) else int(status)
    return JobState("ended", _OUTCOMES[word], reason, number, expand(nodes))


def _said(done: Output) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()
