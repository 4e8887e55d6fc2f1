"""Runs for the tests of the report: their files, written by hand."""

from pathlib import Path
from typing import Any

import msgspec

from plans import plan as made
from tokenstorm.loadgen.live import TimelineLine
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.reports import Environment, RankReport
from tokenstorm.metrics.summarize import Run, summarize
from tokenstorm.metrics.summary import Summary
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.plan import encode_plan
from tokenstorm.result import SCHEMA, Result, encode_result
from tokenstorm.runs import RunPaths

SECOND = 10**9
NOTHING = {"p50": None, "p90": None, "p99": None}


def second(t: int, *, latency_ms: int = 10, ranks: int = 1, **fields: object) -> TimelineLine:
    """One second of a timeline, in which four answers took that long."""
    histogram = Histogram()
    histogram.record_many([latency_ms * 10**6] * 4)
    line = {
        "schema": 1,
        "t": t,
        "phase": "measured",
        "scheduled": 4,
        "sent": 4,
        "succeeded": 4,
        "failed": 0,
        "unsent": 0,
        "output_tokens": 40,
        "in_flight": 2,
        "waiting": 0,
        "target_rps": 4.0,
        "waited_below_cap": 0,
        "latency": NOTHING,
        "service_time": NOTHING,
        "ttft": NOTHING,
        "ranks": {
            str(rank): {"cpu": 0.1 + rank / 100, "loop_lag": t / 1000, "gc_pause": 0, "disk": {}}
            for rank in range(ranks)
        },
        "left_out": [],
        "histograms": {"latency": msgspec.to_builtins(histogram)},
        **fields,
    }
    return msgspec.convert(line, TimelineLine, strict=False)


def request(seq: int, at: int, *, ms: int, **fields: Any) -> Result:
    """One that left when it should, had its first token after a tenth of `ms` and its end after all of them."""
    line = {"schema": SCHEMA, "seq": seq, "rank": 0, "replica": "0", "phase": "measured"}
    times = {"scheduled": at, "slot_free": at, "sent": at, "first_token": at + ms * 10**5}
    ends = {"last_token": at + ms * 10**6, "done": at + ms * 10**6, "output_tokens": 11, "prompt_tokens": 5 + seq}
    return msgspec.convert({**line, **times, **ends, **fields}, Result)


def run_of(root: Path, results: list[Result], *, model: str = "m", **fields: Any) -> tuple[RunPaths, Summary]:
    """The folder of a run with these lines, and its summary."""
    plan = made(**{"requests_per_second": 10, "duration_seconds": 1, **fields})
    end = plan.window_end_ns or 0
    tally = Tally()
    tally.add(results, Window.of(plan, end))
    run = Run(
        plan=plan,
        outcome="completed",
        window_end=end,
        requested_rps=10.0,
        started_at=None,
        ended_at=None,
        ranks=[RankReport(rank=0, wall_seconds=end / 1e9)],
        waited_below_cap=0,
        unsent_by_lost_ranks=0,
        left_out=[],
        environment=Environment(model=model, simulated=True),
    )
    paths = RunPaths(root)
    paths.plan.write_bytes(encode_plan(plan))
    paths.results(0, 0).write_bytes(b"".join(encode_result(result) + b"\n" for result in results))
    return paths, summarize(run, tally)
