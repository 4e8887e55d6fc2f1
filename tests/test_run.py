"""Whole runs with real processes: what the numbers say, held against the lines and against the ground truth."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from running import Run, Stage

LIGHT = ("--requests-per-second", "20", "--max-tokens", "8", "--drain", "10")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
FAULTS_OF_A_BUSY_MACHINE = {"send_lag", "read_lag", "stalled", "rank_cpu", "coalesced", "disk", "server_ttft"}
"""What a machine that does something else at the same time can bring into a verdict."""


def measured(run: Run) -> list[dict[str, Any]]:
    return [line for line in run.lines() if line["phase"] == "measured"]


def outcome(line: dict[str, Any]) -> str:
    if line["sent"] is None:
        return "unsent"
    if line["error"] is None:
        return "succeeded"
    return "censored" if line["error"]["kind"] == "censored" else "failed"


def durations(lines: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Every per-request metric by its definition, from plain lines."""
    sent = [line for line in lines if line["sent"] is not None]
    good = [line for line in sent if line["error"] is None]
    token = [line for line in good if line["first_token"] is not None]
    content = [line for line in token if line["first_content"] is not None]
    return {
        "latency_seconds": [x["done"] - x["scheduled"] for x in good],
        "service_time_seconds": [x["done"] - x["sent"] for x in good],
        "ttft_seconds": [x["first_token"] - x["sent"] for x in token],
        "ttft_content_seconds": [x["first_content"] - x["sent"] for x in content],
        "ttft_from_schedule_seconds": [x["first_token"] - x["scheduled"] for x in token],
        "tpot_seconds": [
            (x["last_token"] - x["first_token"]) // (x["output_tokens"] - 1)
            for x in token
            if x["output_tokens"] > 1 and x["last_token"] > x["first_token"]
        ],
        "schedule_delay_seconds": [x["sent"] - x["scheduled"] for x in sent],
        "client_wait_seconds": [x["slot_free"] - x["scheduled"] for x in sent],
        "send_lag_seconds": [x["sent"] - x["slot_free"] for x in sent],
    }


def assert_metric(metric: dict[str, Any], values: list[int]) -> None:
    """Count, mean and extremes exactly; percentiles by nearest rank, within 1 %."""
    ordered = sorted(values)
    assert metric["count"] == len(ordered)
    if not ordered:
        assert all(metric[name] is None for name in ("mean", "min", "max", *QUANTILES))
        return
    assert metric["mean"] * 1e9 == pytest.approx(sum(ordered) / len(ordered), rel=1e-9)
    assert metric["min"] * 1e9 == pytest.approx(ordered[0])
    assert metric["max"] * 1e9 == pytest.approx(ordered[-1])
    for name, q in QUANTILES.items():
        nearest = ordered[max(1, math.ceil(q * len(ordered))) - 1]
        assert metric[name] * 1e9 == pytest.approx(nearest, rel=0.01), name


def token_share(line: dict[str, Any], start: float, end: float) -> float:
    first, last = line["first_token"] or line["done"], line["last_token"] or line["done"]
    if first == last:
        return float(start <= first < end)
    inside: float = max(0.0, min(last, end) - max(first, start)) / (last - first)
    return inside


def asked(plan: dict[str, Any]) -> float | None:
    """The mean of the asked rate over the whole measured window."""
    ramp, stages = plan["arrival"]["ramp"], plan["arrival"]["stages"]
    if ramp:
        return float(ramp["from_rps"] + ramp["to_rps"]) / 2
    if stages:
        return float(math.fsum(stage["rps"] * stage["seconds"] for stage in stages) / plan["duration_seconds"])
    rate: float | None = plan["requests_per_second"]
    return rate


