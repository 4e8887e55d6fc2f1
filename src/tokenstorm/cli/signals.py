"""Signals that end what runs in order."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Signals:
    """`stop` is set by the first signal, `hurry` by the second."""

    stop: asyncio.Event
    hurry: asyncio.Event

    def came(self) -> None:
        """A signal came."""
        (self.hurry if self.stop.is_set() else self.stop).set()


@contextlib.contextmanager
def handled_signals() -> Iterator[Signals]:
    """SIGINT, SIGTERM and a lost terminal end the block in order; `nohup` is respected."""
    loop, signals = asyncio.get_running_loop(), Signals(asyncio.Event(), asyncio.Event())
    heard = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    for one in heard:
        loop.add_signal_handler(one, signals.came)
    try:
        yield signals
    finally:
        for one in heard:
            loop.remove_signal_handler(one)
