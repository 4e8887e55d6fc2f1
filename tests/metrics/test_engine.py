"""What engines say of themselves comes out in one form, whichever engine it is, and adds up."""

from typing import Any

import msgspec
import pytest

from tokenstorm.metrics.engine import EngineSecond, EngineTally, EngineTimes
from tokenstorm.metrics.enginetext import read_engine, second_between

VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
vllm:num_requests_running{{engine="1",model_name="m"}} 2.0
vllm:num_requests_waiting{{engine="0",model_name="m"}} 3.0
vllm:num_requests_waiting_by_reason{{engine="0",reason="capacity"}} 99.0
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} 0.25
vllm:kv_cache_usage_perc{{engine="1",model_name="m"}} 0.75
vllm:prefix_cache_queries_total{{engine="0",model_name="m"}} {queries}
vllm:prefix_cache_hits_total{{engine="0",model_name="m"}} {hits}
vllm:prefix_cache_hits_created{{engine="0",model_name="m"}} 1.7e+09
vllm:num_preemptions_total{{engine="0",model_name="m"}} 1.0
vllm:prompt_tokens_total{{engine="0",model_name="a}} \\"m"}} 1.2e+03
vllm:generation_tokens_total{{engine="0",model_name="m"}} {generated}
vllm:spec_decode_num_draft_tokens_total{{engine="0"}} 10.0
vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {accepted}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.1",model_name="m"}} {fast}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.5",model_name="m"}} {both}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf",model_name="m"}} {both}
vllm:time_to_first_token_seconds_count{{engine="0",model_name="m"}} {both}
vllm:time_to_first_token_seconds_sum{{engine="0",model_name="m"}} {ttft}
"""
BEFORE = {"running": 1, "queries": 100, "hits": 10, "generated": 50, "accepted": 0, "fast": 4, "both": 6, "ttft": 1.0}
AFTER = {"running": 5, "queries": 140, "hits": 40, "generated": 90, "accepted": 0, "fast": 7, "both": 10, "ttft": 2.5}
SGLANG = """
sglang:num_running_reqs{model_name="m",tp_rank="0"} 4.0
sglang:num_queue_reqs{model_name="m"} 1.0
sglang:token_usage{model_name="m"} 0.5
sglang:cache_hit_rate{model_name="m"} nan
sglang:spec_accept_rate{model_name="m"} 0.8
sglang:num_retracted_requests_total{model_name="m"} 2.0
sglang:prompt_tokens_total{model_name="m"} 200.0
sglang:cached_tokens_total{cache_source="device",model_name="m"} 50.0
sglang:generation_tokens_total{model_name="m"} 70.0
sglang:time_to_first_token_seconds_sum{model_name="m"} 3.0
sglang:time_to_first_token_seconds_count{model_name="m"} 10.0
sglang:queue_time_seconds_sum{model_name="m"} 1.0
sglang:queue_time_seconds_count{model_name="m"} 10.0
"""
LLAMA = """
llamacpp:prompt_tokens_total 30
llamacpp:tokens_predicted_total 40
llamacpp:requests_processing 2
llamacpp:requests_deferred 1
llamacpp:predicted_tokens_seconds 55.1
"""
TGI = """
tgi_batch_current_size 7
tgi_queue_size 2
tgi_request_queue_duration_bucket{le="0.1"} 3
tgi_request_queue_duration_bucket{le="+Inf"} 3
tgi_request_queue_duration_sum 0.2
tgi_request_queue_duration_count 3
tgi_request_input_length_sum 300
tgi_request_generated_tokens_sum 120
"""


def vllm(**changed: float) -> bytes:
    return VLLM.format(**{**BEFORE, **changed}).encode()


def between(before: bytes, after: bytes) -> dict[str, Any]:
    first, then = read_engine(before), read_engine(after)
    assert first
    assert then
    said: dict[str, Any] = msgspec.to_builtins(second_between(first, then, 4.0, 1.0))
    return said


def test_counters_and_histograms_of_vllm_are_those_of_the_second_and_gauges_as_they_stand() -> None:
    """Two engines behind one address are added up; the fuller cache counts."""
    said = between(vllm(), vllm(**AFTER))
    assert said == {
        "at": 4.0,
        "seconds": 1.0,
        "running": 7.0,  # 5 and 2
        "waiting": 3.0,
        "kv_usage": 0.75,
        "prefix_queries": 40.0,  # 140 - 100
        "prefix_hits": 30.0,  # 40 - 10
        "hit_rate": 0.75,
        "preemptions": 0.0,
        "prompt_tokens": 0.0,
        "generation_tokens": 40.0,
        "drafted_tokens": 0.0,
        "accepted_tokens": 0.0,
        "ttft_seconds": {"count": 4, "sum": 1.5, "buckets": {"0.1": 3, "0.5": 1}},  # 7 - 4, and (10 - 7) - (6 - 4)
    }


NOTHING_YET = "\n".join(line.rpartition(" ")[0] + " 0" for line in SGLANG.strip().splitlines())


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            NOTHING_YET,
            SGLANG,
            {
                "running": 4,
                "waiting": 1,
                "kv_usage": 0.5,
                "acceptance": 0.8,
                "hit_rate": 0.25,
                "preemptions": 2,
                "prefix_queries": 200,
                "generation_tokens": 70,
                "ttft_seconds": {"count": 10, "sum": 3.0},
                "queue_seconds": {"count": 10, "sum": 1.0},
            },
        ),
        (
            LLAMA,
            LLAMA.replace("total 40", "total 90"),
            {"running": 2, "waiting": 1, "prompt_tokens": 0, "generation_tokens": 50},
        ),
        (
            TGI.replace("sum 300", "sum 100"),
            TGI,
            {"running": 7, "waiting": 2, "prompt_tokens": 200, "queue_seconds": {"count": 0, "sum": 0.0}},
        ),
    ],
    ids=["sglang", "llama.cpp", "tgi"],
)
def test_each_engines_names_give_the_same_fields(before: str, after: str, expected: dict[str, Any]) -> None:
    said = between(before.encode(), after.encode())
    for times in (one for one in said.values() if isinstance(one, dict)):
        times.pop("buckets", None)
    assert {name: said[name] for name in expected} == expected
    assert "ttft_seconds" in said or "ttft_seconds" not in expected


def test_an_engine_that_started_again_has_gauges_and_no_counts() -> None:
    said = between(vllm(**AFTER), vllm(running=3))
    assert said == {"at": 4.0, "running": 5.0, "waiting": 3.0, "kv_usage": 0.75}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>vllm:num_requests_running 3</html>",
        b"process_cpu_seconds_total 3\n",
        b"vllm:num_requests_running x\n",
    ],
)
def test_a_text_without_an_engines_figures_is_none(text: bytes) -> None:
    assert read_engine(text) is None


@pytest.mark.parametrize("value", ["nan", "-1", "inf", "1e300", "1_0_", "0x10"])
def test_a_figure_that_cannot_be_is_left_out(value: str) -> None:
    reading = read_engine(f"vllm:num_requests_running 1\nvllm:num_requests_waiting {value}\n".encode())
    assert reading
    assert reading.gauges == {"running": 1.0}


def test_bounds_that_a_server_makes_up_are_not_kept() -> None:
    hostile = [f'vllm:time_to_first_token_seconds_bucket{{le="{bound}"}} 1' for bound in ("nan", "1e", '\\"', "x" * 99)]
    many = [f'vllm:request_queue_time_seconds_bucket{{le="{bound}"}} 1' for bound in range(201)]
    sums = [
        f"vllm:{name}_{part} 1"
        for name in ("time_to_first_token_seconds", "request_queue_time_seconds")
        for part in ("sum", "count")
    ]
    reading = read_engine("\n".join([*hostile, *many, *sums]).encode())
    assert reading
    assert reading.times == {"ttft_seconds": EngineTimes(1, 1.0, {})}


def test_the_summary_has_means_maxima_sums_and_estimated_percentiles_of_all_replicas() -> None:
    tally = EngineTally()
    times = EngineTimes(10, 2.0, {"0.1": 5, "0.5": 5})
    tally.add({"0": EngineSecond(at=1, seconds=1, running=2, prefix_queries=10, prefix_hits=1, hit_rate=0.1)})
    tally.add({"0": EngineSecond(at=2, seconds=1, running=6, prefix_queries=30, prefix_hits=29, hit_rate=0.97)})
    tally.add({"1": EngineSecond(at=2, hit_rate=0.5, ttft_seconds=times), "0": EngineSecond(at=3, ttft_seconds=times)})
    report = tally.report()
    assert report
    first = report.replicas["0"]
    assert (first.samples, first.seconds, first.hit_rate) == (3, 2.0, 0.75)  # 30 of 40, not the mean of the shares
    assert first.running
    assert (first.running.mean, first.running.max) == (4.0, 6.0)
    assert (report.replicas["1"].hit_rate, report.replicas["1"].running) == (0.5, None)
    both = report.ttft_seconds
    assert both
    # 10 of 20 are at most 0.1: p50 is 0.1; p90 is 8/10 of the way from 0.1 to 0.5
    assert (both.count, both.mean, both.p50) == (20, 0.2, 0.1)
    assert both.p90 == pytest.approx(0.42)
    assert report.queue_seconds is None
    assert EngineTally().report() is None


def times_at(*counts: int) -> bytes:
    """A histogram of vLLM's: how many times do not exceed each of five bounds."""
    name, bounds = "vllm:time_to_first_token_seconds", ("0.001", "0.1", "0.25", "0.5", "+Inf")
    lines = [f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, counts, strict=True)]
    return "\n".join([*lines, f"{name}_sum {counts[-1] * 0.3}", f"{name}_count {counts[-1]}", ""]).encode()


