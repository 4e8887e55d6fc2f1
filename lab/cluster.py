"""A lab's life: up, status, down."""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lab import accounting, conf, places
from lab.processes import end, start, started, wait
from lab.setup import LOGIN, PATH, ROOT, Lab, become, load, refuse

_READY_SECONDS = 60
_CANCEL_SECONDS = 20
_KEPT = frozenset(("work", "log"))  # a user's results, and what says why a lab did not come up
_MEMORY = Path("/sys/fs/cgroup/memory")
_MADE = ("munge", "state", "spool", "run", "ssh", "db", "home")
_WRITTEN = ("hosts", "passwd", "shadow", "slurm.conf", "gres.conf", "cgroup.conf", "slurmdbd.conf", "config.toml")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No two commands change one lab at once: the second waits."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def up(lab: Lab) -> bool:
    """Bring it up; whatever fails takes down what was started. False if it was up already."""
    folder = lab.folder
    if folder.exists() and not (folder / "lab.json").exists() and {path.name for path in folder.iterdir()} - _KEPT:
        refuse(f"{folder} holds something that is not a lab: name a folder that is empty or not there yet")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        before = load(folder)
        if before is not None and _complete(before):
            if not before.same_as(lab):
                refuse(f"{folder} is up with other options: scripts/lab down {folder} first")
            return False
        _clean(folder)
        shutil.rmtree(folder / "log", ignore_errors=True)
        try:
            lab.save()
            _write(lab)
            _reachable(lab)
            _start(lab)
        except BaseException:
            _clean(folder)
            raise
    return True


def down(folder: Path) -> None:
    """End its jobs and its processes and remove its files, all but work/ and log/. Quiet if there is nothing."""
    if not (folder / "lab.json").exists():
        return
    with alone(folder):
        lab = load(folder)
        if lab is not None and _complete(lab):
            _cancel_jobs(lab)
        _clean(folder)


def status(folder: Path) -> str | None:
    """What runs and what does not; None if nothing is up."""
    lab = load(folder)
    if lab is None:
        return None
    dead = [process.name for process in started(folder) if not process.alive]
    if dead or not started(folder):
        return f"broken: {', '.join(dead) or 'nothing'} is gone; scripts/lab up {folder} makes it anew\n"
    nodes = ask(lab, "sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%N %T")
    jobs = ask(lab, "squeue", "--noheader", "--format=%i %T %u %j %N")
    return f"nodes\n{nodes}jobs\n{jobs or 'none' + chr(10)}"


def ask(lab: Lab, *argv: str) -> str:
    """What a command says on the login node, nothing if it fails."""
    words = [*places.enter(lab, LOGIN), *argv]
    return subprocess.run(words, env=lab.environment(), capture_output=True, text=True, check=False).stdout


def _complete(lab: Lab) -> bool:
    """Whether all that was started runs, the door to it last."""
    processes = started(lab.folder)
    return bool(processes) and processes[-1].name == "sshd" and all(process.alive for process in processes)


