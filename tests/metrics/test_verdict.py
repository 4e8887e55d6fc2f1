"""Where each bound of the verdict lies: the last value that is still good, and the first that is not."""

import msgspec
import pytest

from tokenstorm.metrics.verdict import DiskReport, Evidence, judge

GOOD = Evidence(
    scheduled=10_000,
    sent=10_000,
    succeeded=10_000,
    failed=0,
    censored=0,
    unsent_by_generator=0,
    capped=0,
    waited_below_cap=0,
    send_lag_p99=0.001,
    cpu={0: 0.2, 1: 0.3},
    ranks=8,
    lost=[],
    chunks=10_000,
    coalesced=0,
    internal=0,
    warnings={},
    disk=DiskReport(slowest_seconds=0.4),
    left_out=[],
)


def test_a_good_run_is_valid_and_has_no_reasons() -> None:
    verdict = judge(GOOD)
    assert (verdict.state, verdict.reasons) == ("valid", [])


@pytest.mark.parametrize(
    ("change", "state", "code"),
    [
        ({"unsent_by_generator": 100}, "valid", None),
        ({"unsent_by_generator": 101}, "suspect", "not_sent"),
        ({"unsent_by_generator": 500}, "suspect", "not_sent"),
        ({"unsent_by_generator": 501}, "invalid", "not_sent"),
        ({"send_lag_p99": 0.005}, "valid", None),
        ({"send_lag_p99": 0.0051}, "suspect", "send_lag"),
        ({"send_lag_p99": 0.050}, "suspect", "send_lag"),
        ({"send_lag_p99": 0.0501}, "invalid", "send_lag"),
        ({"send_lag_p99": None}, "valid", None),
        ({"cpu": {0: 0.1, 1: 0.80}}, "valid", None),
        ({"cpu": {0: 0.1, 1: 0.81}}, "suspect", "rank_cpu"),
        ({"cpu": {0: 0.95, 1: 0.1}}, "suspect", "rank_cpu"),
        ({"cpu": {0: 0.96, 1: 0.1}}, "invalid", "rank_cpu"),
        ({"failed": 100, "succeeded": 9900}, "valid", None),
        ({"failed": 101, "succeeded": 9899}, "suspect", "failures"),
        ({"failed": 1000, "succeeded": 9000}, "suspect", "failures"),
        ({"failed": 1001, "succeeded": 8999}, "invalid", "failures"),
        ({"failed": 10_000, "succeeded": 0}, "invalid", "nothing_succeeded"),
        ({"scheduled": 0, "sent": 0, "succeeded": 0}, "invalid", "nothing_succeeded"),
        ({"lost": [3]}, "suspect", "ranks_lost"),
        ({"lost": [3, 5]}, "suspect", "ranks_lost"),
        ({"lost": [1, 3, 5]}, "invalid", "ranks_lost"),
        ({"ranks": 1, "lost": [0]}, "invalid", "ranks_lost"),
        ({"waited_below_cap": 100}, "valid", None),
        ({"waited_below_cap": 101}, "suspect", "rank_cap"),
        ({"outcome": "cut off"}, "suspect", "cut_off"),
        ({"stalled": 0.1, "seconds": 10.0}, "valid", None),
        ({"stalled": 0.11, "seconds": 10.0}, "suspect", "stalled"),
        ({"stalled": 1.0, "seconds": 10.0}, "suspect", "stalled"),
        ({"stalled": 1.1, "seconds": 10.0}, "invalid", "stalled"),
        ({"capped": 100}, "valid", None),
        ({"capped": 101}, "suspect", "client_cap"),
        ({"capped": 10_000}, "suspect", "client_cap"),
        ({"coalesced": 500}, "valid", None),
        ({"coalesced": 501}, "suspect", "coalesced"),
        ({"chunks": 0, "coalesced": 0}, "valid", None),
        ({"censored": 100}, "valid", None),
        ({"censored": 101}, "suspect", "censored"),
        ({"warnings": {"short": 1}}, "suspect", "short_output"),
        ({"warnings": {"no_token": 99}}, "valid", None),
        ({"warnings": {"no_token": 101}}, "suspect", "no_tokens"),
        ({"warnings": {"no_token": 10_000}}, "invalid", "no_tokens"),
        ({"warnings": {"not_streamed": 101}}, "suspect", "not_streamed"),
        ({"warnings": {"usage": 101}}, "suspect", "usage"),
        ({"warnings": {"skipped": 10_000}}, "valid", None),
        ({"warnings": {"unknown": 101}}, "suspect", "unknown"),
        ({"internal": 1}, "suspect", "internal"),
        ({"disk": DiskReport(slowest_seconds=0.6, stalls=1)}, "suspect", "disk"),
        ({"disk": DiskReport(lost_lines=1)}, "suspect", "disk"),
        ({"disk": DiskReport(error="No space left on device")}, "suspect", "disk"),
        ({"left_out": ["2"]}, "suspect", "replica_left_out"),
    ],
)
def test_each_bound_lies_where_the_design_says(change: dict[str, object], state: str, code: str | None) -> None:
    verdict = judge(msgspec.structs.replace(GOOD, **change))
    assert verdict.state == state
    assert [reason.code for reason in verdict.reasons] == ([code] if code else [])


def test_the_worst_of_several_reasons_decides_and_all_are_told() -> None:
    verdict = judge(msgspec.structs.replace(GOOD, warnings={"short": 1}, lost=[1, 2, 3], send_lag_p99=0.02))
    assert verdict.state == "invalid"
    assert {reason.code for reason in verdict.reasons} == {"short_output", "ranks_lost", "send_lag"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unsent_by_generator": 600}, ["600", "10000", "more ranks"]),
        ({"send_lag_p99": 0.25}, ["250.0 ms"]),
        ({"cpu": {0: 0.1, 4: 0.99}}, ["rank 4", "99%"]),
        ({"lost": [6, 7]}, ["2 of 8", "6, 7"]),
        ({"failed": 2000, "succeeded": 8000}, ["2000 of 10000"]),
        ({"disk": DiskReport(error="No space left on device", lost_lines=5)}, ["No space left", "5 result lines"]),
        ({"left_out": ["1", "2"]}, ["1, 2"]),
        ({"capped": 5000}, ["5000", "num_clients"]),
    ],
)
def test_reasons_say_how_much_and_what_to_do(change: dict[str, object], words: list[str]) -> None:
    (reason,) = judge(msgspec.structs.replace(GOOD, **change)).reasons
    for word in words:
        assert word in reason.text


def test_two_disks_taken_together_have_the_worst_of_both() -> None:
    one, other = DiskReport(slowest_seconds=1, stalls=1), DiskReport(slowest_seconds=0.1, lost_lines=3, error="full")
    both = DiskReport(slowest_seconds=1, stalls=1, lost_lines=3, error="full")
    assert one.merge(other) == other.merge(one) == both
