"""`python -m tokenstorm.cluster.supervise FOLDER`: one job of the local scheduler, from its start to its end.

The command returns once the job is taken on; the job is looked after by a process of its own, in a session of its
own, so that it outlives the process that asked for it. TERM to that process cancels the job. When the supervisor is killed
itself, the job's processes can still be told by their session and their mark (see `processes.job_processes`).
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from tokenstorm.cluster.jobfolder import MARK, JobFolder, Order, State
from tokenstorm.cluster.processes import Process, end, job_processes, this_process
from tokenstorm.interfaces import node_name
from tokenstorm.runs import signal_name


def main() -> int:
    """Start the supervisor and wait until it has taken the job on. Returns the exit code."""
    folder = JobFolder(Path(sys.argv[1]))
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading) as answer:
            said = answer.read()
        sys.stderr.write(said)
        return 1 if said else 0
    os.close(reading)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "w") as answer:
        try:
            _leave_the_caller(writing)
            order = folder.order()
            assert order is not None, "the order is written before a supervisor is started"
            os.chdir(order.folder)
            supervisor = _Supervisor(folder, order)
            if not folder.claim(this_process()):
                return 0  # another supervisor looks after it, or did
            supervisor.start()
        except OSError as error:
            where = f" {error.filename}:" if error.filename else ""
            answer.write(f"cannot start the job:{where} {error.strerror}\n")
            return 1
    supervisor.follow()
    return 0


def _leave_the_caller(keep: int) -> None:
    """A session, a mask and standard files of its own, and no others but one: uvloop hands on the pipes that it reads."""
    os.setsid()
    os.umask(0o077)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))


_NOT_A_JOBS = "TOKENSTORM_TOKEN"
"""The token of the APIs is not for jobs."""


class _Supervisor:
    """Starts the script and follows it to its end. From its construction on, TERM asks it to cancel the job."""

    def __init__(self, folder: JobFolder, order: Order) -> None:
        self._folder = folder
        self._order = order
        self._state = State(phase="running", node=node_name())
        self._cancelled = False
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._cancel)
        signal.signal(signal.SIGINT, self._cancel)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake up

    def start(self) -> None:
        """Start the script; a machine that cannot makes the job a failed one."""
        self._folder.write_state(self._state)
        try:
            self._process = self._popen()
        except OSError as error:
            reason = f"cannot start bash: {error.strerror}"
            self._folder.write_state(replace(self._state, phase="ended", outcome="failed", reason=reason))
            raise
        self._started = time.monotonic()

    def follow(self) -> None:
        """Wait until the job is over and none of its processes is left."""
        code, late = self._wait()
        end(self._left, self._order.kill_after)
        self._folder.write_state(self._end_state(code, late=late))

    def _popen(self) -> subprocess.Popen[bytes]:
        with Path("stdout.log").open("ab") as out, Path("stderr.log").open("ab") as err:
            return subprocess.Popen(
                ["bash", "script.sh"],  # noqa: S607 - the user's own bash
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={
                    **{name: value for name, value in os.environ.items() if name != _NOT_A_JOBS},
                    MARK: str(self._folder.root),
                },
                process_group=0,
            )

    def _wait(self) -> tuple[int | None, bool]:
        """The exit code (None: ended by us) and whether the time limit was near when it came."""
        warn = self._started + max(0.0, self._order.time_limit - self._order.signal_lead)
        stop = self._started + self._order.time_limit
        warned = False
        while (code := self._process.poll()) is None and not self._cancelled:
            now = time.monotonic()
            if now >= stop:
                self._process.kill()
                return self._process.wait(), True
            if now >= warn and not warned:  # to the command alone: it knows how to end its own
                self._process.terminate()
                warned = True
            self._sleep((stop if warned else warn) - now)
        return code, warned

    def _sleep(self, seconds: float) -> None:
        """Sleep for so long, or until a signal comes."""
        if select.select([self._woken], [], [], max(0.0, seconds))[0]:
            os.read(self._woken, 4096)

    def _left(self) -> list[Process]:
        self._process.poll()
        return job_processes(this_process(), self._folder.mark)

    def _cancel(self, *_: object) -> None:
        self._cancelled = True

    def _end_state(self, code: int | None, *, late: bool) -> State:
        ended = replace(self._state, phase="ended")
        if code is None:
            return replace(ended, outcome="cancelled", reason="cancelled")
        status = code if code >= 0 else 128 - code
        ended = replace(ended, exit_code=status)
        if late and code != 0:
            return replace(
                ended, outcome="timeout", reason=f"its time limit of {self._order.time_limit:g} s was reached"
            )
        if code == 0:
            return replace(ended, outcome="completed")
        how = f"ended with status {code}" if code > 0 else f"was killed by {signal_name(-code)}"
        return replace(ended, outcome="failed", reason=f"its command {how}")


if __name__ == "__main__":
    sys.exit(main())