def test_a_percentile_lies_within_its_own_bucket_however_many_below_are_empty() -> None:
    """All 100 are between 0.25 and 0.5: the tenth of them is a tenth of the way."""
    first, then = read_engine(times_at(7, 7, 7, 7, 7)), read_engine(times_at(7, 7, 7, 107, 107))
    assert first
    assert then
    times = second_between(first, then, 1.0, 1.0).ttft_seconds
    assert times
    assert [times.quantile(q) for q in (0.1, 0.5, 0.9)] == pytest.approx([0.275, 0.375, 0.475])
    times.merge(EngineTimes(1, 0.01, {"0.001": 0, "0.1": 1}))
    assert times.quantile(0.5) == pytest.approx(0.25 + 0.25 * 49.5 / 100)


def test_what_an_engine_tells_by_an_old_and_a_new_name_is_counted_once() -> None:
    """Some versions of vLLM tell what was renamed by both names."""
    new = 'vllm:prefix_cache_queries_total{engine="0"} 100\nvllm:prefix_cache_queries_total{engine="1"} 20\n'
    old = new.replace("prefix", "gpu_prefix")
    for text in (new + old, old + new, old, new):
        reading = read_engine(text.encode())
        assert reading
        assert reading.counters == {"prefix_queries": 120.0}


def test_a_percentile_above_all_bounds_is_unknown() -> None:
    assert EngineTimes(2, 9.0, {"0.1": 1, "+Inf": 1}).quantile(0.9) is None


def test_a_wide_first_bucket_gives_no_quantile_that_the_mean_rules_out() -> None:
    """As of vLLM's queue times: all below the first bound of 300 ms, 1 ms on average."""
    times = EngineTimes(count=100, sum=0.1, buckets={"0.3": 100})
    assert times.quantile(0.5) == pytest.approx(0.002)
    assert times.quantile(0.99) == pytest.approx(0.1)
    even = EngineTimes(count=100, sum=15.0, buckets={"0.3": 100})
    assert even.quantile(0.5) == pytest.approx(0.15)
