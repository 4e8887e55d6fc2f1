"""Does a profile work? Checks from the login to a compute node, each with what to do about it when it fails.

A check that depends on one that failed is skipped and says so. Nothing is changed but the base path, which is made, and
folders in it that are removed again. One node is held for all checks on nodes of its kind.
"""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from time import monotonic

from tokenstorm.cluster.clusters import clean
from tokenstorm.cluster.opening import open_shell, settled, site_over
from tokenstorm.cluster.pending import SETTLED_SECONDS, VAGUE, pends_for_ever
from tokenstorm.cluster.scheduler import Job, JobState, Sent, state_of
from tokenstorm.cluster.setup.blame import accepted, keys, refused
from tokenstorm.cluster.setup.checks import Check, Finding, Needs, State, Step, Visit
from tokenstorm.cluster.setup.hold import Say, probe_job, submitted, written
from tokenstorm.cluster.setup.nodechecks import ON_NODES
from tokenstorm.cluster.ssh.asking import Ask
from tokenstorm.cluster.ssh.remote import Remote
from tokenstorm.cluster.ssh.sessions import COUNTED
from tokenstorm.config.profile import Profile
from tokenstorm.errors import NoNodeFree, RefusedFile, RefusedJob, TokenstormError, Unreachable


def _to_nobody(line: str) -> None:
    """Ignores the line that says what is waited for."""


async def examine(
    profile: Profile, needs: Needs | None = None, ask: Ask | None = None, say: Say = _to_nobody
) -> AsyncGenerator[Check, None]:
    """Every check of a profile as it is done, in order; `ask` is for the login, `say` is told what is waited for.

    Raises UsageError for a profile that cannot be opened.
    """
    shell = open_shell(profile, ask)
    folder = profile.base_path / f".doctor-{secrets.token_hex(6)}"
    visit = Visit(site_over(shell, profile), needs, folder, greeting=secrets.token_bytes(16), say=say)
    try:
        async with visit.stack:
            for step in _STEPS:
                if step.only and profile.scheduler != step.only:
                    continue
                check = await _done(step, visit)
                visit.states[step.name] = check.state
                yield check
    finally:
        with contextlib.suppress(TokenstormError):
            if visit.states.get("login") == "ok":
                await shell.remove(visit.folder)
        await shell.close()


def stops_a_run(checks: Sequence[Check]) -> bool:
    """Whether any finding keeps a run from starting."""
    return any(check.state == "failed" for check in checks)


async def _done(step: Step, visit: Visit) -> Check:
    missing = [name for name in step.after if visit.states.get(name, "ok") in {"failed", "skipped"}]
    if missing:
        return Check(step.name, "skipped", f"needs `{missing[0]}`")
    try:
        state, text = await step.look(visit)
    except NoNodeFree as error:
        state, text = "skipped", f"{error}; nothing is known to be wrong: try again when fewer jobs wait"
    except TokenstormError as error:
        state, text = "failed", str(error)
    return Check(step.name, state, " ".join(text.split()))


async def _login(visit: Visit) -> Finding:
    began, profile = monotonic(), visit.site.profile
    try:
        done = await visit.site.shell.run(["sh", "-c", "id -un; uname -n"])
    except Unreachable as error:
        unheard = isinstance(error.__cause__, OSError) and profile.ssh.host
        advice = f"; see that `ssh {profile.ssh.host}` gets there, and what profiles.{profile.name}.ssh says of it"
        return "failed", f"{error}" + (advice if unheard else "")
    who, where = [*done.stdout.decode(errors="replace").split(), "?", "?"][:2]
    took = monotonic() - began
    if isinstance(visit.site.shell, Remote):
        return "ok", f"{who} on {where}, in {took:.1f} s{_few(await visit.site.shell.count_sessions())}"
    return "ok", f"{who} on {where}: this machine, no SSH"