def assert_recomputable(run: Run) -> None:
    """The whole summary once more, another way: from the lines and the timeline alone."""
    summary, lines = run.summary, measured(run)
    counts, by_outcome = summary["counts"], Counter(map(outcome, lines))
    assert counts["scheduled"] == len(lines)
    for name in ("succeeded", "failed", "censored", "unsent"):
        assert counts[name] == by_outcome[name], name
    assert counts["scheduled"] == counts["sent"] + counts["unsent"]
    assert counts["sent"] == counts["succeeded"] + counts["failed"] + counts["censored"]
    assert counts["failed_by_kind"] == Counter(x["error"]["kind"] for x in lines if outcome(x) == "failed")
    assert counts["resent"] == sum(line["resent"] for line in lines)
    assert summary["windows"]["warmup"]["scheduled"] == len(run.lines()) - len(lines)

    for name, values in durations(lines).items():
        assert_metric(summary["metrics"][name], values)

    start, end = (summary["windows"][f"measured_{side}"] * 1e9 for side in ("start", "end"))
    seconds = (end - start) / 1e9
    ended = [line for line in run.lines() if line["done"] is not None]
    done = sum(line["error"] is None and start <= line["done"] < end for line in ended)
    rates = summary["rates"]
    assert rates["achieved_rps"] == pytest.approx(done / seconds)
    tokens = sum(line["output_tokens"] * token_share(line, start, end) for line in ended if line["output_tokens"])
    assert rates["output_tokens_per_second"] == pytest.approx(tokens / seconds)
    prompts = sum(
        x["prompt_tokens"] for x in ended if x["prompt_tokens"] and start <= (x["first_token"] or x["done"]) < end
    )
    assert rates["prompt_tokens_per_second"] == pytest.approx(prompts / seconds)
    assert rates["requested_rps"] == pytest.approx(asked(summary["plan"]))
    good = [line for line in lines if outcome(line) == "succeeded"]
    assert summary["tokens"]["output"] == sum(line["output_tokens"] or 0 for line in good)
    assert summary["tokens"]["prompt"] == sum(line["prompt_tokens"] or 0 for line in good)
    for name, counted in (("prompt", "prompt_tokens"), ("output", "output_tokens")):
        assert_lengths(summary["lengths"][name], [line[counted] for line in good if line[counted]])
    tpot = summary["metrics"]["tpot_seconds"]["p50"]
    assert rates["output_tokens_per_second_per_user"] == (None if tpot is None else pytest.approx(1 / tpot))
    busy = sum(max(0, min(x["done"], end) - max(x["sent"], start)) for x in ended)
    assert summary["concurrency"]["mean"] == pytest.approx(busy / 1e9 / seconds)
    assert summary["concurrency"]["peak"] >= most_at_once(ended, start, end)
    assert_stages(summary, lines, ended)
    assert_timeline(run)


def assert_lengths(found: dict[str, Any], lengths: list[int]) -> None:
    """Count, mean and extremes exactly; percentiles by nearest rank, within 1 %."""
    ordered = sorted(lengths)
    assert (found["count"], found["min"], found["max"]) == (len(ordered), ordered[0], ordered[-1])
    assert found["mean"] == pytest.approx(sum(ordered) / len(ordered))
    for name in ("p50", "p90", "p99"):
        assert found[name] == pytest.approx(ordered[max(1, math.ceil(QUANTILES[name] * len(ordered))) - 1], rel=0.01)


def most_at_once(ended: list[dict[str, Any]], start: float, end: float) -> int:
    """The most requests that were in flight at one moment of the window."""
    edges = [(x["sent"], 1) for x in ended if x["sent"] < end] + [(x["done"], -1) for x in ended]
    most = now = 0
    for at, change in sorted(edges):
        now += change
        most = max(most, now if start <= at < end else 0)
    return most


def assert_stages(summary: dict[str, Any], lines: list[dict[str, Any]], ended: list[dict[str, Any]]) -> None:
    """Each stage again, from the lines that were scheduled in it, and from the answers that came in it."""
    asked_for = summary["plan"]["arrival"]["stages"] or []
    assert [stage["requested_rps"] for stage in summary["stages"]] == [stage["rps"] for stage in asked_for]
    for stage in summary["stages"]:
        start, end = stage["start"] * 1e9, stage["end"] * 1e9
        part = [line for line in lines if start <= line["scheduled"] < end]
        by_outcome = Counter(map(outcome, part))
        assert stage["counts"]["scheduled"] == len(part)
        assert all(stage["counts"][name] == by_outcome[name] for name in ("succeeded", "failed", "censored", "unsent"))
        for name in ("latency_seconds", "ttft_seconds", "tpot_seconds"):
            assert_metric(stage["metrics"][name], durations(part)[name])
        done = sum(line["error"] is None and start <= line["done"] < end for line in ended)
        assert stage["achieved_rps"] == pytest.approx(done / (end - start) * 1e9)


