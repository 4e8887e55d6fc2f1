"""What the turns of conversations add up to, and how sessions ended."""

from collections.abc import Sequence
from typing import Self

import msgspec

from tokenstorm.metrics.counts import Counts, add_fields
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.result import Result

LATER = 20
"""The turns from this one on are taken together."""
TURN_METRICS = ("ttft", "latency")


class SessionTally(msgspec.Struct):
    """The sessions whose first turn was due in the measured window: how many began, and how they ended so far.

    `unsent` ones never began. `turns` is how many turns those that began were to have, `turns_sent` how many were sent.
    """

    started: int = 0
    unsent: int = 0
    completed: int = 0
    failed: int = 0
    too_long: int = 0
    turns: int = 0
    turns_sent: int = 0

    def add(self, result: Result) -> None:
        """Count one turn."""
        turn = result.conversation
        if turn is None or turn.session_phase != "measured":
            return
        if result.sent is None:
            self.unsent += result.count if turn.turn == 1 else 0
            return
        self.turns_sent += 1
        if turn.turn == 1:
            self.started += 1
            self.turns += turn.turns
        if turn.session_end is not None:
            setattr(self, turn.session_end, getattr(self, turn.session_end) + 1)

    def merge(self, other: Self) -> None:
        """Add another's to this."""
        add_fields(self, other, self.__struct_fields__)


class TurnTally(msgspec.Struct):
    """What the measured requests of one turn number add up to; tokens are those of prompts that the server counted."""

    counts: Counts = msgspec.field(default_factory=Counts)
    histograms: dict[str, Histogram] = msgspec.field(
        default_factory=lambda: {name: Histogram() for name in TURN_METRICS}
    )
    prompts: Histogram = msgspec.field(default_factory=Histogram)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    told_cached: int = 0
    """How many answers told what of their prompts was cached."""

    def merge(self, other: Self) -> None:
        """Add another's to this."""
        self.counts.merge(other.counts)
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        self.prompts.merge(other.prompts)
        add_fields(self, other, ("prompt_tokens", "cached_tokens", "told_cached"))

    def add(self, results: Sequence[Result]) -> None:
        """Take in requests of this turn."""
        for result in results:
            self.counts.add(result, result.outcome)
        answers = [result for result in results if result.error is None and result.sent is not None]
        self.histograms["latency"].record_many(
            [result.done - result.scheduled for result in answers if result.done is not None]
        )
        self.histograms["ttft"].record_many(
            [result.first_token - (result.sent or 0) for result in answers if result.first_token is not None]
        )
        self.prompts.record_many([tokens for result in answers if (tokens := result.prompt_tokens)])
        for result in answers:
            self.prompt_tokens += result.prompt_tokens or 0
            if result.cached_tokens is not None:
                self.told_cached += 1
                self.cached_tokens += result.cached_tokens


class Talks(msgspec.Struct):
    """Sessions, and their turns by number."""

    sessions: SessionTally = msgspec.field(default_factory=SessionTally)
    turns: dict[int, TurnTally] = {}

    def add(self, results: Sequence[Result]) -> None:
        """Take in finished requests; those outside of conversations count nothing."""
        by_turn: dict[int, list[Result]] = {}
        for result in results:
            if result.conversation is not None:
                self.sessions.add(result)
                if result.phase == "measured":
                    by_turn.setdefault(min(result.conversation.turn, LATER), []).append(result)
        for turn, found in by_turn.items():
            self.turns.setdefault(turn, TurnTally()).add(found)

    def merge(self, other: Self) -> None:
        """Add another's to this."""
        self.sessions.merge(other.sessions)
        for turn, tally in other.turns.items():
            self.turns.setdefault(turn, TurnTally()).merge(tally)
