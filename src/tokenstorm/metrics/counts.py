"""How requests ended, as numbers that add up."""

from collections import Counter
from collections.abc import Iterable
from typing import Self

import msgspec

from tokenstorm.result import Result


class Outcomes(msgspec.Struct):
    """How many scheduled requests were sent or not, and how many of those that were sent succeeded or failed so far."""

    scheduled: int = 0
    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    unsent: int = 0


class Work(Outcomes):
    """The work done in some time: requests, and the tokens of the answers that ended."""

    output_tokens: int = 0

    def include(self, other: "Work") -> None:
        """Add another's work to this."""
        add_fields(self, other, Work.__struct_fields__)


class Counts(Outcomes):
    """How scheduled requests ended: `scheduled = sent + unsent`, `sent = succeeded + failed + censored + cancelled`."""

    censored: int = 0
    cancelled: int = 0
    resent: int = 0
    failed_by_kind: dict[str, int] = {}

    def add(self, result: Result, outcome: str) -> None:
        """Count one request with its outcome, or a stretch of them that were never sent."""
        if outcome == "unsent":
            self.scheduled += result.count
            self.unsent += result.count
            return
        self.scheduled += 1
        self.sent += 1
        self.resent += result.resent
        if outcome == "succeeded":
            self.succeeded += 1
        elif outcome == "censored":
            self.censored += 1
        elif outcome == "cancelled":
            self.cancelled += 1
        elif result.error is not None:
            self.failed += 1
            kind = result.error.kind
            self.failed_by_kind[kind] = self.failed_by_kind.get(kind, 0) + 1

    @property
    def judged(self) -> int:
        """The scheduled ones without those that were given up on purpose: of these a share can be good."""
        return self.scheduled - self.cancelled

    def merge(self, other: Self) -> None:
        """Add another's counts to these."""
        add_fields(self, other, _COUNTS)
        self.failed_by_kind = dict(Counter(self.failed_by_kind) + Counter(other.failed_by_kind))


_COUNTS = (*Outcomes.__struct_fields__, "censored", "cancelled", "resent")


def add_fields(to: object, other: object, names: Iterable[str]) -> None:
    """Add these fields of the other."""
    for name in names:
        setattr(to, name, getattr(to, name) + getattr(other, name))


class ReplicaReport(msgspec.Struct, frozen=True):
    """What one replica got, and whether it was left out for refusing."""

    url: str
    counts: Counts
    left_out: bool