def assert_timeline(run: Run) -> None:
    """The seconds add up to the whole, and hold the gaps between chunks."""
    summary, seconds, lines = run.summary, run.timeline(), run.lines()
    assert [line["t"] for line in seconds] == list(range(len(seconds)))
    by_outcome = Counter(map(outcome, lines))
    assert sum(second["scheduled"] for second in seconds) == len(lines)
    assert sum(second["sent"] for second in seconds) == len(lines) - by_outcome["unsent"]
    for name in ("succeeded", "failed", "unsent"):
        assert sum(second[name] for second in seconds) == by_outcome[name], name
    gaps = [x["histograms"]["inter_chunk"] for x in seconds if "inter_chunk" in x["histograms"]]
    metric = summary["metrics"]["inter_chunk_seconds"]
    assert metric["count"] == sum(gap["count"] for gap in gaps)
    if gaps:
        assert metric["mean"] * 1e9 * metric["count"] == pytest.approx(sum(gap["total"] for gap in gaps))
        assert metric["max"] * 1e9 == pytest.approx(max(gap["maximum"] for gap in gaps))
    good = [line for line in lines if line["phase"] == "measured" and outcome(line) == "succeeded" and line["chunks"]]
    assert metric["count"] == sum(line["chunks"] - 1 - line["coalesced"] for line in good)
    assert summary["client"]["chunks"] == sum(line["chunks"] for line in good)
    assert summary["client"]["coalesced"] == sum(line["coalesced"] for line in good)
    lags = [rank["loop_lag"] for second in seconds for rank in second["ranks"].values()]
    assert summary["client"]["loop_lag_max_seconds"] == max(lags)


def assert_the_engine_counts_the_same(run: Run) -> None:
    """What the engine says each second adds up to the tokens that came, and its summary is of the measured seconds."""
    said = [(line["phase"], line["engine"]["0"]) for line in run.timeline() if line["engine"]]
    assert sum(one["generation_tokens"] for _, one in said) == sum(line["output_tokens"] or 0 for line in run.lines())
    measured = run.summary["engine"]["replicas"]["0"]
    of_the_window = [one["generation_tokens"] for phase, one in said if phase == "measured"]
    assert (measured["samples"], measured["generation_tokens"]) == (len(of_the_window), sum(of_the_window))


def assert_rebuilt(stage: Stage, run: Run) -> None:
    """`report --rebuild` comes to the same counts, rates and metrics."""
    ended = stage.command("report", str(run.root), "--rebuild", "--json")
    assert ended.err == ""
    again, summary = json.loads(ended.out), run.summary
    for name in ("counts", "windows", "tokens", "outcome", "client", "engine", "lengths", "stages", "goodput"):
        assert again[name] == summary[name], name
    assert again["concurrency"] == pytest.approx(summary["concurrency"])
    intervals = [rates["rates"].pop("ci") for rates in (again, summary)]
    assert again["rates"] == pytest.approx(summary["rates"])
    assert intervals[0] == intervals[1]
    assert again["metrics"] == summary["metrics"]
    assert again["verdict"] == summary["verdict"]


def assert_valid(run: Run, scheduled: int | None = None) -> None:
    """Nothing is held against the run that its own load, or the service, could be blamed for."""
    summary = run.summary
    assert set(run.reasons) <= FAULTS_OF_A_BUSY_MACHINE
    assert summary["outcome"] == "completed"
    assert summary["counts"]["succeeded"] == summary["counts"]["scheduled"] > 0
    if scheduled is not None:
        assert summary["counts"]["scheduled"] == scheduled
    assert summary["environment"]["simulated"] is True


