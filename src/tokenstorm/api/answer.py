"""What all answers have in common."""

from typing import Literal

import msgspec
from msgspec import Meta

Outcome = Literal["completed", "failed", "cancelled", "timeout", "node_fail", "preempted", "out_of_memory", "lost"]
"""How a job ended."""

SENT = Meta(extra={"sent": True})
"""Of a field that may be None: it is so only where the answer of another version lacks it."""


def said(meaning: str | None, *examples: object) -> Meta:
    """What a field means, with examples of it."""
    return Meta(description=meaning, examples=[*examples] or None)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of an API. Fields that are not known are left out, so that another version's answer can be read.

    Defaults are for whoever reads the answer of another version: what answers sends all fields, but those that are UNSET.
    """
