"""What those see who watch a run: a panel, one line that is written over, or a line each ten seconds where nobody looks."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from tokenstorm.cli.terminal import tell, width
from tokenstorm.loadgen.live import Status
from tokenstorm.printable import printable_line
from tokenstorm.report.live import live_line

LINES_EVERY = 10.0
"""Seconds between two lines where standard error is no terminal."""
LEAST_COLUMNS, LEAST_LINES = 60, 18


class Screen(Protocol):
    """Shows how a run goes on."""

    def show(self, status: Status) -> None:
        """How far the run is now."""
        ...

    def say(self, words: str) -> None:
        """What there is to say before the run began, or beside it."""
        ...


@contextlib.contextmanager
def screen() -> Iterator[Screen]:
    """The best that standard error can show. What was shown last stays to be read."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    size = shutil.get_terminal_size()
    roomy = (
        size.columns >= LEAST_COLUMNS
        and size.lines >= LEAST_LINES
        and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}
    )
    try:
        from tokenstorm.cli.drawn import drawn  # noqa: PLC0415 - a bare node has no rich
    except ModuleNotFoundError:
        roomy = False
    if roomy:
        with drawn() as panel:
            yield panel
        return
    line = _OneLine()
    try:
        yield line
    finally:
        line.end()


class _Lines:
    """A line every ten seconds, for a file or a log."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, status: Status) -> None:
        self.say(" · ".join(filter(None, (live_line(status), status.advice))))

    def say(self, words: str) -> None:
        now = time.monotonic()
        if now - self._last >= LINES_EVERY:
            self._last = now
            sys.stderr.write(f"{printable_line(words).strip()}\n")
            sys.stderr.flush()


class _OneLine:
    """One line that is written over; no more columns than the terminal has."""

    def __init__(self) -> None:
        self._advised = False
        self._shown = False

    def show(self, status: Status) -> None:
        if status.advice and not self._advised:  # once: its numbers change a little each second
            sys.stderr.write("\r\x1b[K")
            tell(status.advice)
            self._advised = True
        self._write(live_line(status, width()))

    def say(self, words: str) -> None:
        self._write(words)

    def end(self) -> None:
        """Leave the last line where it is."""
        if self._shown:
            sys.stderr.write("\n")

    def _write(self, words: str) -> None:
        shown, most = printable_line(words), width()
        sys.stderr.write("\r\x1b[K" + (shown if len(shown) <= most else f"{shown[: most - 1]}…"))
        sys.stderr.flush()
        self._shown = True