CLEAN = {
    "constant": (*LIGHT, "--duration", "1"),
    "poisson": (*LIGHT, "--duration", "1", "--arrival", "poisson", "--num-clients", "50"),
    "gamma": (*LIGHT, "--duration", "1", "--arrival", "gamma", "--burstiness", "0.5", "--num-clients", "50"),
    "ramp": ("--ramp", "5:35", "--duration", "1", "--max-tokens", "8", "--num-clients", "20"),
    "stages": ("--stages", "10x0.4,30x0.3,0x0.2,10x0.3", "--max-tokens", "8"),
    "closed loop": ("--num-clients", "3", "--think-time", "0.05", "--duration", "1", "--ramp-seconds", "0.2"),
    "not streamed": (*LIGHT, "--duration", "1", "--no-stream"),
    "completions": (*LIGHT, "--duration", "1", "--endpoint", "completions"),
    "token ids": (*LIGHT, "--duration", "1", "--endpoint", "completions", "--synthetic-tokens", "20"),
    "made-up words": (*LIGHT, "--duration", "1", "--synthetic-words", "5:20", "--unique"),
    "two ranks": (*LIGHT, "--duration", "1", "--ranks", "2"),
    "warm-up": (*LIGHT, "--duration", "1", "--warmup", "0.7"),
    "counted": (*LIGHT, "--request-count", "18"),
    "counted closed loop, two ranks": ("--num-clients", "4", "--request-count", "31", "--ranks", "2"),
}
SCHEDULED = {"constant": 20, "two ranks": 20, "counted": 18, "counted closed loop, two ranks": 31, "warm-up": 20}


@pytest.mark.parametrize("shape", CLEAN)
def test_a_clean_run_is_valid_and_every_number_follows_from_its_lines(stage: Stage, shape: str) -> None:
    run = stage.bench(stage.simulate().url, "--seed", "7", *CLEAN[shape])
    assert_valid(run, SCHEDULED.get(shape))
    assert_recomputable(run)
    assert_the_engine_counts_the_same(run)
    assert_rebuilt(stage, run)


def test_a_replayed_trace_sends_every_row_once_when_the_trace_says(stage: Stage) -> None:
    trace = Path(__file__).parent / "traces" / "mooncake.jsonl"
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    truth = stage.truth(ttft=1, itl=0.01)
    options = ("--trace-speed", "20", "--trace-limit", "40", "--ranks", "2", "--num-clients", "40")
    run = stage.bench(truth.url, "--trace", str(trace), *options)
    lines, summary = run.lines(), run.summary
    assert sorted(line["prompt"] for line in lines) == [*range(40)]
    assert len(truth.requests()) == 40
    for line in lines:
        row = rows[line["prompt"]]
        assert line["scheduled"] == row["timestamp"] * 1_000_000 // 20 <= line["sent"]
        assert line["output_tokens"] == row["output_length"]
    workload = summary["environment"]["workload"]
    assert (workload["format"], workload["rows"]) == ("Mooncake", 40)
    assert summary["rates"]["requested_rps"] == pytest.approx(40 / summary["windows"]["measured_end"])
    report = stage.command("report", str(run.root)).out
    assert "trace arrivals 20 times as fast as recorded" in report
    assert "trace      Mooncake: 40 requests" in report
    assert_rebuilt(stage, run)


def test_rows_that_the_model_cannot_take_are_not_sent(stage: Stage) -> None:
    """The engine tells how long prompts and answers may be."""
    trace = Path(__file__).parent / "traces" / "mooncake.jsonl"
    url = stage.simulate("--max-model-len", "2000", "--kv-cache-tokens", "1000000").url
    run = stage.bench(url, "--trace", str(trace), "--trace-speed", "40", "--num-clients", "60")
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    fitting = [row for row in rows if row["input_length"] + row["output_length"] <= 2000]
    assert run.summary["counts"]["failed"] == 0
    assert len(run.lines()) == len(fitting) > 0
    skipped = run.summary["environment"]["workload"]["skipped"]
    assert skipped == {"prompt and answer are longer than the 2000 tokens that the model takes": 60 - len(fitting)}
    assert run.summary["rates"]["requested_rps"] == pytest.approx(len(fitting) / run.summary["windows"]["measured_end"])
    assert_rebuilt(stage, run)
    (run.root / "summary.json").unlink()  # as of a run that was killed
    counted = json.loads(stage.command("report", str(run.root), "--json").out)["counts"]
    assert (counted["scheduled"], counted["censored"]) == (len(fitting), 0)


