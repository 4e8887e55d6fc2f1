"""Processes of this machine, each distinguished from later ones with the same pid. Linux only: it reads /proc.

A number is not a process: a pid is used again. What does not repeat is the pid together with the tick at which the
process started and the boot of the machine.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

GIVE_UP_SECONDS = 10.0
"""How long after KILL a process may still be seen: one that waits for a dead disk cannot end."""
_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process, for all time. `start` is in ticks since the boot `boot`."""

    pid: int
    start: int
    boot: str

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        found = _stat(self.pid)
        return found is not None and found.start == self.start and self.boot == _boot()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal. If it is over, no other process gets the signal."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:  # the handle stays with this process, whatever becomes of the number
                if self.alive():
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


@dataclass(frozen=True)
class _Stat:
    session: int
    start: int


def this_process() -> Process:
    """Ourselves."""
    found = _stat(os.getpid())
    assert found, "this process runs"
    return Process(os.getpid(), found.start, _boot())


def started_at(pid: int) -> float | None:
    """When the process with that number started (Unix time), to a second or so; None when there is none."""
    found = _stat(pid)
    if found is None:
        return None
    up = float((_PROC / "uptime").read_text().split()[0])
    return time.time() - up + found.start / os.sysconf("SC_CLK_TCK")


def job_processes(leader: Process, mark: str) -> list[Process]:
    """All of a job but its session's leader: those in the session, and those whose environment holds `mark`.

    A session keeps its number from being used again as long as it has a member; when the leader's pid belongs to
    another process, the session is over and what has its number is somebody else's.
    """
    boot = _boot()
    leading = _stat(leader.pid)
    ours = leader.boot == boot and (leading is None or leading.start == leader.start)
    found = []
    for pid in _pids():
        stat = _stat(pid)
        if stat is None or pid in (leader.pid, os.getpid()):
            continue
        if (ours and stat.session == leader.pid) or _marked(pid, mark.encode()):
            found.append(Process(pid, stat.start, boot))
    return found


def end(processes: Callable[[], list[Process]], seconds: float) -> None:
    """Send TERM to all, and KILL to those left after so many seconds. Processes that the kernel cannot end are left alone."""
    for process in processes():
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while left := processes():
        late = time.monotonic() - deadline
        if late > GIVE_UP_SECONDS:
            return
        if late >= 0:
            for process in left:
                process.send(signal.SIGKILL)
        time.sleep(0.05)


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> _Stat | None:
    """None when there is no such process, or only its zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(b")")[2].split()  # the program's name may hold anything, a bracket too
    return None if fields[0] in (b"Z", b"X") else _Stat(session=int(fields[3]), start=int(fields[19]))


def _marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return False


def _boot() -> str:
    return (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
