"""A run over time: few enough points for a page, and each says what its seconds said together."""

import pytest

from reporting import second
from tokenstorm.report.over_time import MOST_LINES, MOST_RANKS, over_time


def test_a_short_run_keeps_every_second_with_its_percentiles() -> None:
    found = over_time([second(t, latency_ms=10 * (t + 1)) for t in range(3)])
    assert found.step == 1
    assert [line.t for line in found.lines] == [0, 1, 2]
    assert [line.latency.p50 for line in found.lines] == pytest.approx([0.01, 0.02, 0.03], rel=0.01)
    assert [line.target_rps for line in found.lines] == [4, 4, 4]


def test_a_long_run_has_few_points_and_each_is_the_mean_second_of_its_own() -> None:
    seconds = [second(t, succeeded=t % 2 * 8, in_flight=t % 2 * 7) for t in range(3 * MOST_LINES)]
    found = over_time(seconds)
    assert found.step == 4
    assert len(found.lines) == 3 * MOST_LINES / 4
    assert {(line.succeeded, line.in_flight, line.target_rps, line.output_tokens) for line in found.lines} == {
        (4, 7, 4, 40)
    }
    assert sum(line.sent * 4 for line in found.lines) == 4 * len(seconds)


def test_percentiles_of_seconds_put_together_are_those_of_all_their_requests() -> None:
    slow = [second(t, latency_ms=1000 if t == 1 else 10) for t in range(2 * MOST_LINES)]
    first = over_time(slow).lines[0]
    assert first.latency.p50 == pytest.approx(0.01, rel=0.01)
    assert first.latency.p99 == pytest.approx(1.0, rel=0.01)


def test_failures_are_rates_by_kind_and_stalls_are_the_longest() -> None:
    seconds = [second(t, failed=2, failed_by_kind={"timeout": 2 * (t % 2)}) for t in range(2 * MOST_LINES)]
    line = over_time(seconds).lines[1]
    assert line.failed_by_kind == {"timeout": 1}
    assert line.ranks["0"].loop_lag == 0.003
    assert line.ranks["0"].cpu == pytest.approx(0.1)


def test_of_many_ranks_the_busiest_are_kept() -> None:
    line = over_time([second(0, ranks=40)]).lines[0]
    assert sorted(map(int, line.ranks)) == list(range(40 - MOST_RANKS, 40))


def test_seconds_that_are_missing_leave_a_gap() -> None:
    assert [line.t for line in over_time([second(0), second(7)]).lines] == [0, 7]


def test_a_closed_loop_asks_for_no_rate_and_a_run_without_a_timeline_has_no_lines() -> None:
    assert over_time([second(0, target_rps=None)]).lines[0].target_rps is None
    assert over_time([]).lines == []


def test_what_engines_and_gpus_say_is_kept_beside_the_load() -> None:
    said = [
        {"running": 3, "kv_usage": 0.5, "preemptions": 1},
        {"running": 5, "kv_usage": 0.25, "preemptions": 2, "hit_rate": 0.4},
    ]
    gpus = [{"at": 0.5, "gpu": f"GPU-{number}", "node": "n1", "watts": 100.0 * number} for number in (1, 2)]
    seconds = [second(t, engine={"0": {"at": t, **said[t % 2]}}, gpus=gpus) for t in range(2 * MOST_LINES)]
    line = over_time(seconds).lines[0]
    assert (line.engine["0"].running, line.engine["0"].kv_usage, line.engine["0"].hit_rate) == (5, 0.5, 0.4)
    assert line.engine["0"].preemptions == 3
    assert [(one.gpu, one.watts, one.celsius) for one in line.gpus] == [("GPU-1", 100, None), ("GPU-2", 200, None)]
