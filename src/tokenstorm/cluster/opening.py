"""Open a profile: choose its shell and its scheduler, and make its base path."""

from pathlib import Path

from tokenstorm.cluster.local import LocalScheduler, LocalShell
from tokenstorm.cluster.shell import Shell
from tokenstorm.cluster.site import Site
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.cluster.ssh.asking import Ask
from tokenstorm.cluster.ssh.inside import beside_a_job
from tokenstorm.config.profile import Profile
from tokenstorm.errors import Unreachable


async def open_site(profile: Profile, ask: Ask | None = None) -> Site:
    """Open a profile, and make its base path for this user alone; `ask` is for its login. Raises `UsageError` or `Unreachable`."""
    shell = open_shell(profile, ask)
    try:
        there = await settled(shell, profile)
    except BaseException:
        await shell.close()
        raise
    return site_over(shell, there)


def open_shell(profile: Profile, ask: Ask | None = None) -> Shell:
    """The shell of a profile; it logs in when it is first used. Raises `UsageError`."""
    if not profile.ssh.host:
        return LocalShell()
    inside = beside_a_job(profile) if profile.scheduler == "slurm" else None
    if profile.ssh.shell == "openssh":
        from tokenstorm.cluster.ssh.openssh import OpenSSH  # noqa: PLC0415 - each way to log in is loaded where it is chosen

        return OpenSSH(profile.ssh, ask=ask, inside=inside)
    from tokenstorm.cluster.ssh.native import SSHManager  # noqa: PLC0415

    return SSHManager(profile.ssh, ask=ask, inside=inside)


def site_over(shell: Shell, profile: Profile) -> Site:
    """A profile whose shell is open and whose base path is there."""
    if profile.scheduler == "slurm":
        return Site(profile, shell, Slurm(shell, profile), has_gpu=profile.offers_gpus)
    return Site(profile, shell, LocalScheduler(shell, profile), has_gpu=_has_gpu())


async def settled(shell: Shell, profile: Profile) -> Profile:
    """Make the base path, if it is not there. Returns the profile with the user's home there. Raises `Unreachable`."""
    base = str(profile.base_path)
    made = await shell.run(["sh", "-c", 'umask 077; mkdir -p -- "$1" && printf %s "${HOME-}"', "sh", base])
    if made.status:
        message = f"cannot make {base}: {made.stderr.decode(errors='replace').strip()}; choose another base_path"
        raise Unreachable(message)
    return profile.at_home(made.stdout.decode(errors="surrogateescape"))


def _has_gpu() -> bool:
    """Whether this machine has a device file of an NVIDIA GPU, the kind that the shipped recipes ask for."""
    return any(Path("/dev").glob("nvidia[0-9]*"))
