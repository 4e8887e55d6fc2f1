"""Where time comes from."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time of day, for people."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Where time comes from: what people read, and what durations are measured with."""

    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
