"""What a run of a series showed, from its files."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from reporting import SECOND, request, run_of
from tokenstorm.loadgen.pointing import point_of
from tokenstorm.loadgen.variants import Next
from tokenstorm.metrics.summary import SteadyReport
from tokenstorm.result import CANCELLED, Failure


@pytest.mark.parametrize("steady", [None, SteadyReport(state="steady", text="", from_seconds=0.25)])
def test_requests_that_were_given_up_on_purpose_are_no_misses_of_a_run_under_objectives(
    tmp_path: Path, steady: SteadyReport | None
) -> None:
    """Of 400 requests every tenth is given up, and all others are good."""
    given_up = Failure(CANCELLED, "given up after 1 s, as was asked")
    results = [
        request(seq, seq * SECOND // 400, ms=10, good=True)
        if seq % 10
        else replace(request(seq, seq * SECOND // 400, ms=10, good=False), error=given_up)
        for seq in range(400)
    ]
    slo = {"latency_seconds": 1.0, "share": 0.95}
    paths, summary = run_of(tmp_path, results, slo=slo, cancel={"rate": 0.1, "after_seconds": 1.0})
    point = point_of(Next(1, 1, {}), replace(summary, steady=steady), paths, None)
    assert point.attainment is not None
    assert point.attainment.share == 1
    assert point.attainment.good == point.attainment.scheduled == (360 if steady is None else 270)
    assert (point.state, point.bound_by) == ("held", [])
