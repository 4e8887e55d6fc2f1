"""What commands print: results on standard output, progress on standard error and only where that is a terminal."""

import atexit
import contextlib
import getpass
import shutil
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from tokenstorm.cluster.tty import restore
from tokenstorm.metrics.summary import Summary
from tokenstorm.report.text import summary_text

INVALID = 3


def show_summary(summary: Summary, where: str, *, as_json: bool) -> int:
    """The results of a run, found again by `where`; the exit code that its verdict means."""
    if as_json:
        show_json(summary)
    else:
        sys.stdout.write(f"{summary_text(summary)}\nrun: {where}\n")
    return INVALID if summary.verdict.state == "invalid" else 0


def show_json(value: object) -> None:
    """Anything that msgspec can write."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def show_text(text: str) -> None:
    """A text as it is, on a line of its own."""
    sys.stdout.write(text if text.endswith("\n") or not text else f"{text}\n")


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
    """Something that a user should know beside the result."""
    sys.stderr.write(f"tokenstorm: {line}\n")
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
                return getpass.getpass(prompt)
            sys.stderr.write(prompt)
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
        sys.stderr.write(f"\r\x1b[K{line[: width()]}")
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
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
