"""What commands print: results on standard output, progress on standard error and only where that is a terminal.

Everything that is printed is printed here, and made printable here: nobody else needs to think of it.
"""

import atexit
import codecs
import contextlib
import getpass
import shutil
import sys
import termios
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from tokenstorm.cluster.ssh.tty import restore
from tokenstorm.printable import printable, printable_json, printable_line

if TYPE_CHECKING:
    from tokenstorm.metrics.points import SeriesSummary
    from tokenstorm.metrics.summary import Summary

INVALID, FAILED_ON = 3, 5


def show_summary(
    summary: "Summary", where: str, *, as_json: bool, fail_on: Sequence[str] = (), wide: bool = False
) -> int:
    """The results of a run, found again by `where`; its exit code."""
    from tokenstorm.report.text import summary_text  # noqa: PLC0415 - most commands show no summary, and start the quicker

    code = exit_code_of(summary, fail_on)
    if as_json:
        show_json(summary)
    else:
        show_text(f"{summary_text(summary, wide=wide)}\nrun: {where}")
    return code


def exit_code_of(summary: "Summary", fail_on: Sequence[str]) -> int:
    """What a run's verdict means, and what it is to fail on: that is told. Raises UsageError for a run that cannot fail on that."""
    from tokenstorm.report.conditions import crossed_bounds  # noqa: PLC0415 - likewise

    failed = crossed_bounds(summary, fail_on)
    for words in failed:
        if not words.startswith(("slo:", "suspect:")):  # the results say these themselves
            tell(f"--fail-on {words}")
    return INVALID if summary.verdict.state == "invalid" else FAILED_ON if failed else 0


def series_exit_code(summary: "SeriesSummary") -> int:
    """What a series means: 1 where it is not complete, 3 where no run of it is valid, 5 for a search in which nothing held."""
    if summary.outcome != "completed":
        return 1
    if summary.points and all(point.verdict.state == "invalid" for point in summary.points):
        return INVALID
    return FAILED_ON if summary.capacity and summary.capacity.held is None else 0


def show_json(value: object) -> None:
    """Anything that msgspec can write. It is the same JSON where it is escaped to be printable."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    sys.stdout.buffer.write(printable_json(text).encode() + b"\n")


def show_text(text: str) -> None:
    """A text of any number of lines; nothing of one that is empty."""
    sys.stdout.write(printable(text if text.endswith("\n") or not text else f"{text}\n"))


def show_line(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{printable_line(line)}\n")
    sys.stdout.flush()


def hand_on(text: str) -> None:
    """What an engine or a job wrote, at once: printable on a terminal, as it came where it goes to a file or a program."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def hand_on_bytes(pieces: Iterable[bytes], *, as_json: bool) -> None:
    """The same of a text in UTF-8 that comes in pieces; `as_json` tells that it is JSON, which stays JSON."""
    if not sys.stdout.isatty():
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        return
    decoder, escaped = codecs.getincrementaldecoder("utf-8")("replace"), printable_json if as_json else printable
    for piece in pieces:
        sys.stdout.write(escaped(decoder.decode(piece)))


def show_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as what stands in them; None is a dash."""
    cells = [heads, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        sys.stdout.write("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def show_facts(facts: Sequence[tuple[str, object]]) -> None:
    """A name and a value on each line; what is empty is left out."""
    shown = [(name, _cell(value)) for name, value in facts if value not in (None, "", (), [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        sys.stdout.write(f"{name:<{width}}  {value}\n")


def tell(line: str) -> None:
    """Something that a user should know beside the result. Further lines of it are indented: they are no news of ours."""
    sys.stderr.write("tokenstorm: " + printable(line).replace("\n", "\n  ") + "\n")
    sys.stderr.flush()


def tell_progress(line: str) -> None:
    """What a long piece of work is at; nobody wants to know that but on a terminal."""
    if sys.stderr.isatty():
        tell(line)


def asking() -> Callable[[str, bool], str] | None:
    """What asks the user, on a terminal; None where there is nobody to be asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    terminal = sys.stdin.fileno()
    atexit.register(restore, terminal, termios.tcgetattr(terminal))  # one who left at a prompt

    def ask(prompt: str, echo: bool) -> str:  # noqa: FBT001 - what SSH servers say of each prompt
        try:
            if not echo:
                return getpass.getpass(printable(prompt))
            sys.stderr.write(printable(prompt))
            sys.stderr.flush()
            return sys.stdin.readline().rstrip("\n")
        except EOFError:
            return ""

    return ask


@contextlib.contextmanager
def live() -> Iterator[Callable[[str], None] | None]:
    """One line that is written over each second, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(line: str) -> None:
        shown, most = printable_line(line), width()
        sys.stderr.write("\r\x1b[K" + (shown if len(shown) <= most else f"{shown[: most - 1]}…"))
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")


def width() -> int:
    """How many characters fit on a line of the terminal."""
    return shutil.get_terminal_size().columns - 1


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
    return printable_line(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