def test_prompts_have_the_tokens_that_were_asked_for_by_the_engines_own_count(stage: Stage) -> None:
    """The engine's /tokenize tells which words are one token; what its template adds is measured and taken off."""
    url = stage.simulate("--template-tokens", "11").url
    options = (*LIGHT, "--duration", "1", "--input-tokens", "40:300", "--output-tokens", "3:6")
    run = stage.bench(url, *options)
    tokens = run.summary["tokens"]
    assert {line["prompt_tokens"] - line["prompt_asked"] for line in run.lines()} == {0}
    assert (tokens["prompt_ratio"], tokens["prompt_off"]) == (1, 0)
    assert {line["output_tokens"] for line in run.lines()} <= {3, 4, 5, 6}
    assert run.summary["environment"]["template_tokens"] == 11
    assert "prompt_tokens" not in run.reasons
    report = stage.command("report", str(run.root)).out
    assert "words of one token each, less 11 of the template" in report
    assert "the server counted 1 times the" in report
    assert_rebuilt(stage, run)
    without = stage.bench(stage.truth().url, *options, name="without")
    assert without.summary["environment"]["vocabulary"] == 0
    assert "their lengths are in words" in without.reasons["prompt_tokens"]
    assert any("its tokenizer does not answer" in note for note in without.summary["environment"]["notes"])


def test_requests_leave_on_time_or_later_and_reach_the_endpoint_exactly_once(stage: Stage) -> None:
    """All processes of a machine read the same monotonic clock: ours and the endpoint's can be compared."""
    truth = stage.truth(ttft=20, itl=2)
    run = stage.bench(truth.url, *LIGHT, "--duration", "3", "--ranks", "2", "--record-chunks")
    summary, received = run.summary, truth.requests()
    starts = {rank["rank"]: rank["start_monotonic_ns"] for rank in summary["ranks"]}
    assert summary["clock"] == {str(rank): {"start_monotonic_ns": start, "offset": 0} for rank, start in starts.items()}
    assert len(run.lines()) == 60
    assert set(received) == {f"{summary['run_id']}-{line['seq']}" for line in run.lines()}
    for line in run.lines():
        (true,) = received[f"{summary['run_id']}-{line['seq']}"]
        start = starts[line["rank"]]
        assert line["scheduled"] <= line["slot_free"] <= line["sent"]
        assert start + line["sent"] <= true["received"]
        assert true["received"] < true["first"] <= start + line["first_token"]
        assert true["last"] <= start + line["last_token"] <= start + line["done"]
        assert line["output_tokens"] == line["chunks"] == true["tokens"] == len(line["chunk_times"]) == 8
        assert line["chunk_times"] == sorted(line["chunk_times"])
        assert (line["chunk_times"][0], line["chunk_times"][-1]) == (line["first_token"], line["last_token"])
    assert_recomputable(run)


def test_each_prompt_of_a_file_is_sent_once_before_any_is_sent_again(stage: Stage) -> None:
    """60 arrivals over 40 prompts by two ranks: 20 of them twice, the others once; one is there under two numbers."""
    path = stage.folder / "prompts.txt"
    path.write_text("".join(f"prompt {number % 39}\n" for number in range(40)))
    run = stage.bench(
        stage.simulate().url, *LIGHT, "--duration", "3", "--ranks", "2", "--prompts-file", str(path), "--seed", "3"
    )
    by_number = sorted(run.lines(), key=lambda line: line["seq"])
    assert {line["prompt"] for line in by_number[:40]} == set(range(40))
    assert sorted(Counter(line["prompt"] for line in by_number).values()) == [1] * 20 + [2] * 20
    assert run.summary["environment"]["prompts"] == {"count": 40, "distinct": 39, "left_out": {}}
    told = stage.command("report", str(run.root)).out
    assert "prompts    39 distinct of 40, each of the 40 used at most 2 times\n" in told