def _few(sessions: int) -> str:
    """In words, how few sessions the SSH server gives and what follows from that; empty where it gives enough."""
    if sessions >= COUNTED:
        return ""
    if sessions == 1:
        return "; its SSH server gives 1 session at a time (MaxSessions): commands and files go one after another"
    return f"; its SSH server gives {sessions} sessions at a time (MaxSessions): the rest waits for them to end"


_NO_NODE = re.compile("DOWN|DRAINED|NotAvail")
_VERSION = re.compile(r"slurm[\w-]* \d+(?:\.\d+)+\S*", re.ASCII)
_NEEDED, _TELLING = ("sbatch", "scancel"), ("squeue", "scontrol", "sacct")


async def _slurm(visit: Visit) -> Finding:
    found = await visit.site.shell.run(
        ["sh", "-c", 'for name; do command -v "$name"; done; true', "sh", *_NEEDED, *_TELLING]
    )
    there = {line.rpartition("/")[2] for line in found.stdout.decode(errors="replace").split()}
    missing = [name for name in _NEEDED if name not in there]
    missing += [] if there & set(_TELLING) else [" or ".join(_TELLING)]
    if missing:
        return "failed", (
            f"no {', '.join(missing)} on the path of the login node: is this the login node of a Slurm cluster? "
            "Set the path in the file that a shell without a terminal reads (~/.bashrc)"
        )
    answer = await visit.site.shell.run(clean(visit.site.profile.cluster, ["sinfo", "--version"]))
    named = _VERSION.findall(answer.stdout.decode(errors="replace"))  # behind what start-up files print
    version = named[-1] if named else "Slurm"
    try:
        await visit.site.scheduler.states(["1"])
    except Unreachable as error:
        return "failed", f"{version} is there, but {error}; ask the site whether Slurm is up"
    telling, silent = [name for name in _TELLING if name in there], ""
    if "sacct" in there:
        asked = await visit.site.shell.run(
            ["timeout", "10", *clean(visit.site.profile.cluster, ["sacct", "--noheader", "--jobs=1"])]
        )
        if asked.status:
            telling.remove("sacct")
            words = asked.stderr.decode(errors="replace").strip().splitlines()
            silent = f" (sacct: {words[-1] if words else 'no answer'})"
    return "ok", f"{version}; states from {', '.join(telling)}{silent}"


async def _base_path(visit: Visit) -> Finding:
    shell, profile = visit.site.shell, await settled(visit.site.shell, visit.site.profile)
    visit.site = site_over(shell, profile)
    try:
        await shell.put(visit.folder / "from-login", b"login")
        await shell.get(visit.folder / "from-login")
    except RefusedFile as error:
        return "failed", f"{error}; choose another base_path, or see its quota and who owns it"
    text = 'stat -c "%a %U" -- "$1"; id -un'
    done = await shell.run(["sh", "-c", text, "sh", str(profile.base_path)])
    mode, owner, user = [*done.stdout.decode(errors="replace").split(), "?", "?", "?"][:3]
    if owner != user:
        return (
            "failed",
            f"{profile.base_path} belongs to {owner}, who can read what {user} puts there: choose another base_path",
        )
    if mode != "700":
        return "warning", f"{profile.base_path} has mode {mode}: others may look into it; chmod 700 {profile.base_path}"
    by = f"; files go by commands: {shell.no_sftp}" if isinstance(shell, Remote) and shell.no_sftp else ""
    return "ok", f"{profile.base_path} can be written and is this user's alone{by}"


async def _cpu(visit: Visit) -> Finding:
    job = probe_job("cpu", visit.site.profile.base_path)
    state, said = await _check_only(visit, job)
    return (state, said) if state == "ok" else await _submit_for_real(visit, job, state, said)


async def _gpu(visit: Visit) -> Finding:
    if not visit.site.profile.offers_gpus:
        return "skipped", "the profile has no partitions.gpu and no table `gpu`: recipes that need a GPU cannot run"
    return await _submit_after_check(visit, probe_job("gpu", visit.site.profile.base_path))