def _write(lab: Lab) -> None:
    """The folders, the keys and the configuration."""
    folder, user = lab.folder, lab.user
    for name in ("munge", "state", "run", "log", "ssh", "home", "db/data", *(f"spool/{node}" for node in lab.nodes)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path in (folder, folder / "munge"):
        path.chmod(0o755)
    _secret(folder / "munge/munge.key", os.urandom(128))
    lab.work.mkdir(mode=0o700, exist_ok=True)
    for key in ("host", "user"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab-{key}", "-f", f"{folder}/ssh/{key}"]
        subprocess.run(argv, check=True)
    ssh = folder / "ssh"
    (ssh / "authorized").write_text((ssh / "user.pub").read_text())
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{lab.ports['ssh']} {(ssh / 'host.pub').read_text()}")
    (ssh / "sshd_config").write_text(conf.sshd(lab))
    hostname = socket.gethostname().split(".")[0]
    lab.conf.write_text(conf.slurm(lab, hostname))
    (folder / "gres.conf").write_text(conf.gres(lab))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n")
    (folder / "config.toml").write_text(conf.profile(lab))
    if os.geteuid() == 0:
        for path in (lab.work, folder / "home", ssh / "user"):
            os.chown(path, user.uid, user.gid)
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd shuts itself in before a login
    if user.made:
        line = f"{user.name}:x:{user.uid}:{user.gid}::{user.home}:/bin/bash\n"
        (folder / "passwd").write_text(_without(user.name, Path("/etc/passwd")) + line)
        line = f"{user.name}:*:19000:0:99999:7:::\n"
        _secret(folder / "shadow", (_without(user.name, Path("/etc/shadow")) + line).encode())


def _without(name: str, accounts: Path) -> str:
    lines = accounts.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.split(":")[0] != name)


def _secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _reachable(lab: Lab) -> None:
    """An ordinary user must be able to use what root has made."""
    argv = [*become(lab.user), "test", "-x", str(lab.work)]
    if subprocess.run(argv, cwd="/", capture_output=True, check=False).returncode:
        refuse(f"the user {lab.user.name} cannot go to {lab.folder}: choose a folder that everybody may read")


def _start(lab: Lab) -> None:
    """munged, the database where wanted, slurmctld, the nodes, and sshd as the last."""
    munge, text = lab.folder / "munge", str(lab.conf)
    places.make(lab)
    login = places.enter(lab, LOGIN)
    files = [f"--{key}={munge}/{name}" for key, name in (("key-file", "munge.key"), ("socket", "munge.sock"))]
    files += [f"--pid-file={munge}/pid", f"--seed-file={munge}/seed", f"--log-file={lab.folder}/log/munged.log"]
    start(lab, "munged", [*login, "munged", "--foreground", "--force", *files])
    wait(lab, (munge / "munge.sock").exists, "munged did not come up", _READY_SECONDS)
    if lab.slurmdbd:
        accounting.begin(lab)
    start(lab, "slurmctld", [*login, "slurmctld", "-D", "-c", "-f", text])
    for name in lab.nodes:
        start(lab, name, [*places.enter(lab, name), "slurmd", "-D", "-N", name, "-f", text])
    wait(lab, lambda: _idle(lab) == len(lab.nodes), "the nodes did not come up", _READY_SECONDS)
    sshd = shutil.which("sshd", path=PATH) or "sshd"  # it wants its whole path
    options = ["-e", "-f", f"{lab.folder}/ssh/sshd_config"]
    if lab.netns:
        door = [sys.executable, f"{ROOT}/lab/doorman.py", str(lab.ports["ssh"])]
        start(lab, "sshd", [*door, *login, sshd, "-i", *options])
    else:
        start(lab, "sshd", [*login, sshd, "-D", *options])
    wait(lab, lambda: _listens(lab.ports["ssh"]), "sshd did not come up", _READY_SECONDS)
    if not _complete(lab):
        refuse(f"a daemon ended: {status(lab.folder)}")


def _idle(lab: Lab) -> int:
    return len(ask(lab, "sinfo", "-h", "-N", "-t", "idle", "-p", "cpu").splitlines())


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def _cancel_jobs(lab: Lab) -> None:
    """By id, and wait for their ends; what is left then is ended with the daemons."""
    if jobs := ask(lab, "squeue", "-h", "-o", "%A").split():
        ask(lab, "scancel", *set(jobs))
        with contextlib.suppress(SystemExit):
            wait(lab, lambda: not ask(lab, "squeue", "-h"), "the jobs did not end", _CANCEL_SECONDS)


def _clean(folder: Path) -> None:
    """End every process and remove every file of a lab, whatever state it is in."""
    end(folder)
    lab = load(folder)
    for node in lab.nodes if lab is not None and "cgroup" in lab.settings.get("TaskPlugin", "") else ():
        with contextlib.suppress(OSError):  # slurmd leaves its own behind
            (_MEMORY / f"slurm_{node}").rmdir()
    for name in _MADE:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (*_WRITTEN, "lab.json"):
        (folder / name).unlink(missing_ok=True)
