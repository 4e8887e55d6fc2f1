"""A node, held by one job while commands run on it one after another: they wait in the queue once.

Its job has its own poll, beside `tokenstorm.jobs`: each look is also one for the job's files, and the process that holds
a node (a doctor, a deploy) watches no other job with which it could share a question.

They run after the profile's prologue and with its variables, on the nodes of a kind of job and by its options. All of it
travels in files of a folder below the base path, so that nothing stands on a command line, which every user of a machine
can read:

    node            the node's name, once the job runs
    <n>.command     what is to be run
    <n>.done/       its stdout, stderr and status, renamed into place
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from time import monotonic
from typing import Protocol

from tokenstorm.cluster.pending import pends_for_ever
from tokenstorm.cluster.scheduler import Job, JobId, JobState, Kind, Sent, state_of
from tokenstorm.cluster.script import render, words
from tokenstorm.cluster.setup.blame import keys
from tokenstorm.cluster.shell import Output
from tokenstorm.cluster.site import Site
from tokenstorm.errors import ClusterError, NoNodeFree, RefusedJob, Unconfirmed, Unreachable, UsageError

START_SECONDS = 600.0
"""How long to wait for a free node, unless the caller is patient."""
OFTEN_SECONDS, RARELY_SECONDS = 2.0, 10.0
"""Between two looks, at the most: where it cannot take long, and where it can."""
SEEN_SECONDS = 60.0
"""How long a file may take to show on another machine."""
COMMAND_SECONDS = 300.0
IDLE_SECONDS = 120.0
"""After so long without a command the job ends by itself: its caller is gone."""
_MINUTES = 8
"""The time limit for the commands; the idle time is added."""
_END_SECONDS = 15.0
_STATE_SECONDS = 5.0
_SERVE = r"""
cd -- "$1" || exit  # the prologue may have gone elsewhere
printf '%s\n' "${SLURMD_NODENAME:-$(uname -n)}" > .node && mv .node node
number=1 asked=$SECONDS
while [ $((SECONDS - asked)) -lt "$2" ]; do
    if [ -r "$number.command" ]; then
        mkdir ".$number" && bash "$number.command" > ".$number/stdout" 2> ".$number/stderr" < /dev/null
        echo $? > ".$number/status" && mv ".$number" "$number.done"
        number=$((number + 1)) asked=$SECONDS
    else
        sleep 0.2; ls > /dev/null  # a network file system looks again when it is listed
    fi
done
"""
_FROM_STDIN = "exec bash /dev/fd/3 3<&0 </dev/null"
Say = Callable[[str], None]
"""Called with a line that says what is waited for."""


class Node(Protocol):
    """Where the profile's jobs run."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def complaints(self) -> str:
        """What the prologue wrote to standard error, where that is kept apart."""
        ...

    async def run(self, argv: Sequence[str], *, seconds: float = COMMAND_SECONDS) -> Output:
        """Run a command to its end, whatever its status. Raises Unconfirmed when that is not seen in time."""
        ...


@contextlib.asynccontextmanager
async def hold(
    site: Site,
    kind: Kind = "cpu",
    *,
    say: Say,
    idle_seconds: float = IDLE_SECONDS,
    patient: bool = False,
) -> AsyncIterator[Node]:
    """A node for that kind of job; this machine, where jobs run on it.

    A `patient` caller keeps its place in the queue as long as it takes, even while the cluster cannot be reached.

    Raises RefusedJob when Slurm gives none, NoNodeFree when none was free in time, UsageError when the base path is not
    shared with it or the prologue ends the job, and what shell and scheduler raise.
    """
    if site.profile.scheduler == "local":
        yield _Here(site)
        return
    probe = probe_job(kind, site.profile.base_path)
    command = ("bash", "-c", _SERVE, "bash", str(probe.folder), f"{idle_seconds:.0f}")
    job = replace(probe, command=command, time_limit_minutes=_MINUTES + round(idle_seconds / 60))
    async with submitted(site, job) as job_id:
        await _started(site, job, job_id, say, patient=patient)
        name, complaints = [await written(site, job.folder / file) for file in ("node", "stderr.log")]
        yield _Held(site, job, job_id, name, complaints)


@contextlib.asynccontextmanager
async def submitted(site: Site, job: Job) -> AsyncIterator[JobId]:
    """Submit a job; cancel it and remove its folder afterwards."""
    job_id = None
    try:
        try:
            job_id = await site.scheduler.submit(job)
        except RefusedJob as error:
            message = f"{where(site, job.kind)} gives no node: {error}"
            raise RefusedJob(message) from error
        yield job_id
    finally:
        with contextlib.suppress(ClusterError):  # one that begins without its folder ends at once
            if job_id is None:
                job_id = await site.scheduler.withdraw(job)
        with contextlib.suppress(ClusterError):
            if job_id is not None:
                await _end(site, job_id, Sent(job.name))
            await site.shell.remove(job.folder)


def probe_job(kind: Kind, base: PurePosixPath) -> Job:
    """The smallest job of a kind, with a name and a folder of its own; it does nothing."""
    own = f"probe-{secrets.token_hex(6)}"
    return Job(
        name=f"tokenstorm-{own}",
        command=("true",),
        folder=base / f".{own}",
        kind=kind,
        gpus_per_node=1 if kind == "gpu" else 0,
        time_limit_minutes=_MINUTES,
    )