async def _recipe_job(visit: Visit) -> Finding:
    if visit.needs is None:
        return "skipped", "name a recipe with --recipe to have checked whether Slurm takes its job"
    probe = probe_job(visit.needs.kind, visit.site.profile.base_path)
    return await _submit_after_check(visit, replace(visit.needs.job, name=probe.name, folder=probe.folder))


async def _check_only(visit: Visit, job: Job) -> Finding:
    """What `sbatch --test-only` says. It checks options and nodes, and not all limits."""
    shell, profile = visit.site.shell, visit.site.profile
    taken, said = await accepted(shell, job, profile)
    if not taken:
        advice = await refused(shell, job, profile, said)
        return "failed", f"sbatch does not accept {_describe(job)}: {said}; {advice}"
    return "ok", said.splitlines()[-1].removeprefix("sbatch: ")


async def _submit_after_check(visit: Visit, job: Job) -> Finding:
    """The same check, then a real job: only the reason why that one pends shows limits of partition, account and qos."""
    return await _submit_for_real(visit, job, *await _check_only(visit, job))


async def _submit_for_real(visit: Visit, job: Job, state: State, said: str) -> Finding:
    """Submit a real job where --test-only had a complaint: while all nodes are down, --test-only refuses good jobs too."""
    try:
        async with submitted(visit.site, job) as job_id:
            seen, never = await _wait_for_verdict(visit, job, job_id)
            ran = seen.phase == "ended" and seen.outcome == "completed"
            complaints = "" if ran or seen.phase != "ended" else await written(visit.site, job.folder / "stderr.log")
    except RefusedJob as error:
        return "failed", said if state == "failed" else str(error)
    if ran:
        return "ok", f"{_describe(job)} ran"
    if never:
        return (
            "failed",
            f"{_describe(job)} would wait for ever: {seen.reason}; {keys(visit.site.profile, job.kind, seen.reason)}",
        )
    if seen.phase == "ended":
        why = f"{seen.outcome}, status {seen.exit_code}: {complaints or 'it said nothing'}"
        advice = "see the prologue, and whether those nodes share the base path"
        return (
            "failed",
            f"{_describe(job)} got {', '.join(seen.nodes) or 'no node'} and ended at once ({why}); {advice}",
        )
    if state == "failed" and _NO_NODE.search(seen.reason):
        return "warning", f"{_describe(job)} is taken and waits: {seen.reason}; ask the site when its nodes are back"
    return state, said + (f"; now {seen.reason}" if seen.reason else "")


async def _wait_for_verdict(visit: Visit, job: Job, job_id: str) -> tuple[JobState, bool]:
    """Wait until a job ended or Slurm says why it pends. Returns its state, and whether it would pend for ever."""
    began = monotonic()
    while True:
        state = await state_of(visit.site.scheduler, job_id, Sent(job.name)) or JobState("pending")
        waited = monotonic() - began
        never = pends_for_ever(state, waited)
        waits = state.phase == "pending" and state.reason not in ("", VAGUE)
        if never or waits or state.phase == "ended" or waited > SETTLED_SECONDS:
            return state, never
        await asyncio.sleep(0.2)


def _describe(job: Job) -> str:
    """What a job wants, in words."""
    nodes = "a node" if job.nodes == 1 else f"{job.nodes} nodes"
    each = [f"{job.gpus_per_node} GPU{'s' * (job.gpus_per_node > 1)}"] if job.gpus_per_node else []
    each += [f"{job.cpus_per_task} CPUs"] if job.cpus_per_task > 1 else []
    each += [f"{job.memory_mb} MB"] if job.memory_mb else []
    return f"a job of {nodes}{' with ' * bool(each)}{', '.join(each)} for {job.time_limit_minutes} minutes"


_STEPS = (
    Step("login", _login),
    Step("slurm", _slurm, ("login",), "slurm"),
    Step("base path", _base_path, ("login",)),
    Step("cpu partition", _cpu, ("slurm", "base path"), "slurm"),
    Step("gpu partition", _gpu, ("slurm", "base path"), "slurm"),
    Step("recipe job", _recipe_job, ("slurm", "base path"), "slurm"),
    *ON_NODES,
)
