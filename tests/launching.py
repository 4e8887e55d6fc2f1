"""What a launcher writes into its run's folder, made up."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

_NOTHING = {"p50": None, "p90": None, "p99": None}


def status(*, age: float = 0.0, **fields: Any) -> bytes:
    """A `status.json`, said so many seconds ago."""
    known: dict[str, Any] = {
        "at": (datetime.now(UTC) - timedelta(seconds=age)).isoformat(),
        "run_id": "0" * 32,
        "phase": "measured",
        "elapsed_seconds": 7.0,
        **dict.fromkeys(("reason", "environment", "window_end_seconds", "fraction", "requested_rps")),
        **dict.fromkeys(("scheduled", "sent", "succeeded", "failed", "unsent", "in_flight", "waiting"), 0),
        **dict.fromkeys(("achieved_rps", "output_tokens_per_second"), 0.0),
        **dict.fromkeys(("latency", "service_time", "ttft"), _NOTHING),
        **dict.fromkeys(("ranks", "ranks_up"), 1),
    }
    return json.dumps({**known, **fields}).encode()


def second(t: int, **fields: Any) -> bytes:
    """A line of `timeline.jsonl`."""
    known: dict[str, Any] = {
        "t": t,
        "phase": "measured",
        **dict.fromkeys(("scheduled", "sent", "succeeded", "failed", "unsent", "output_tokens"), 0),
        **dict.fromkeys(("in_flight", "waiting", "waited_below_cap"), 0),
        "target_rps": None,
        **dict.fromkeys(("latency", "service_time", "ttft"), _NOTHING),
        "ranks": {},
        "left_out": [],
        "histograms": {},
    }
    return json.dumps({**known, **fields}).encode() + b"\n"