def where(site: Site, kind: Kind) -> str:
    """The nodes for a kind of job, in words."""
    if site.profile.scheduler == "local":
        return "this machine"
    partition = site.profile.of(kind).partition
    return f"partition {partition}" if partition else "the default partition"


async def written(site: Site, path: PurePosixPath) -> str:
    """A file's text, for people; empty if there is no such file."""
    try:
        return (await site.shell.get(path)).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


class _Here:
    name = "this machine"
    complaints = ""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def run(self, argv: Sequence[str], *, seconds: float = COMMAND_SECONDS) -> Output:
        profile = self._site.profile
        job = Job(name="here", command=tuple(argv), folder=profile.base_path)
        script = render(job, profile).encode()
        return await self._site.shell.run(["bash", "-c", _FROM_STDIN], stdin=script, timeout=seconds)


class _Held:
    def __init__(self, site: Site, job: Job, job_id: JobId, name: str, complaints: str) -> None:
        self._site, self._folder, self._job_id, self._sent = site, job.folder, job_id, Sent(job.name)
        self.name, self.complaints = name, complaints
        self._asked = 0

    async def run(self, argv: Sequence[str], *, seconds: float = COMMAND_SECONDS) -> Output:
        self._asked += 1
        done = self._folder / f"{self._asked}.done"
        await self._site.shell.put(done.with_suffix(".command"), f"exec -- {words(argv)}\n".encode())
        await self._appears(done.name, argv[0], seconds)
        status, stdout, stderr = [await self._site.shell.get(done / name) for name in ("status", "stdout", "stderr")]
        return Output(int(status), stdout, stderr)

    async def _appears(self, name: str, what: str, seconds: float) -> None:
        now = began = looked = monotonic()
        while name not in await self._site.shell.list(self._folder):
            now = monotonic()
            if now - began > seconds:
                message = f"{what} on {self.name} did not end in {seconds:.0f} s: whether it did its work is not known"
                raise Unconfirmed(message)
            if now - looked > _STATE_SECONDS:
                looked = now
                state = await state_of(self._site.scheduler, self._job_id, self._sent)
                if state is not None and state.phase == "ended":
                    message = (
                        f"the job {self._job_id} on {self.name} ended ({state.outcome}) before {what} did: try again"
                    )
                    raise Unconfirmed(message)
            await asyncio.sleep(_pause(now - began))


async def _started(site: Site, job: Job, job_id: JobId, say: Say, *, patient: bool) -> None:
    """Wait until the job is seen to run."""
    began, ran_from, told = monotonic(), None, ""
    while True:
        now = monotonic()
        try:
            if "node" in await site.shell.list(job.folder):
                return
            state = await state_of(site.scheduler, job_id, Sent(job.name)) or JobState("pending")
            if state.phase != "pending":
                ran_from = ran_from or now
                await _check_start(site, job, job_id, state, ran=now - ran_from)
        except Unreachable as error:
            if not patient:
                raise
            state = JobState("pending", reason=str(error))
        if state.phase == "pending":
            why = f"job {job_id} is pending" + (f" ({state.reason})" if state.reason else "")
            if pends_for_ever(state, now - began):
                message = f"{where(site, job.kind)} gives no node: {why}; {keys(site.profile, job.kind, state.reason)}"
                raise RefusedJob(message)
            if not patient and now - began > START_SECONDS:
                message = f"no node of {where(site, job.kind)} was free in {START_SECONDS / 60:.0f} minutes: {why}"
                raise NoNodeFree(message)
            if state.reason and why != told:
                say(f"waiting for a node of {where(site, job.kind)}: {why}")
                told = why
        await asyncio.sleep(_pause(now - began, RARELY_SECONDS if patient else OFTEN_SECONDS))


async def _check_start(site: Site, job: Job, job_id: JobId, state: JobState, *, ran: float) -> None:
    """Raises what is wrong with a job that got a node so many seconds ago and has not begun to serve."""
    name = f"profiles.{site.profile.name}"
    what = f"the job {job_id} on {', '.join(state.nodes) or where(site, job.kind)}"
    seen = "stderr.log" in await site.shell.list(job.folder)
    if seen and (state.phase == "ended" or ran > COMMAND_SECONDS):
        said = await written(site, job.folder / "stderr.log")
        end = (
            f"ended ({state.outcome})" if state.phase == "ended" else f"is not through it after {COMMAND_SECONDS:.0f} s"
        )
        message = f"{name}.prologue: {what} {end}: {said or 'it said nothing'}"
        raise UsageError(message)
    if state.outcome == "cancelled":
        message = f"{what} was cancelled before it could be used: try again"
        raise RefusedJob(message)
    if ran > SEEN_SECONDS and not seen:
        message = (
            f"{name}.base_path: {what} ran, and nothing that it wrote to {site.profile.base_path} is seen here after "
            f"{SEEN_SECONDS:.0f} s: choose a base_path on a file system that login and compute nodes share"
        )
        raise UsageError(message)


async def _end(site: Site, job_id: JobId, sent: Sent) -> None:
    """Cancel a job, and wait until it writes nothing more."""
    await site.scheduler.cancel(job_id, sent)
    began = now = monotonic()
    while now - began < _END_SECONDS:
        state = await state_of(site.scheduler, job_id, sent)
        if state is not None and state.phase == "ended":
            return
        await asyncio.sleep(_pause(now - began))
        now = monotonic()


def _pause(waited: float, most: float = OFTEN_SECONDS) -> float:
    """Seconds until the next look; they grow with the time waited."""
    return min(0.1 + waited / 10, most)