@pytest.mark.parametrize("arrival", ["constant", "poisson"])
def test_two_ranks_schedule_exactly_what_one_would(stage: Stage, arrival: str) -> None:
    url = stage.simulate().url
    schedules = []
    for ranks in ("1", "2"):
        options = (*LIGHT, "--duration", "1", "--warmup", "0.5", "--seed", "3", "--arrival", arrival, "--ranks", ranks)
        run = stage.bench(url, *options, name=f"ranks-{ranks}")
        assert_recomputable(run)
        assert len(run.summary["ranks"]) == int(ranks)
        schedules.append(sorted((line["seq"], line["scheduled"], line["phase"]) for line in run.lines()))
        assert {line["seq"] % int(ranks) == line["rank"] for line in run.lines()} == {True}
    assert schedules[0] == schedules[1]
    assert [seq for seq, *_ in schedules[0]] == list(range(len(schedules[0])))


def test_the_same_seed_repeats_a_run_and_another_one_does_not(stage: Stage) -> None:
    url = stage.simulate().url
    offsets = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        run = stage.bench(url, *LIGHT, "--duration", "1", "--arrival", "poisson", "--seed", seed, name=name)
        offsets.append([line["scheduled"] for line in sorted(run.lines(), key=lambda line: line["seq"])])
    assert offsets[0] == offsets[1] != offsets[2]


def test_the_warm_up_is_sent_but_not_counted(stage: Stage) -> None:
    truth = stage.truth()
    run = stage.bench(truth.url, *LIGHT, "--duration", "1", "--warmup", "1")
    assert len(truth.requests()) == 40
    summary = run.summary
    assert summary["counts"]["scheduled"] == summary["windows"]["warmup"]["succeeded"] == 20
    assert (summary["windows"]["measured_start"], summary["windows"]["measured_end"]) == (1.0, 2.0)
    assert all((line["scheduled"] < 1e9) == (line["phase"] == "warmup") for line in run.lines())
    assert_recomputable(run)


def test_a_request_count_ends_the_run_after_exactly_so_many_measured_requests(stage: Stage) -> None:
    truth = stage.truth()
    run = stage.bench(truth.url, *LIGHT, "--request-count", "15", "--warmup", "0.5", "--ranks", "2")
    assert run.summary["counts"]["succeeded"] == run.summary["counts"]["scheduled"] == 15
    assert len(truth.requests()) == 25
    assert run.summary["plan"]["duration_seconds"] is None
    seconds = run.summary["windows"]["measured_end"] - run.summary["windows"]["measured_start"]
    assert seconds == pytest.approx(15 / run.summary["plan"]["requests_per_second"], rel=0.1)
    assert_recomputable(run)
    assert_rebuilt(stage, run)


def test_a_closed_loop_client_thinks_before_it_sends_again(stage: Stage) -> None:
    truth = stage.truth(ttft=5, itl=1)
    run = stage.bench(
        truth.url, "--num-clients", "2", "--think-time", "0.1", "--duration", "1", "--max-tokens", "4", "--ranks", "1"
    )
    assert run.summary["rates"]["requested_rps"] is None
    lines = sorted(run.lines(), key=lambda line: line["scheduled"])
    ends = {line["done"] for line in lines}
    assert [line["scheduled"] for line in lines if line["scheduled"] - 100_000_000 not in ends] == [0, 500_000_000]
    in_flight = sorted([(line["sent"], 1) for line in lines] + [(line["done"], -1) for line in lines])
    running = 0
    for _, change in in_flight:
        running += change
        assert running <= 2
    assert_recomputable(run)


def test_no_more_than_num_clients_are_ever_in_flight_and_arrivals_keep_their_time(stage: Stage) -> None:
    """The service answers 4 clients 5 times a second each; twice as much is asked."""
    truth = stage.truth(ttft=200, itl=0)
    run = stage.bench(
        truth.url, "--requests-per-second", "40", "--num-clients", "4", "--duration", "2", "--max-tokens", "1"
    )
    events = sorted(change for x in truth.requests().values() for change in ((x[0]["received"], 1), (x[0]["last"], -1)))
    running = peak = 0
    for _, change in events:
        running += change
        peak = max(peak, running)
    assert peak <= 4
    assert [line["scheduled"] for line in sorted(run.lines(), key=lambda x: x["seq"])] == [
        round(n * 25e6) for n in range(80)
    ]
    sent = sorted((line for line in run.lines() if line["sent"] is not None), key=lambda line: line["sent"])
    assert [line["seq"] for line in sent] == sorted(line["seq"] for line in sent)
    summary = run.summary
    assert summary["verdict"]["state"] != "valid"
    assert "client_cap" in run.reasons
    assert "not_sent" not in run.reasons
    assert summary["counts"]["unsent"] > 0
    assert summary["metrics"]["latency_seconds"]["p50"] > 2 * summary["metrics"]["service_time_seconds"]["p50"]
    assert summary["metrics"]["latency_seconds"]["lower_bound"]["p90"] is True
    assert_recomputable(run)
    assert_rebuilt(stage, run)


