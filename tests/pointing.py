"""A series for tests, made of points that no run had."""

from tokenstorm.load import make
from tokenstorm.loadgen.series import series_summary
from tokenstorm.metrics.attaining import attainment
from tokenstorm.metrics.counts import Counts
from tokenstorm.metrics.points import Held, Point, Quantiles, SeriesSummary
from tokenstorm.metrics.reports import Reason, Verdict
from tokenstorm.plan import Plan, SeriesPlan
from tokenstorm.series_parts import Series, Value


def point_at(
    number: int, values: dict[str, Value], *, good: int = 100, state: Held | None = None, ms: float = 100
) -> Point:
    """A run of 100 requests, of which so many were good; its times are multiples of `ms`."""
    times = Quantiles(ms / 1e3, 2 * ms / 1e3, 3 * ms / 1e3)
    return Point(
        number=number,
        repeat=1,
        values=values,
        run_id=f"{number:032x}",
        started_at="2026-11-27T10:00:00+00:00",
        ended_at="2026-11-27T10:01:00+00:00",
        pause_seconds=0.5,
        seconds=60.0,
        outcome="completed",
        verdict=Verdict("suspect", [Reason("failures", "some failed")]),
        counts=Counts(scheduled=100, sent=100, succeeded=100),
        requested_rps=None,
        achieved_rps=10.0 * number,
        output_tokens_per_second=1000.0 * number,
        output_tokens_per_second_per_user=50.0 / number,
        in_flight=5.0,
        ttft=times,
        tpot=times,
        latency=times,
        little=1.5,
        attainment=attainment(good, 100) if state else None,
        used={"ttft_seconds": 0.9} if state else {},
        state=state,
        bound_by=["ttft_seconds"] if state == "failed" else [],
        simulated=True,
    )


def series_of(plan: Plan, fields: dict[str, object], points: list[Point]) -> SeriesSummary:
    """What those points come to."""
    return series_summary(SeriesPlan(plan=plan, series=make(fields, Series)), points, "completed")
