"""A small process that ends our engines when we cannot: killed, out of memory, crashed.

The kernel ends an engine with its parent, but not what that engine started. The keeper sees our end as the end of a
pipe, and kills the process groups that are left.
"""

import contextlib
import os
import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """Room for one engine in the keeper's memory. A process group has the number of its first process."""

    pipe: int
    index: int

    def remember_me(self) -> None:
        """Called in an engine's process before it becomes the engine, so that there is no moment in between."""
        self._say(os.getpid())

    def forget(self) -> None:
        """The engine is over: its number may be another's soon."""
        self._say(0)

    def _say(self, group: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody killed it: engines still end with their parent
            os.write(self.pipe, b"%d %d\n" % (self.index, group))


def start_keeper() -> int:
    """Start it, before there are threads. Returns the pipe to it, for the slots."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(reading)
        return writing
    os.close(writing)
    try:
        _keep(reading)
    finally:
        os._exit(0)


def _keep(pipe: int) -> None:
    """Kill what is left when the other end of the pipe is gone."""
    os.setpgid(0, 0)  # a signal to our group does not end this process
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    groups = {}
    with os.fdopen(pipe, "rb") as lines:
        for line in lines:
            index, group = map(int, line.split())
            groups[index] = group
    for group in filter(None, groups.values()):
        with contextlib.suppress(OSError):  # gone, or not ours to end; the others are
            os.killpg(group, signal.SIGKILL)
