"""An ordinary user, over SSH, of a site with accounting whose Slurm forgets jobs seconds after their end.

The lab is this file's own: Slurm is root's, the user is made for it; where there are control groups, memory has limits.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

import slurmlab
import sshd
from slurmjobs import NO_ACCOUNTING, NO_DATABASE, SECONDS, TELLING, job, only, output, until, wrapped
from tokenstorm.cluster.scheduler import Job, JobState
from tokenstorm.cluster.shell import Output
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.cluster.ssh.native import SSHManager
from tokenstorm.config.file import load_config
from tokenstorm.config.profile import Profile
from tokenstorm.errors import RefusedJob, Unconfirmed, Unreachable

T = TypeVar("T")
LIMITS = os.access("/sys/fs/cgroup/memory", os.W_OK)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not (slurmlab.THERE and shutil.which("slurmdbd", path="/usr/sbin")), reason=slurmlab.MISSING),
    pytest.mark.skipif(not sshd.SSHD, reason=sshd.MISSING),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can let an ordinary user log in"),
]


class At(SSHManager):
    """A login node with a PATH of this test's."""

    path = ""

    async def run(self, argv: Sequence[str], **options: Any) -> Output:
        return await super().run(["env", f"PATH={self.path}", *argv] if self.path else argv, **options)


@dataclass(frozen=True)
class Place:
    """The lab, and a folder that its user can read."""

    conf: Path
    folder: Path
    profile: Profile

    def job(self, name: str, text: str, **fields: Any) -> Job:
        """A job below the base path."""
        return job(Path(self.profile.base_path) / name, text, **fields)

    def use(self, what: Callable[[Slurm], Awaitable[T]], path: str = "") -> T:
        """What comes of it, as a process that has just been started."""

        async def run() -> T:
            shell = At(self.profile.ssh)
            shell.path = path
            try:
                async with asyncio.timeout(SECONDS):
                    return await what(Slurm(shell, self.profile))
            finally:
                await shell.close()

        return asyncio.run(run())

    def wrapped(self, name: str, **commands: str) -> str:
        """A PATH with these wrappers."""
        (self.folder / name).mkdir(mode=0o755)
        return wrapped(self.folder / name, **commands)


@pytest.fixture(scope="module")
def site() -> Iterator[Place]:
    options = ["--nodes", "1", "--slurmdbd", "--user", "stormy", "--set", "MinJobAge=2"]
    if LIMITS:
        options += [
            "--set",
            "TaskPlugin=task/cgroup",
            "--set",
            "SelectTypeParameters=CR_Core_Memory",
            "--set",
            "DefMemPerCPU=100",
        ]
    with tempfile.TemporaryDirectory(prefix="lab-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with slurmlab.slurm_lab(folder / "lab", *options) as conf:
            config = {"TOKENSTORM_CONFIG": str(conf.parent / "config.toml")}
            yield Place(conf, folder, load_config(config).profile("lab"))


@pytest.fixture(scope="module")
def forgotten(site: Place) -> tuple[str, Job, str]:
    """A job that ended, and one that was cancelled before it began and before its submission was answered; Slurm lists none."""
    ended, cut = site.job("ended", "exit 3"), site.job("cut", "true", nodes=9)

    async def end(slurm: Slurm) -> str:
        number = await slurm.submit(ended)
        await until(slurm, number, "ended")
        return number

    async def cancel(slurm: Slurm) -> str:
        with pytest.raises(Unconfirmed):
            await slurm.submit(cut)
        number = (Path(cut.folder) / "number").read_text().strip()
        await slurm.cancel(number)
        return number

    numbers = site.use(end), site.use(cancel, site.wrapped("cut", sbatch='real "$@" > number; kill -9 $PPID'))
    with pytest.MonkeyPatch.context() as there:
        there.setenv("SLURM_CONF", str(site.conf))
        while output("squeue", "--noheader", "--states=all", "--format=%i"):
            pass
    return numbers[0], cut, numbers[1]


@pytest.mark.parametrize("command", TELLING)
def test_an_ordinary_user_needs_one_command_that_tells_of_jobs(site: Place, command: str) -> None:
    one = site.job(command, "id -un; exec sleep 600")
    said = Path(one.folder) / "stdout.log"
    (site.folder / command).mkdir(mode=0o755)

    async def what(slurm: Slurm) -> JobState:
        number = await slurm.submit(one)
        assert await slurm.submit(one) == number
        assert (await until(slurm, number, "running")).nodes == ("n1",)
        while not said.exists() or said.read_text() != "stormy\n":  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.05)
        await slurm.cancel(number)
        return await until(slurm, number, "ended")

    assert site.use(what, only(site.folder / command, command)).outcome == "cancelled"


