"""Slurm, over any `Shell`: jobs by `sbatch`, their states in one question, cancelled by id."""

from collections.abc import Collection, Mapping
from time import monotonic

from tokenstorm.cluster import submission
from tokenstorm.cluster.clusters import JOB, by_cluster, prelude
from tokenstorm.cluster.directives import directives, slurm_name
from tokenstorm.cluster.scheduler import Job, JobId, JobState, Sent
from tokenstorm.cluster.script import render
from tokenstorm.cluster.shell import Output, Shell
from tokenstorm.cluster.states import Told, of_scontrol, of_table
from tokenstorm.config.profile import Profile
from tokenstorm.errors import ClusterError, Unreachable, UsageError

LISTED_AFTER_SECONDS = 60.0
"""A job that none of Slurm's commands lists is lost when that lasted so long: it may be too new for them.

Counted from when this process first missed it: a restart puts off `lost` by as much again, and says nothing wrong.
"""
CLOCKS_DIFFER_SECONDS = 86400.0
"""How far the user's clock may be ahead of Slurm's, wrong time zones included."""
ACCOUNTING_SECONDS = 10.0
"""How long to wait for sacct, while all other jobs wait too. For a slurmdbd that hangs, sacct itself would wait 45 s."""
# The script's own note, for when Slurm has forgotten the job already. A second job of the same folder ends at once.
_CLAIM = (
    "note=$SLURM_JOB_ID${SLURM_CLUSTER_NAME:+;$SLURM_CLUSTER_NAME}",
    f'(set -o noclobber; printf "%s\\n" "$note" > {submission.NOTE}) 2> /dev/null ||',
    f'    {{ IFS=\';\' read -r owner _ < {submission.NOTE}; [ "$owner" = "$SLURM_JOB_ID" ]; }} ||',
    '    { echo "job $owner has this folder" >&2; exit 1; }',
    '[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || : > "job.run.$SLURM_RESTART_COUNT"',
)
# None tells of other users' jobs, whose names may hold what looks like a state. What may hold a `|` is the last column.
_SQUEUE = "exec timeout 20 squeue ${M:+-M \"$M\"} --noheader --me --states=all --format='%i|%j|%V|%T|%N||%r'"
_SCONTROL = 'set -o pipefail; for id; do echo "show job $id"; done | timeout 20 scontrol ${M:+-M "$M"} --oneliner'
_SACCT = """exec timeout "$2" sacct ${M:+-M "$M"} --noheader --parsable2 --allocations --jobs="$1" \
--format=JobIDRaw,JobName,Submit,State,NodeList,ExitCode,Reason"""
# By id and by name: some Slurms say nothing, and 0, of an id that they do not know.
_SCANCEL = """scancel ${M:+-M "$M"} ${2:+--name="$2"} "$1"
told=$?
[ -z "$2" ] || scancel ${M:+-M "$M"} --user="$(id -un)" --name="$2" || exit
exit "$told"
"""
_ALREADY = "already completing or completed"
"""What newer versions of Slurm print, with a status other than 0, for a job that is cancelled or over."""
_NOT_THERE = frozenset((126, 127))

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
        asked = self._profile.of(job.kind).cpu_request != "none"
        cpus = (f"--cpus-per-task={job.cpus_per_task}",) if asked else ()
        argv = ("srun", "--export=ALL", *cpus, "--kill-on-bad-exit=0", "--no-kill", "--wait=0")
        if job.tasks is None:
            return argv
        spread = (f"--nodes={min(job.nodes, job.tasks)}", f"--ntasks={job.tasks}", "--distribution=cyclic")
        return ("env", "-u", "SLURM_NTASKS_PER_NODE", *argv, *spread)  # srun warns of a number that does not divide

    async def submit(self, job: Job) -> JobId:
        await self._shell.put(job.folder / "script.sh", script_of(job, self._profile).encode())
        number = submission.job_of(await self._submission("submit", job), job.name)
        self._ended.pop(number, None)  # of a job that had the id before Slurm was set up anew
        return number

    async def withdraw(self, job: Job) -> JobId | None:
        return submission.left_of(await self._submission("withdraw", job), job.name)

    async def _submission(self, what: submission.What, job: Job) -> Output:
        arguments = submission.arguments(what, str(job.folder), slurm_name(job.name))
        return await self._bash(submission.text(), *arguments, timeout=submission.SECONDS)

    async def states(self, ids: Collection[JobId], sent: Mapping[JobId, Sent] | None = None) -> States:
        asked = [number for number in ids if number not in self._ended]
        found, sure = await self._ask(asked, sent or {}) if asked else ({}, False)
        self._unlisted = {number: since for number, since in self._unlisted.items() if number not in found}
        now = monotonic()
        for number in asked if sure else ():
            if number not in found and now - self._unlisted.setdefault(number, now) > LISTED_AFTER_SECONDS:
                if sent and number in sent:  # it may be there all the same, and nobody would look after it
                    try:
                        await self.cancel(number, sent[number])
                    except ClusterError:  # so it is not lost yet
                        continue
                found[number] = JobState("ended", "lost", "Slurm does not know it any more")
        self._ended |= {number: state for number, state in found.items() if state.phase == "ended"}
        return {number: state for number in ids if (state := self._ended.get(number) or found.get(number))}

    async def cancel(self, job: JobId, sent: Sent | None = None) -> None:
        found = JOB.fullmatch(job)
        if not found:
            message = f"{job!r} is no id of a Slurm job"
            raise UsageError(message)
        done = await self._bash(_SCANCEL, found[1], slurm_name(sent.name) if sent else "", cluster=found[2])
        if done.status == 0 or _ALREADY in _message_of(done):
            return
        states, _ = await self._ask([job], {job: sent} if sent else {})
        if states[job].outcome if job in states else _no_such_job(done):
            return
        message = f"scancel {job}: {_message_of(done)}"
        raise Unreachable(message)

    async def _ask(self, ids: list[JobId], sent: Mapping[JobId, Sent]) -> tuple[States, bool]:
        """What is known of these jobs; and whether nobody who is silent may know the others.

        Raises `Unreachable` when none of the commands answers.
        """
        told: States = {}
        sure = True
        for cluster, numbers in by_cluster(ids, self._profile.cluster).items():
            known = {number: sent[job] for number, job in numbers.items() if job in sent}
            found, all_answered = await self._ask_one(cluster, list(numbers), known)
            told |= {numbers[number]: state for number, state in found.items()}
            sure = sure and all_answered
        return told, sure

    async def _ask_one(
        self, cluster: str | None, ids: list[str], sent: Mapping[str, Sent]
    ) -> tuple[dict[str, JobState], bool]:
        """The same of the jobs of one cluster, by their numbers."""
        listing = await self._bash(_SQUEUE, cluster=cluster)
        found = _ours(of_table(listing.stdout), ids, sent)
        asked = [listing]
        if unsure := [number for number in ids if number not in found or found[number].outcome]:
            shown = await self._bash(_SCONTROL, *unsure, cluster=cluster)
            found |= _ours(of_scontrol(shown.stdout), unsure, sent)
            asked.append(shown)
        if gone := [number for number in unsure if number not in found]:
            accounted = await self._bash(_SACCT, ",".join(gone), f"{ACCOUNTING_SECONDS:g}", cluster=cluster)
            recorded = _ours(of_table(accounted.stdout), gone, sent)
            if _no_such_job(shown):  # what runs is known there: of others it was never recorded that they ended
                recorded = {number: state for number, state in recorded.items() if state.phase == "ended"}
            found |= recorded
            asked.append(accounted)
            if _answers(listing) and _answers(
                accounted
            ):  # two that know jobs are enough: some sites let no user ask scontrol
                asked.remove(shown)
        answers = [_answers(done) for done in asked]
        if True not in answers:
            message = f"Slurm does not answer: {'; '.join(dict.fromkeys(filter(None, map(_message_of, asked))))}"
            raise Unreachable(message)
        return found, False not in answers

    async def _bash(self, text: str, *arguments: str, cluster: str | None = None, timeout: float = 60.0) -> Output:
        """Run it, and have its output begin on a line of its own, after what this user's start-up files may say."""
        lines = f"{prelude(cluster or self._profile.cluster)}export TZ=UTC0\necho\n{text}"
        return await self._shell.run(["bash", "-c", lines, "bash", *arguments], timeout=timeout)


