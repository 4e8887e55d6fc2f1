"""The lab's processes: started apart from us, written down with their start times, ended by pid."""

import contextlib
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.setup import MARK, Lab, refuse

_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Process:
    """A process that was started, and is the same one only while `since` is its start time."""

    name: str
    pid: int
    since: str

    @property
    def alive(self) -> bool:
        """Whether it runs; a number that is used again is somebody else's."""
        return _start_time(self.pid) == self.since


def start(lab: Lab, name: str, argv: list[str], *, stdout: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a daemon of the lab in a session of its own. What it says goes to `log/daemons.log`."""
    with (lab.folder / "log/daemons.log").open("ab") as log:
        process = subprocess.Popen(
            argv,
            cwd=lab.folder,
            stdin=subprocess.DEVNULL,
            stdout=log if stdout is None else stdout,
            stderr=log,
            start_new_session=True,
            env=lab.environment(),
        )
    since = _start_time(process.pid)
    with _list(lab.folder).open("a") as listed:
        listed.write(f"{name} {process.pid} {since or 0}\n")
    return process


def started(folder: Path) -> list[Process]:
    """Every daemon that was started, oldest first."""
    with contextlib.suppress(FileNotFoundError):
        lines = (line.split() for line in _list(folder).read_text().splitlines())
        return [Process(name, int(pid), since) for name, pid, since in lines]
    return []


def end(folder: Path) -> None:
    """End the daemons, last first, and then whatever they left: sessions of sshd, steps and processes of jobs."""
    for process in reversed(started(folder)):
        if process.alive:
            _end([process, *_below(process.pid)])
    _end(_marked(folder), seconds=_GRACE_SECONDS / 5)  # a step without its slurmd waits for it, and for nothing else
    _list(folder).unlink(missing_ok=True)


def wait(lab: Lab, done: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait until it is done, or end saying what was not, at once where a daemon has ended."""
    logs = f"{lab.folder}/log says more"
    deadline = time.monotonic() + seconds
    while not done():
        if gone := [process.name for process in started(lab.folder) if not process.alive]:
            last = (lab.folder / "log/daemons.log").read_text(errors="replace").strip().splitlines()[-1:]
            refuse(f"{what}: {', '.join(gone)} ended ({''.join(last)}); {logs}")
        if time.monotonic() > deadline:
            refuse(f"{what} in {seconds:.0f} s; {logs}")
        time.sleep(0.05)


def _end(processes: Iterable[Process], *, seconds: float = _GRACE_SECONDS) -> None:
    """TERM to each, KILL to those that are left after the grace."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        processes = [process for process in processes if process.alive]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        deadline = time.monotonic() + seconds
        while any(process.alive for process in processes) and time.monotonic() < deadline:
            time.sleep(0.02)


def _list(folder: Path) -> Path:
    return folder / "pids"


def _stat(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the third; none for one that is over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields


def _start_time(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[19] if fields else None


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _below(root: int) -> list[Process]:
    """The descendants of a process."""
    children = defaultdict(list)
    for pid in _pids():
        if fields := _stat(pid):
            children[int(fields[1])].append(Process("", pid, fields[19]))
    found: list[Process] = []
    waiting = [root]
    while waiting:
        new = children.pop(waiting.pop(), [])
        found += new
        waiting += [process.pid for process in new]
    return found


def _marked(folder: Path) -> list[Process]:
    """What has the lab's mark: its daemons and their steps, commands over its sshd, and the processes of its jobs."""
    mark, conf = f"{MARK}={folder}".encode(), f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            of_a_job = conf in variables and any(name.startswith(b"SLURM_JOB_ID=") for name in variables)
            if (mark in variables or of_a_job) and pid != os.getpid() and (fields := _stat(pid)):
                found.append(Process("", pid, fields[19]))
    return found