@pytest.mark.parametrize(
    ("sacct", "state"),
    [
        ('real "$@"', JobState("ended", "failed", "", 3, ("n1",))),
        (NO_ACCOUNTING, JobState("ended", "lost", "Slurm does not know it any more")),
        (NO_DATABASE, None),
    ],
    ids=["accounting", "none", "down"],
)
def test_a_job_that_slurm_forgot_is_lost_where_no_accounting_knows_it(
    site: Place, forgotten: tuple[str, Job, str], monkeypatch: pytest.MonkeyPatch, sacct: str, state: JobState | None
) -> None:
    monkeypatch.setattr("tokenstorm.cluster.slurm.LISTED_AFTER_SECONDS", -1.0)
    number = forgotten[0]
    path = site.wrapped(f"sacct-{state and state.outcome}", sacct=sacct)
    assert site.use(lambda slurm: slurm.states([number]), path) == ({number: state} if state else {})


def test_a_database_that_does_not_answer_makes_no_job_lost(
    site: Place, forgotten: tuple[str, Job, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real slurmdbd, stopped: sacct hangs. Jobs that Slurm lists are told all the same."""
    monkeypatch.setattr("tokenstorm.cluster.slurm.LISTED_AFTER_SECONDS", -1.0)
    monkeypatch.setattr("tokenstorm.cluster.slurm.ACCOUNTING_SECONDS", 1.0)

    async def what(slurm: Slurm) -> None:
        number = await slurm.submit(site.job("beside", "sleep 600"))
        with stopped(site, "slurmdbd"):
            found = await slurm.states([number, forgotten[0]])
        await slurm.cancel(number)
        assert set(found) == {number}

    site.use(what)


@pytest.mark.parametrize("cluster", ["lab", "nowhere"])
def test_the_cluster_of_the_profile_is_found_by_the_sites_accounting(site: Place, cluster: str) -> None:
    """The real `-M`, which asks slurmdbd where that cluster is."""
    there = replace(site, profile=site.profile.model_copy(update={"cluster": cluster}))
    one = there.job(f"on-{cluster}", "sleep 600")

    async def what(slurm: Slurm) -> str | None:
        number = await slurm.submit(one)
        assert number.isdecimal()
        await until(slurm, number, "running")
        await slurm.cancel(number)
        return (await until(slurm, number, "ended")).outcome

    if cluster == "lab":
        assert there.use(what) == "cancelled"
    else:
        with pytest.raises((RefusedJob, Unreachable), match="nowhere"):
            there.use(what)


@contextlib.contextmanager
def stopped(site: Place, daemon: str) -> Iterator[None]:
    """A daemon of the lab that does nothing for a while."""
    lines = map(str.split, (site.conf.parent / "pids").read_text().splitlines())
    pid = next(int(pid) for name, pid, _ in lines if name == daemon)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_submission_that_slurm_forgot_is_never_made_a_second_time(
    site: Place, forgotten: tuple[str, Job, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled before its answer was seen: nothing in the folder but that an sbatch was begun."""
    _, cut, number = forgotten
    monkeypatch.setattr("tokenstorm.cluster.submission.DOUBT_SECONDS", (0.0,))
    assert not (Path(cut.folder) / "job.id").exists()
    with pytest.raises(RefusedJob, match=r"is lost.*not submitted a second time"):
        site.use(lambda slurm: slurm.submit(cut), site.wrapped("without", sacct=NO_ACCOUNTING))
    with pytest.raises(Unconfirmed, match="database"):
        site.use(lambda slurm: slurm.submit(cut), site.wrapped("broken", sacct=NO_DATABASE))
    assert site.use(lambda slurm: slurm.submit(cut)) == number
    assert site.use(lambda slurm: slurm.states([number]))[number].outcome == "cancelled"
    monkeypatch.setenv("SLURM_CONF", str(site.conf))
    jobs = output("sacct", "-nPX", "--allusers", "--starttime=now-1hour", "--format=JobName").split()
    assert jobs.count(cut.name) == 1


@pytest.mark.skipif(not LIMITS, reason="no control groups of version 1 here, by which this Slurm limits memory")
@pytest.mark.parametrize("command", ["squeue and scontrol", "sacct"])
def test_a_job_that_takes_more_memory_than_it_asked_for_is_told_so(site: Place, command: str) -> None:
    one = site.job(f"memory-{command[:2]}", "exec tail < <(head -c 300M /dev/zero)", memory_mb=60)
    path = ""
    if command == "sacct":
        (site.folder / "memory").mkdir(mode=0o755)
        path = only(site.folder / "memory", command)

    async def what(slurm: Slurm) -> JobState:
        return await until(slurm, await slurm.submit(one), "ended")

    state = site.use(what, path)
    assert (state.outcome, state.nodes) == ("out_of_memory", ("n1",))
