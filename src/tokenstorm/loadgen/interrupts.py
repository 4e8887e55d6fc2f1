"""The signals that end a run, or a series of them, in order."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tokenstorm.program import ends


class Stoppable(Protocol):
    """What can be ended in order, and by Ctrl-C."""

    def stop(self) -> None:
        """End it in order; a second call ends it at once."""

    def interrupt(self) -> None:
        """Handle Ctrl-C."""


@contextmanager
def handle_signals(what: Stoppable) -> Iterator[None]:
    """SIGTERM, SIGHUP and SIGINT drain the run and still write everything; a second one ends it at once."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGINT: what.interrupt, **dict.fromkeys(ends(), what.stop)}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