def script_of(job: Job, profile: Profile) -> str:
    """The text that sbatch is given. Raises `UsageError`."""
    shebang, rest = render(job, profile, first=_CLAIM).split("\n", 1)
    return "\n".join((shebang, *directives(job, profile), rest))


def _ours(told: Mapping[JobId, Told], ids: Collection[JobId], sent: Mapping[JobId, Sent]) -> States:
    return {number: one.state for number, one in told.items() if number in ids and _is_ours(one, sent.get(number))}


def _is_ours(one: Told, sent: Sent | None) -> bool:
    """Whether it is the job that we sent, not an earlier one with the same id."""
    if sent is None:
        return True
    known_since = one.submitted is None or one.submitted >= sent.since - CLOCKS_DIFFER_SECONDS
    return one.name == slurm_name(sent.name) and known_since


def _answers(done: Output) -> bool | None:
    """Whether a command answered; None for one that this site does not have."""
    if done.status == 0 or _no_such_job(done):
        return True
    return None if done.status in _NOT_THERE or "storage is disabled" in _message_of(done) else False


def _no_such_job(done: Output) -> bool:
    return "invalid job id" in _message_of(done).lower()


def _message_of(done: Output) -> str:
    return (done.stderr or done.stdout).decode(errors="replace").strip()
