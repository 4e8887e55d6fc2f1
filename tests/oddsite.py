"""A site whose commands answer oddly: a line of shell is put in the way of one of them, on the PATH of the login node.

In front of the lab, `real` is the command that is wrapped, with its own options; for `sftp` it is the sftp-server. Without
a lab, the commands that are not given are not there at all.
"""

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from grouplab import profile
from slurmjobs import SECONDS, job, wrapped
from sshd import sshd
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.shell import Output, Shell
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.cluster.ssh.native import SSHManager

Command = Literal["sbatch", "squeue", "scontrol", "sacct", "scancel", "sftp"]
ABSENT = dict.fromkeys((name for name in get_args(Command) if name != "sftp"), "exit 127")
SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")


class _Odd(LocalShell):
    """This machine as a login node, with a PATH of its own."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    async def run(self, argv: Sequence[str], **options: Any) -> Output:
        return await super().run(["env", f"PATH={self._path}", *argv], **options)


@dataclass(frozen=True)
class OddSite:
    """`slurm` and `shell` are as the site answers; `plain` is the same Slurm with nothing in its way."""

    folder: Path
    shell: Shell
    slurm: Slurm
    plain: Slurm

    def job(self, text: str, **fields: Any) -> Job:
        """A job that runs a line of shell."""
        return job(self.folder / "job", text, **fields)


Sentence = Callable[[OddSite], Awaitable[None]]


@dataclass(frozen=True)
class Odd:
    """One oddity: what a command of the site does in its place, as a line of shell, and the sentence that has to hold."""

    name: str
    command: Command
    answer: str
    holds: Sentence
    besides: Mapping[Command, str] = field(default_factory=dict)
    """Other commands that are odd at the same time."""


def prove(odd: Odd, folder: Path) -> None:
    """The sentence, on a site that is odd in this way. The lab is that of the test's environment."""
    asyncio.run(_prove(odd, folder))


async def _prove(odd: Odd, folder: Path) -> None:
    async with AsyncExitStack() as stack:
        if odd.command == "sftp":
            shell: Shell = _over_sftp(stack, odd, folder)
            stack.push_async_callback(shell.close)
        else:
            shell = _Odd(wrapped(folder, **{odd.command: odd.answer, **odd.besides}))
        settings, plain = profile(folder), LocalShell()
        async with asyncio.timeout(SECONDS):
            await odd.holds(OddSite(folder, shell, Slurm(shell, settings), Slurm(plain, settings)))


def scripted(folder: Path, answers: Mapping[Command, str]) -> Slurm:
    """A site without a lab: its commands are these lines of shell."""
    return Slurm(_Odd(wrapped(folder, **{**ABSENT, **answers})), profile(folder))


def _over_sftp(stack: AsyncExitStack, odd: Odd, folder: Path) -> SSHManager:
    server = folder / "sftp"
    server.write_text(f'#!/bin/bash\nreal() {{ {shlex.quote(str(SFTP_SERVER))} "$@"; }}\n{odd.answer}\n')
    server.chmod(0o755)
    login = stack.enter_context(sshd(folder / "ssh", sftp=str(server)))
    return SSHManager(login.ssh)
