"""The panel of a run, drawn by rich. Colour says nothing that the words do not: NO_COLOR takes it away."""

import contextlib
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from tokenstorm.loadgen.live import Status
from tokenstorm.printable import printable_line
from tokenstorm.report.live import heading, panel_lines

MOST_COLUMNS = 100
_BORDER = 4


@contextlib.contextmanager
def drawn() -> Iterator["Drawn"]:
    """The panel on standard error, which stays as it was last."""
    console = Console(stderr=True, highlight=False)
    with Live(console=console, auto_refresh=False, transient=False, redirect_stdout=False) as live:
        yield Drawn(console, live)


class Drawn:
    """Draws what the launcher says anew each second."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live

    def show(self, status: Status) -> None:
        """Draw it."""
        self._live.update(panel(status, min(self._console.width, MOST_COLUMNS)), refresh=True)

    def say(self, words: str) -> None:
        """A line above the panel."""
        self._console.print(Text(printable_line(words)))


def panel(status: Status, columns: int) -> RenderableType:
    """The panel, so many columns wide."""
    room = columns - _BORDER
    title = Text(heading(status)[:room], style="bold", no_wrap=True)
    done = round((status.fraction or 0.0) * room)
    bar = Text.assemble(("━" * done, "green"), ("─" * (room - done), "dim"))
    rows = [
        Text(line.text(room), style="bold red" if line.alarm else "", no_wrap=True)
        for line in panel_lines(status, room)
    ]
    return Panel(Group(title, bar, *rows), width=columns, title=f"run {status.run_id[:8]}", title_align="left")