def test_load_spreads_over_replicas_and_a_dead_one_is_left_out_and_named(stage: Stage) -> None:
    one, other = stage.truth(), stage.truth()
    run = stage.bench(one.url, other.url, *LIGHT, "--duration", "1")
    assert {line["replica"] for line in run.lines()} == {"0", "1"}
    assert len(one.requests()) == len(other.requests()) == 10
    other = stage.truth()
    run = stage.bench(one.url, other.url, *LIGHT, "--duration", "2", name="dead")
    assert "replica_left_out" in run.reasons
    assert run.summary["replicas"]["0"]["left_out"] is True
    assert run.summary["counts"]["failed"] == run.summary["replicas"]["0"]["counts"]["failed"] > 0
    assert_recomputable(run)
    assert_rebuilt(stage, run)


def test_a_line_of_the_timeline_has_the_phase_and_the_asked_rate_of_its_own_second(stage: Stage) -> None:
    truth = stage.truth(ttft=1200)
    run = stage.bench(truth.url, *("--stages", "10x1,20x1", "--warmup", "1", "--max-tokens", "1"), "--drain", "10")
    told = [(line["phase"], line["target_rps"]) for line in run.timeline()]
    assert told[:3] == [("warmup", 10), ("measured", 10), ("measured", 20)]
    assert set(told[3:]) == {("draining", 0)}


def test_a_run_that_reaches_its_count_drains_from_the_next_second_on(stage: Stage) -> None:
    truth = stage.truth(ttft=1500)
    options = ("--requests-per-second", "10", "--request-count", "15", "--num-clients", "20", "--max-tokens", "1")
    told = [(line["phase"], line["target_rps"]) for line in stage.bench(truth.url, *options).timeline()]
    assert told[:2] == [("measured", 10), ("measured", 10)]
    assert set(told[2:]) == {("draining", 0)}


def test_good_requests_are_told_in_lines_and_summary_and_too_few_of_them_are_an_exit_code(stage: Stage) -> None:
    """An answer of one token has no TPOT, so none is good; without that objective all are."""
    engine = stage.simulate()
    one_token = (*LIGHT[:2], "--duration", "1", "--max-tokens", "1")
    slo = "ttft=50s,latency=50s"
    run = stage.bench(engine.url, *one_token, "--slo", f"{slo},tpot=50s", "--fail-on", "slo", codes=(5,), name="missed")
    assert {line["good"] for line in run.lines()} == {False}
    assert (run.summary["goodput"]["good"], run.summary["goodput"]["ratio"], run.summary["goodput"]["met"]) == (
        0,
        0,
        False,
    )
    assert stage.command("report", str(run.root), "--rebuild", "--fail-on", "slo").code == 5
    assert stage.command("report", str(run.root)).code == 0

    run = stage.bench(engine.url, *LIGHT, "--duration", "1", "--slo", slo, "--fail-on", "slo")
    found = run.summary["goodput"]
    assert (found["good"], found["ratio"], found["met"]) == (run.summary["counts"]["scheduled"], 1, True)
    assert found["rps"] == run.summary["rates"]["achieved_rps"]
    assert found["output_tokens_per_second"] == run.summary["rates"]["output_tokens_per_second"]
    assert sum(line["good"] for line in run.timeline()) == found["good"]
    assert (
        f'client_requests_good_total{{group_id="{run.summary["run_id"]}"}} {found["good"]}'
        in (run.root / "metrics.prom").read_text()
    )
    refused = stage.command("bench", engine.url, "--fail-on", "slo")
    assert (refused.code, "--slo ttft=500ms" in refused.err) == (2, True)
