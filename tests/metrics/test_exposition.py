"""The group's Prometheus text, read back with a parser of its own."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

import scraping
from running import samples
from tokenstorm.metrics.counts import Counts
from tokenstorm.metrics.exposition import BOUNDS, KINDS, PHASES, Gauges, render, with_age
from tokenstorm.metrics.tally import Tally

GAUGES = Gauges(phase="measured", in_flight=3, target_rps=20.0, loop_lag=0.001, rank_up={0: True, 1: False})


def full() -> Tally:
    tally = Tally()
    tally.counts.sent = 7
    tally.counts.failed_by_kind = {"http_500": 2, 'od"d\\kind\n': 1}
    for name, histogram in tally.histograms.items():
        histogram.record_many([len(name) * 10**exponent for exponent in range(3, 12)])
    return tally


def text(tally: Tally, group: str = "7", gauges: Gauges = GAUGES) -> str:
    return render(group, tally, gauges).decode()


@pytest.mark.parametrize("tally", [Tally(), full()], ids=["empty", "full"])
def test_every_sample_belongs_to_a_family_with_help_and_type(tally: Tally) -> None:
    found = text(tally)
    assert found.endswith("\n")
    helps, types = (re.findall(rf"^# {word} (\S+) \S", found, re.MULTILINE) for word in ("HELP", "TYPE"))
    assert helps == types
    assert len(set(helps)) == len(helps)
    for name, labels, _ in samples(found):
        assert re.sub(r"_(bucket|sum|count)$", "", name) in helps or name in helps
        assert labels["group_id"] == "7"
    seen = [(name, tuple(labels.items())) for name, labels, _ in samples(found)]
    assert len(set(seen)) == len(seen)


def test_the_names_are_those_that_dashboards_rely_on() -> None:
    names = set(re.findall(r"^# TYPE (\S+)", text(full()), re.MULTILINE))
    assert names == {
        "client_requests_total",
        "client_requests_failed_total",
        "client_requests_cancelled_total",
        "client_requests_unsent_total",
        "client_latency_seconds",
        "client_service_time_seconds",
        "client_ttft_seconds",
        "client_inter_chunk_seconds",
        "client_tpot_seconds",
        "client_read_lag_seconds",
        "client_send_lag_seconds",
        "client_wait_seconds",
        "client_tokens_total",
        "client_in_flight",
        "client_target_requests_per_second",
        "client_event_loop_lag_seconds",
        "client_phase",
        "client_rank_up",
    }


@pytest.mark.parametrize("tally", [Tally(), full()], ids=["empty", "full"])
def test_buckets_are_cumulative_and_end_with_all_samples(tally: Tally) -> None:
    found = text(tally)
    for name in re.findall(r"^# TYPE (\S+) histogram", found, re.MULTILINE):
        buckets = [(labels["le"], value) for n, labels, value in samples(found) if n == f"{name}_bucket"]
        assert [bound for bound, _ in buckets] == [str(bound) for bound in BOUNDS] + ["+Inf"]
        counts = [count for _, count in buckets]
        assert counts == sorted(counts)
        values = {n: value for n, _, value in samples(found)}
        assert values[f"{name}_count"] == counts[-1]
        assert (values[f"{name}_sum"] > 0) == (counts[-1] > 0)


def test_a_sample_stands_in_the_bucket_it_belongs_to() -> None:
    """3 ms are more than 2.5 ms and at most 5 ms."""
    tally = Tally()
    tally.histograms["latency"].record(3_000_000)
    counts = {
        labels["le"]: value for name, labels, value in samples(text(tally)) if name == "client_latency_seconds_bucket"
    }
    assert (counts["0.0025"], counts["0.005"]) == (0, 1)


def test_labels_are_escaped_and_failures_told_by_kind() -> None:
    found = text(full(), group='a"b\\c')
    failed = [(labels, value) for name, labels, value in samples(found) if name == "client_requests_failed_total"]
    assert {labels["kind"]: value for labels, value in failed if value} == {"http_500": 2, r"od\"d\\kind\n": 1}
    assert {labels["group_id"] for labels, _ in failed} == {r"a\"b\\c"}


def test_failures_are_counted_from_zero_so_that_a_rate_sees_the_first() -> None:
    found = {labels["kind"]: value for name, labels, value in samples(text(Tally())) if name.endswith("failed_total")}
    assert found == dict.fromkeys(KINDS, 0)
    assert {"refused", "timeout", "truncated", "http_429", "http_503"} <= found.keys()


def test_a_quantile_is_known_to_within_a_factor_of_two() -> None:
    assert all(low < high <= 2 * low for low, high in pairwise(BOUNDS))


@pytest.mark.skipif(not scraping.THERE, reason=scraping.MISSING)
@pytest.mark.parametrize("tally", [Tally(), full()], ids=["empty", "full"])
def test_promtool_finds_nothing_to_say(tally: Tally) -> None:
    assert scraping.complaints(with_age(render("7", tally, GAUGES), "7", 0.0).decode()) == []


@pytest.mark.parametrize("phase", PHASES)
def test_exactly_one_phase_is_the_present_one(phase: str) -> None:
    found = text(Tally(), gauges=Gauges(phase, 0, None, 0.0, {}))
    present = [labels["phase"] for name, labels, value in samples(found) if name == "client_phase" and value]
    assert present == [phase]


def test_a_closed_loop_has_no_target_rate() -> None:
    found = text(Tally(), gauges=Gauges("measured", 0, None, 0.0, {}))
    assert "client_target_requests_per_second" not in {name for name, _, _ in samples(found)}


def test_the_dashboards_share_of_good_requests_is_that_of_the_summary() -> None:
    """Of those that were given up on purpose none is a miss."""
    dashboard = json.loads((Path(__file__).parents[2] / "grafana/dashboards/groups.json").read_text())
    (panel,) = (one for one in dashboard["panels"] if one["title"] == "Share of good requests")
    counts = Counts(scheduled=100, sent=90, succeeded=70, failed=10, cancelled=10, unsent=10)
    told = {"requests": counts.sent, "requests_cancelled": counts.cancelled, "requests_unsent": counts.unsent}
    formula = re.sub(
        r"sum by \(group_id\) \(rate\(client_(\w+)_total\{[^}]*\}\[\S+\]\)\)",
        lambda found: str({**told, "requests_good": 45}[found[1]]),
        panel["targets"][0]["expr"],
    )
    good, _, judged = formula.partition(" / ")
    assert int(good) == 45
    assert sum(int(number) for number in re.findall(r"[+-]?\d+", judged.replace(" ", ""))) == counts.judged == 90
