"""A command as a process: the streams it was given, Ctrl-C before it listens, and its exit code.

Imports little, so that Ctrl-C during the other imports shows no traceback.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a command that Ctrl-C ended before anything was done, as shells have it."""
_STDIN, _STDOUT, _STDERR = range(3)


class OutputLost(Exception):
    """Standard output takes nothing any more. `gone` tells that its reader went away, as `head` does."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror}")
        self.gone = error.errno == errno.EPIPE


class _Output(io.FileIO):
    """Standard output, which raises `OutputLost` once and then takes no more; or standard error, which never raises."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self._lost = False

    def write(self, data: Any, /) -> int:
        if not self._lost:
            try:
                return super().write(data)
            except OSError as error:
                self._lost = True
                if self.fileno() == _STDOUT:
                    raise OutputLost(error) from None
        return len(data)


def run(load: Callable[[], Callable[[], int]]) -> int:
    """Run the command that `load` imports, as all this process does. Returns the exit code.

    Streams that are closed are as /dev/null, and nothing is raised at the exit for one that breaks.
    """
    _open_closed()
    sys.stdout, sys.stderr = _output(sys.stdout, sys.__stdout__, _STDOUT), _output(sys.stderr, sys.__stderr__, _STDERR)
    try:
        try:
            with interrupts_leave():
                command = load()
            return command()
        finally:  # argparse leaves by SystemExit
            sys.stdout.flush()
    except OutputLost as lost:
        hints = getattr(lost, "__notes__", [])
        if hints or not lost.gone:
            sys.stderr.write("; ".join([f"tokenstorm: {lost}", *hints]) + "\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _leave)  # all is done but Python's own end


@contextmanager
def interrupts_leave() -> Iterator[None]:
    """While the block imports, Ctrl-C ends the process at once and without a word; where it is ignored, it stays so."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ends() -> list[signal.Signals]:
    """The signals that end a process in order. SIGHUP, for a terminal that is gone, is one unless `nohup` has it ignored."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, *hangup]


def _leave(_number: int, _frame: object) -> NoReturn:
    os._exit(INTERRUPTED)


def _open_closed() -> None:
    """Else the next file or socket would get the number of the closed stream, and what is printed would go there."""
    for fd in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if fd == _STDIN else os.O_WRONLY), True)  # noqa: FBT003
    sys.stdin = sys.stdin or open(_STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good


def _output(stream: TextIO | None, python_made: TextIO | None, fd: int) -> TextIO:
    """The stream over `fd`; one that somebody else put there, as tests do, is left alone."""
    if stream is not None and stream is not python_made:
        return stream
    encoding = stream.encoding if stream else "utf-8"
    raw = _Output(fd)
    by_lines = fd == _STDERR or raw.isatty()
    errors = "backslashreplace"  # for terminals that have no µ and no →
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=by_lines)
