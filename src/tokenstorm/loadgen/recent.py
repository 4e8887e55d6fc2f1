"""The last minute of a group: what those who watch it see, the same for each of them and for one who comes late."""

from collections import Counter, deque

from msgspec.structs import replace

from tokenstorm.loadgen.live import Minute, Recent, TimelineLine

RATE_SECONDS = 5
"""Rates that are told as those of the last seconds are means over so many."""
KEPT_SECONDS = 60


class LastMinute:
    """Takes each second of the timeline, and keeps the last 60. `failed_by_kind` counts all since the start."""

    def __init__(self) -> None:
        self.failed_by_kind: Counter[str] = Counter()
        self._lines: deque[TimelineLine] = deque(maxlen=KEPT_SECONDS)

    def add(self, line: TimelineLine) -> None:
        """The next second."""
        self.failed_by_kind.update(line.failed_by_kind)
        self._lines.append(replace(line, ranks={}, histograms={}, engine={}, gpus=[]))

    def recent(self) -> Recent:
        """The rates of the last seconds."""
        lines = list(self._lines)[-RATE_SECONDS:]
        if not lines:
            return Recent()
        asked = [line.target_rps for line in lines if line.target_rps is not None]
        return Recent(
            seconds=len(lines),
            asked_rps=sum(asked) / len(asked) if asked else None,
            sent_rps=sum(line.sent for line in lines) / len(lines),
            answered_rps=sum(line.succeeded for line in lines) / len(lines),
            output_tokens_per_second=sum(line.output_tokens for line in lines) / len(lines),
        )

    def minute(self) -> Minute:
        """A number for each second."""
        lines = self._lines
        return Minute(
            sent=tuple(line.sent for line in lines),
            answered=tuple(line.succeeded for line in lines),
            failed=tuple(line.failed for line in lines),
            ttft=tuple(line.ttft.p50 for line in lines),
            latency=tuple(line.latency.p50 for line in lines),
        )
