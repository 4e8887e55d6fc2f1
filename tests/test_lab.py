"""`scripts/lab`: a real Slurm and a real sshd on this machine, up and down without a trace."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

import slurmlab
import sshd
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.scheduler import Job
from tokenstorm.config.file import load_config
from tokenstorm.config.profile import Profile

ROOT = Path(__file__).parents[1]
LAB = ROOT / "scripts" / "lab"
PATH = f"{os.environ['PATH']}:/usr/sbin"
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not slurmlab.THERE, reason=slurmlab.MISSING),
    pytest.mark.skipif(not sshd.SSHD, reason=sshd.MISSING),
]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else or make networks")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, ended as a lab whatever the test did."""
    with tempfile.TemporaryDirectory(prefix="lab-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        try:
            yield Path(name) / "lab"
        finally:
            ask("down", Path(name) / "lab")


def ask(*argv: object, before: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    words = [*before, str(LAB), *map(str, argv)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


def bring_up(folder: Path, *options: str, before: tuple[str, ...] = ()) -> str:
    done = ask("up", folder, *options, before=before)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def processes() -> dict[int, str]:
    """The command and the environment of every process that is not over, by number."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if "\nState:\tZ" not in (entry / "status").read_text():
                    said = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
                    found[int(entry.name)] = said.decode(errors="replace")
    return found


def of_the_lab(folder: Path) -> list[str]:
    """The processes that have to do with the lab, sessions of its sshd aside, which hide it."""
    return [text for pid, text in processes().items() if str(folder) in text and pid != os.getpid()]


def sleeps(folder: Path) -> bool:
    """Whether the job that only sleeps has begun."""
    return any(text.startswith("sleep\00077777") for text in of_the_lab(folder))


def profile_of(folder: Path) -> Profile:
    return load_config({"TOKENSTORM_CONFIG": str(folder / "config.toml")}).profile("lab")


def over_ssh(folder: Path, *argv: str) -> str:
    async def run() -> str:
        site = await open_site(profile_of(folder))
        try:
            done = await site.shell.run(argv)
        finally:
            await site.close()
        assert done.status == 0, done.stderr
        return done.stdout.decode()

    return asyncio.run(run())


@contextlib.contextmanager
def open_session(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A session that goes on until it is cut."""
    ssh = profile_of(folder).ssh
    options = ("-F", "none", "-o", f"UserKnownHostsFile={ssh.known_hosts}", "-i", str(ssh.identity_file))
    argv = ["ssh", *options, "-p", str(ssh.port), f"{ssh.user}@{ssh.host}", "echo open; exec sleep 77778"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as session:
        try:
            assert session.stdout is not None
            assert session.stdout.readline() == "open\n"
            yield session
        finally:
            session.kill()


def run_a_job(profile: Profile, *command: str) -> str:
    """Run a job to its end over the profile. Gives its standard output."""

    async def run() -> str:
        site = await open_site(profile)
        try:
            made = PurePosixPath(profile.base_path) / "job"
            await site.shell.run(["mkdir", "--", str(made)])
            job = await site.scheduler.submit(Job(name="job", command=command, folder=made))
            async with asyncio.timeout(60):
                while (state := (await site.scheduler.states([job]))[job]).phase != "ended":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert state.outcome == "completed", state
            return (await site.shell.run(["cat", "--", str(made / "stdout.log")])).stdout.decode()
        finally:
            await site.close()

    return asyncio.run(run())


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_fresh_folder_becomes_a_cluster_and_leaves_no_process(folder: Path) -> None:
    said = ask("up", folder).stdout
    assert said == f"export TOKENSTORM_CONFIG={folder}/config.toml\nexport SLURM_CONF={folder}/slurm.conf\n"
    assert over_ssh(folder, "sinfo", "-hN", "-p", "cpu", "-o", "%N %T").split("\n") == [
        *(f"n{number} idle" for number in range(1, 5)),
        "",
    ]
    assert run_a_job(profile_of(folder), "echo", "it ran") == "it ran\n"
    over_ssh(folder, "sbatch", "-o", "/dev/null", "--wrap", "sleep 77777 & setsid sleep 77777 & wait")
    until(lambda: sleeps(folder), 30)
    with open_session(folder) as session:
        assert ask("down", folder).returncode == 0
        assert session.wait(timeout=30) != 0
    assert not of_the_lab(folder)
    assert {path.name for path in folder.iterdir()} == {"log", "work"}
    again = ask("down", folder)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_up_twice_says_so_and_other_options_are_refused(folder: Path) -> None:
    bring_up(folder, "--nodes", "2")
    first = (folder / "lab.json").read_text()
    assert "was up already: 2 nodes" in bring_up(folder, "--nodes", "2")
    assert (folder / "lab.json").read_text() == first
    refused = ask("up", folder, "--nodes", "3")
    assert refused.returncode == 1
    assert "is up with other options" in refused.stderr
    assert "n2 idle" in ask("status", folder).stdout


def test_up_after_a_crash_starts_anew_and_ends_what_was_left(folder: Path) -> None:
    bring_up(folder, "--nodes", "1")
    over_ssh(folder, "sbatch", "-o", "/dev/null", "--wrap", "exec sleep 77777")
    until(lambda: sleeps(folder), 30)
    for line in (folder / "pids").read_text().splitlines():
        if line.split()[0] in {"munged", "slurmctld", "n1"}:
            os.kill(int(line.split()[1]), signal.SIGKILL)
    until(lambda: "broken" in ask("status", folder).stdout, 10)
    assert "is up" in bring_up(folder, "--nodes", "1")
    assert not sleeps(folder)
    assert run_a_job(profile_of(folder), "true") == ""


def test_an_up_that_fails_half_way_takes_down_what_it_started(folder: Path) -> None:
    done = ask("up", folder, "--set", "SelectType=select/nothing")
    assert done.returncode == 1
    assert "slurmctld" in done.stderr
    assert "Can't find plugin for select/nothing" in done.stderr
    assert not of_the_lab(folder)
    assert {path.name for path in folder.iterdir()} == {"log", "work"}


def test_a_folder_that_holds_something_else_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").touch()
    assert "is not a lab" in ask("up", folder).stderr
    assert ask("down", folder).returncode == 0
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    assert "nothing is up" in ask("status", folder).stderr


@as_root
@pytest.mark.parametrize("name", ["nobody", "stormy"])
def test_root_lets_an_ordinary_user_log_in(folder: Path, name: str) -> None:
    """An account without a shell, and one that this machine does not have: neither is changed or made."""
    accounts = Path("/etc/passwd").read_bytes()
    bring_up(folder, "--nodes", "1", "--user", name)
    assert run_a_job(profile_of(folder), "id", "-un") == f"{name}\n"
    assert Path("/etc/passwd").read_bytes() == accounts
    assert ask("run", folder, "login", "id", "-un").stdout == f"{name}\n"
    assert ask("down", folder).returncode == 0


@as_root
def test_an_ordinary_user_has_a_lab_of_their_own(folder: Path) -> None:
    """Nothing in it is root's. The user is made for this test, in a mount namespace."""
    parent = folder.parent
    os.chown(parent, 64001, 64001)
    accounts = parent / "passwd"
    accounts.write_text(Path("/etc/passwd").read_text() + f"breeze:x:64001:64001::{parent}:/bin/bash\n")
    become = 'mount --bind "$0" /etc/passwd && exec setpriv --reuid=64001 --regid=64001 --clear-groups "$@"'
    breeze = ("unshare", "--mount", "--propagation=private", "sh", "-c", become, str(accounts))
    bring_up(folder, "--nodes", "2", before=breeze)
    pids = [line.split()[1] for line in (folder / "pids").read_text().splitlines()]
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids} == {64001}
    assert run_a_job(profile_of(folder), "id", "-un") == "breeze\n"
    assert "namespaces, which only root may" in ask("up", folder, "--netns", before=breeze).stderr
    assert ask("down", folder, before=breeze).returncode == 0
    assert not of_the_lab(folder)


@as_root
def test_a_node_whose_cable_is_pulled_is_down_until_it_is_back(folder: Path) -> None:
    interfaces = set(Path("/sys/class/net").iterdir())
    bring_up(folder, "--nodes", "2", "--netns", "--set", "SlurmdTimeout=5")
    assert ask("run", folder, "n2", "hostname").stdout == "n2\n"
    assert run_a_job(profile_of(folder), "hostname") in {"n1\n", "n2\n"}
    assert ask("unplug", folder, "n2").returncode == 0
    until(lambda: "n2 down" in ask("status", folder).stdout, 90)
    assert "n1 idle" in ask("status", folder).stdout
    assert ask("plug", folder, "n2").returncode == 0
    until(lambda: "n2 idle" in ask("status", folder).stdout, 90)
    assert ask("down", folder).returncode == 0
    assert not of_the_lab(folder)
    assert set(Path("/sys/class/net").iterdir()) == interfaces


@as_root
def test_each_node_of_a_network_has_a_clock_of_its_own(folder: Path) -> None:
    bring_up(folder, "--nodes", "2", "--netns")
    program = "import time; print(time.clock_gettime(time.CLOCK_MONOTONIC))"
    clocks = [float(ask("run", folder, place, "python3", "-c", program).stdout) for place in ("n1", "n2")]
    assert clocks[1] - clocks[0] > 900


@pytest.mark.skipif(
    not shutil.which("slurmdbd", path=PATH), reason="no slurmdbd here: scripts/lab install --slurmdbd gets it"
)
def test_accounting_answers(folder: Path) -> None:
    bring_up(folder, "--nodes", "1", "--slurmdbd")
    run_a_job(profile_of(folder), "true")
    me = pwd.getpwuid(os.geteuid()).pw_name
    listed = ("sacct", "-nPX", "-u", me, "-o", "JobIDRaw,State")
    until(lambda: over_ssh(folder, *listed) == "1|COMPLETED\n", 60)
    assert ask("down", folder).returncode == 0


@as_root
def test_without_slurm_the_last_lines_say_what_was_skipped() -> None:
    """The program is hidden from this one run."""
    hide = 'mount --bind /dev/null "$(PATH=$PATH:/usr/sbin command -v slurmctld)" && exec "$0" "$@"'
    words = (str(ROOT / ".venv/bin/python"), "-m", "pytest", "-p", "no:cacheprovider", f"{ROOT}/tests/test_lab.py")
    space = ("unshare", "--mount", "--propagation=private", "bash", "-c", hide)
    done = subprocess.run([*space, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
    *_, said, file, how = done.stdout.rstrip().splitlines()
    assert "tests of the cluster were skipped" in said
    assert file.startswith("  tests/test_lab.py: ")
    assert how.startswith("scripts/lab install")
