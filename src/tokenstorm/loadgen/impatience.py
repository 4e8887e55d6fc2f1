"""Gives up a share of the requests before their answers are whole, as people do."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from tokenstorm.load_parts import Cancel
from tokenstorm.loadgen.answers import Answer
from tokenstorm.loadgen.http import Receive
from tokenstorm.loadgen.mixing import MASK, mix
from tokenstorm.loadgen.stream import Carrier
from tokenstorm.result import CANCELLED

_OURS: Final = 0x6976_6E67_7570
"""Makes the choice another one than that of prompts and arrivals."""


class Given(Protocol):
    """A request in flight; see `Flight`."""

    seq: int
    done: int | None
    watch: "Watch | None"

    def fail(self, kind: str, detail: str) -> None: ...


Watch = Callable[[Answer, Receive], Receive]
"""Takes an answer and what receives its body; returns what receives it instead."""


class Counting:
    """A connection's side of an answer whose pieces are all to be read: nothing is expected of the next one."""

    def __init__(self, carrier: Carrier) -> None:
        self.answered = carrier.answered

    def expect(self, head: bytes, tail: bytes, note: Callable[[int], None]) -> None:
        """Expect nothing."""


class Impatience:
    """Chooses requests by the seed and their number alone, and gives them up when it is time. The others cost nothing."""

    def __init__(self, cancel: Cancel, seed: int) -> None:
        self._cancel = cancel
        self._salt = mix(seed ^ _OURS)
        self._below = round(cancel.rate * MASK)
        self._loop = asyncio.get_running_loop()

    def chooses(self, seq: int) -> bool:
        """Whether this request is one that is given up."""
        return mix(self._salt ^ seq) <= self._below

    def meet(self, flight: Given) -> None:
        """See to it that a chosen request, which is just being sent, ends in time."""
        if not self.chooses(flight.seq):
            return
        seconds, tokens = self._cancel.after_seconds, self._cancel.after_tokens
        if seconds is not None:
            self._loop.call_later(seconds, _give_up, flight, f"given up after {seconds:g} s, as was asked")
        elif tokens is not None:
            flight.watch = lambda answer, receive: self._counting(flight, answer, receive, tokens)

    def _counting(self, flight: Given, answer: Answer, receive: Receive, tokens: int) -> Receive:
        words = f"given up after {tokens} pieces with text, as was asked"

        def count(piece: bytes, at: int) -> None:
            receive(piece, at)
            if answer.pieces >= tokens:
                self._loop.call_soon(_give_up, flight, words)  # the connection is still busy with this piece

        return count


def _give_up(flight: Given, words: str) -> None:
    if flight.done is None:
        flight.fail(CANCELLED, words)
