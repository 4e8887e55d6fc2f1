"""Does a profile work? Checks from the login to a compute node, each with what to do about it when it fails.

A check that depends on one that failed is skipped and says so. Nothing is changed but the base path, which is made, and
a folder in it that is removed again.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from time import monotonic

from tokenstorm.cluster.checks import Check, Finding, Needs, Step, Visit
from tokenstorm.cluster.nodechecks import ON_NODES
from tokenstorm.cluster.site import make_base, open_shell, site_over
from tokenstorm.cluster.slurm import directives
from tokenstorm.cluster.ssh import Ask
from tokenstorm.cluster.step import Kind, clean, probe_job
from tokenstorm.config import Profile
from tokenstorm.errors import TokenstormError


async def examine(profile: Profile, needs: Needs | None = None, ask: Ask | None = None) -> AsyncIterator[Check]:
    """Every check of a profile as it is done, in order; `ask` is for the login. Raises UsageError for a profile that cannot be opened."""
    shell = open_shell(profile, ask)
    folder = profile.base_path / f".doctor-{secrets.token_hex(6)}"
    visit = Visit(site_over(shell, profile), needs, folder, greeting=secrets.token_bytes(16))
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
    """Whether anything found would."""
    return any(check.state == "failed" for check in checks)


async def _done(step: Step, visit: Visit) -> Check:
    missing = [name for name in step.after if visit.states.get(name, "ok") in {"failed", "skipped"}]
    if missing:
        return Check(step.name, "skipped", f"needs `{missing[0]}`")
    try:
        state, text = await step.look(visit)
    except TokenstormError as error:
        state, text = "failed", str(error)
    return Check(step.name, state, " ".join(text.split()))


async def _login(visit: Visit) -> Finding:
    began = monotonic()
    done = await visit.site.shell.run(["sh", "-c", "id -un; uname -n"])
    who, where = [*done.stdout.decode(errors="replace").split(), "?", "?"][:2]
    if visit.site.profile.ssh.host:
        return "ok", f"{who} on {where}, in {monotonic() - began:.1f} s"
    return "ok", f"{who} on {where}: this machine, no SSH"


_COMMANDS = ("sbatch", "srun", "scancel", "squeue", "scontrol", "sacct")
_NEEDED, _TELLING = frozenset(("sbatch", "srun", "scancel", "squeue")), frozenset(("squeue", "scontrol", "sacct"))


async def _slurm(visit: Visit) -> Finding:
    found = await visit.site.shell.run(["sh", "-c", 'for name; do command -v "$name"; done; true', "sh", *_COMMANDS])
    there = {line.rpartition("/")[2] for line in found.stdout.decode(errors="replace").split()}
    if missing := sorted(_NEEDED - there):
        return "failed", (
            f"no {', '.join(missing)} on the path of the login node: is this the login node of a Slurm cluster? "
            "Set the path in the file that a shell without a terminal reads (~/.bashrc)"
        )
    answer = await visit.site.shell.run(clean(["sinfo", "--version"]))
    version = answer.stdout.decode(errors="replace").strip() or "Slurm"
    asked = await visit.site.shell.run(clean(["squeue", "--me", "--noheader"]))
    if asked.status:
        said = asked.stderr.decode(errors="replace").strip()
        return "failed", f"{version} is there, but squeue fails: {said}; ask the site whether Slurm is up"
    return "ok", f"{version}; states from {', '.join(sorted(_TELLING & there))}"


async def _base_path(visit: Visit) -> Finding:
    shell, profile = visit.site.shell, visit.site.profile
    await make_base(shell, profile)
    await shell.put(visit.folder / "from-login", b"login")
    await shell.get(visit.folder / "from-login")
    done = await shell.run(["stat", "-c", "%a", "--", str(profile.base_path)])
    mode = done.stdout.decode(errors="replace").strip()
    if mode != "700":
        return "warning", f"{profile.base_path} has mode {mode}: others may look into it; chmod 700 {profile.base_path}"
    return "ok", f"{profile.base_path} can be written and is this user's alone"


async def _cpu(visit: Visit) -> Finding:
    return await _accepted(visit, "cpu")


async def _gpu(visit: Visit) -> Finding:
    if visit.site.profile.partitions.gpu is None:
        return "skipped", "the profile has no partitions.gpu: recipes that need a GPU cannot run"
    return await _accepted(visit, "gpu")


async def _accepted(visit: Visit, kind: Kind) -> Finding:
    profile = visit.site.profile
    lines = "\n".join(["#!/bin/sh", *directives(probe_job(visit.site, kind), profile), "true", ""])
    done = await visit.site.shell.run(clean(["sbatch", "--test-only"]), stdin=lines.encode())
    said = done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip()
    name = f"profiles.{profile.name}"
    if done.status:
        return "failed", f"sbatch refuses: {said}; see {name}.partitions.{kind}, {name}.account and {name}.qos"
    return "ok", said.splitlines()[-1].removeprefix("sbatch: ") if said else "accepted"


_STEPS = (
    Step("login", _login),
    Step("slurm", _slurm, ("login",), "slurm"),
    Step("base path", _base_path, ("login",)),
    Step("cpu partition", _cpu, ("slurm", "base path"), "slurm"),
    Step("gpu partition", _gpu, ("slurm", "base path"), "slurm"),
    *ON_NODES,
)
