"""What a person sees of a run."""

import msgspec
import pytest
from msgspec.structs import replace

from plans import TWO_REPLICAS
from plans import plan as made
from tokenstorm.loadgen.arrivals import mean_rate
from tokenstorm.metrics.energy import EnergyReport, GpuEnergy
from tokenstorm.metrics.engine import EngineSecond, EngineTally, EngineTimes
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.intervals import Interval
from tokenstorm.metrics.reports import Environment, PromptStock, RankReport, Reason
from tokenstorm.metrics.summarize import Run, summarize
from tokenstorm.metrics.summary import Metric, SteadyReport, Summary
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.report.figures import duration, figure
from tokenstorm.report.text import prompts_used, summary_text
from tokenstorm.result import CANCELLED, SCHEMA, Failure, Result

GPU = GpuEnergy(gpu="GPU-a", node="n1", joules=750.0, average_watts=150.0, method="counter")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.0000015, "2 µs"),
        (0.000999, "999 µs"),
        (0.001, "1.00 ms"),
        (0.01234, "12.3 ms"),
        (0.5, "500 ms"),
        (1, "1.00 s"),
        (12.34, "12.3 s"),
        (123.4, "123 s"),
    ],
)
def test_a_duration_has_three_digits_and_a_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (0.0, "0"),
        (0.00001234, "0.00001234"),
        (2.5, "2.5"),
        (9999.4, "9999"),
        (9999.7, "10000"),
        (12345.6, "12346"),
    ],
)
def test_a_figure_has_four_digits_and_never_an_exponent(value: float | None, text: str) -> None:
    assert figure(value) == text


def result(seq: int, **fields: object) -> Result:
    at = seq * 10**8
    times: dict[str, object] = {
        "sent": at,
        "first_token": at + 10**7,
        "last_token": at + 5 * 10**7,
        "done": at + 6 * 10**7,
        "output_tokens": 5,
        "prompt_tokens": 3,
        "token_source": "usage",
        "chunks": 5,
        **fields,
    }
    line = {"schema": SCHEMA, "seq": seq, "rank": 0, "replica": str(seq % 2), "phase": "measured"}
    return msgspec.convert({**line, "scheduled": at, "slot_free": at, **times}, Result)


def summary(results: list[Result], environment: Environment, **plan_fields: object) -> Summary:
    plan = made(**{"targets": TWO_REPLICAS, "requests_per_second": 10, "duration_seconds": 1, **plan_fields})
    tally = Tally()
    tally.add(results, Window.of(plan, 10**9))
    run = Run(
        plan=plan,
        outcome="cancelled",
        window_end=10**9,
        requested_rps=mean_rate(plan, 10**9),
        started_at=None,
        ended_at=None,
        ranks=[RankReport(rank=0, cpu=0.123)],
        waited_below_cap=0,
        unsent_by_lost_ranks=0,
        left_out=["1"],
        environment=environment,
    )
    return summarize(run, tally)


def test_the_end_of_a_run_tells_load_results_and_what_to_think_of_them() -> None:
    lines = [result(0), result(1, error=Failure("reset", "")), result(2), result(3, sent=None, done=None)]
    text = summary_text(summary(lines, Environment(model="m", simulated=True)))
    head, *rest = text.splitlines()
    assert "SIMULATED" in head
    assert "m at http://h and 1 more: chat, streamed, at most 100 tokens" in rest
    assert "constant arrivals, 4 clients, 1 rank, 1 s measured" in rest
    assert "requests   4 scheduled, 2 succeeded, 1 failed, 1 unsent" in rest
    assert "failed     1 reset: no words" in rest
    assert "unsent     1: the load generator's fault" in rest
    assert "rate       sent 3/s of 10 asked; answered 2/s" in rest
    assert "replica 1 (http://i): 1 sent, 0 succeeded, 1 failed, left out for some time" in rest
    assert "verdict: INVALID" in rest
    assert "  the run was cancelled before its planned end" in rest
    assert "load generator: 12% of a core at most" in text
    assert "~ fewer samples than an upper bound of the percentile needs (p50 11, p90 64, p99 662)" in rest
    assert "> at least: 1 failed, 1 unsent of 4 have no time, and would raise it" in rest
    latency = next(line for line in rest if line.startswith("latency"))
    assert latency.split()[-1] == "2"
    assert ">~60.0 ms" in latency


def test_a_closed_loop_has_no_rows_for_waiting() -> None:
    text = summary_text(summary([result(0)], Environment(), requests_per_second=None))
    assert "closed loop" in text
    assert "client wait" not in text
    assert "asked" not in text
    assert "SIMULATED" not in text


@pytest.mark.parametrize(
    ("stock", "plan_fields", "words"),
    [
        (PromptStock(1000, 1000), {}, "1000 distinct, each used at most 1 time"),
        (PromptStock(10, 10), {}, "10 distinct, each used at most 3 times"),
        (PromptStock(25, 25), {}, "25 distinct, each used at most 1 time"),
        (PromptStock(10, 4), {}, "4 distinct of 10, each of the 10 used at most 3 times"),
        (PromptStock(1, 1), {"unique_prompts": True}, "1 distinct, each used at most 25 times, with a salt for each"),
        (PromptStock(10, 10), {"ranks": 2, "requests_per_second": None}, "10 distinct, each used about 3 times"),
        (None, {"prompts": {"kind": "synthetic", "unit": "words", "length": {"n": 5}}}, "made up for each request"),
        (None, {}, "-"),
    ],
)
def test_the_prompts_are_told_and_how_often_each_was_used(
    stock: PromptStock | None, plan_fields: dict[str, object], words: str
) -> None:
    """Five requests of the warm-up and twenty measured ones; a summary of an older version has no count."""
    lines = [
        msgspec.structs.replace(result(seq), phase="warmup" if seq < 5 else "measured", scheduled=seq * 10**7)
        for seq in range(25)
    ]
    of_run = summary(lines, Environment(prompts=stock), **plan_fields)
    assert (of_run.windows.warmup.scheduled, of_run.counts.scheduled) == (5, 20)
    assert prompts_used(of_run).startswith(words)
    assert f"prompts    {words}" in summary_text(of_run)


def test_a_run_without_any_answer_can_still_be_shown() -> None:
    text = summary_text(summary([], Environment()))
    assert "0 scheduled, 0 succeeded, 0 failed" in text
    assert "none of 0 requests succeeded" in text


def test_what_a_server_said_is_shown_and_neither_obeyed_nor_taken_for_a_line_of_ours() -> None:
    environment = Environment(model="m\x1b[2J", notes=["it said \u202e\nverdict: VALID"])
    text = summary_text(summary([result(0, error=Failure("http_500\x9b", "x"))], environment))
    assert r"m\x1b[2J at http://h and 1 more" in text
    assert r"failed     1 http_500\x9b: x" in text
    assert r"  note: it said \u202e\nverdict: VALID" in text.splitlines()
    assert "verdict: VALID" not in text.splitlines()
    assert all(line.isprintable() for line in text.splitlines())


def test_the_kinds_of_failures_stand_beside_their_number() -> None:
    lines = [result(0), *(result(n, error=Failure("reset", "")) for n in (1, 2)), result(3, sent=None, done=None)]
    text = summary_text(summary(lines, Environment()))
    assert "4 scheduled, 1 succeeded, 2 failed, 1 unsent" in text
    assert "failed     2 reset: no words" in text


def test_all_that_was_sent_in_time_is_no_failure_because_the_last_answers_came_in_the_drain() -> None:
    """Ten a second for a second, each answered after 250 ms: the last two answers come after the window."""
    lines = [result(n, last_token=n * 10**8 + 25 * 10**7, done=n * 10**8 + 25 * 10**7) for n in range(10)]
    text = summary_text(summary(lines, Environment()))
    assert "rate       sent 10/s of 10 asked; answered 8/s inside the window (the other 2 came in the drain)" in text


def test_arrivals_that_found_every_client_busy_say_so() -> None:
    lines = [result(0), *(result(n, slot_free=None, sent=None, done=None) for n in (1, 2))]
    assert "unsent     2: every client was busy" in summary_text(summary(lines, Environment()))


def test_the_closing_tables_fit_80_columns_and_have_the_rest_when_they_may_be_wide() -> None:
    lines = [result(n, done=n * 10**8 + 123_456_789_000) for n in range(10)]
    stages = {"arrival": {"stages": [{"rps": 10, "seconds": 1}]}, "requests_per_second": None}
    made_of = summary([*lines, result(10, error=Failure("reset", ""))], Environment(), **stages)
    narrow, wide = summary_text(made_of).splitlines(), summary_text(made_of, wide=True).splitlines()
    tables = [line for line in narrow if line.startswith((" " * 22, "latency", "TTFT", "stage", "0 to 1 s"))]
    assert len(tables) == 6
    assert max(map(len, tables)) <= 80
    assert all(line.count("  ") for line in tables)
    assert "p99.9" in "".join(wide)
    assert "p99.9" not in "".join(narrow)


def test_goodput_is_told_with_the_objectives_and_whether_enough_were_good() -> None:
    """Two of four are good: one failed, one was never sent."""
    lines = [*(result(n, good=True) for n in (0, 1)), result(2, error=Failure("reset", ""), good=False)]
    lines.append(result(3, sent=None, done=None))
    slo = {"ttft_seconds": 0.25, "latency_seconds": 5, "share": 0.9}
    text = summary_text(summary(lines, Environment(), slo=slo))
    rates = "2 req/s, 10 output tok/s"
    assert (
        f"goodput    50% of all scheduled are good: {rates} (TTFT ≤ 250 ms, latency ≤ 5 s; 90% asked: MISSED)" in text
    )
    assert "asked: met)" in summary_text(summary(lines[:2], Environment(), slo=slo))
    lines.append(result(4, error=Failure(CANCELLED, ""), good=False))
    assert "50% of all scheduled but those given up are good" in summary_text(summary(lines, Environment(), slo=slo))
    assert "goodput" not in summary_text(summary(lines, Environment()))


def test_lengths_and_requests_in_flight_are_told() -> None:
    """Each of three requests is in flight for 60 of 1000 ms; the answers have 5, 5 and 9 tokens."""
    text = summary_text(summary([result(0), result(1), result(2, output_tokens=9)], Environment()))
    assert "lengths    prompts of 3 tokens, answers of 6.333 tokens (5 to 9, p50 5, p99 9)" in text
    assert "in flight  0.18 on average" in text
    assert ", 100 tok/s per user (counted by usage)" in text


def test_a_staged_load_has_a_row_for_each_stage() -> None:
    stages = {"stages": [{"rps": 10, "seconds": 0.2}, {"rps": 0, "seconds": 0.3}, {"rps": 10, "seconds": 0.5}]}
    staged = {"requests_per_second": None, "duration_seconds": 1, "arrival": stages}
    lines = [result(0), result(1), result(6, error=Failure("reset", "")), result(7, sent=None, done=None)]
    rows = summary_text(summary(lines, Environment(), **staged)).splitlines()
    start = next(number for number, row in enumerate(rows) if row.startswith("stage"))
    assert [row.split()[:8] for row in rows[start + 1 : start + 4]] == [
        ["0", "to", "0.2", "s", "10", "10", "0", "0"],
        ["0.2", "to", "0.5", "s", "0", "0", "0", "0"],
        ["0.5", "to", "1", "s", "10", "0", "1", "1"],
    ]


def test_what_the_engine_counts_stands_beside_what_we_measured() -> None:
    said = EngineTally()
    times = EngineTimes(2, 0.02, {"0.01": 1, "0.02": 1})
    said.add(
        {"0": EngineSecond(at=1, running=3, waiting=1, kv_usage=0.5, hit_rate=0.25, preemptions=2, ttft_seconds=times)}
    )
    plain = summary([result(seq) for seq in range(4)], Environment())
    lines = summary_text(msgspec.structs.replace(plain, engine=said.report())).splitlines()
    ours, theirs = (next(line for line in lines if line.startswith(name)) for name in ("TTFT ", "engine's own TTFT"))
    assert ours.split()[1:3] == ["10.0", "ms"]
    assert theirs.split()[3:5] == ["10.0", "ms"]
    assert len(theirs) == len(ours)
    (levels,) = (line for line in lines if line.startswith("engine of replica 0:"))
    for words in ("running 3.0 on average", "KV cache 50.0% at most", "prefix cache hits 25%", "2 preemptions"):
        assert words in levels


@pytest.mark.parametrize(
    ("energy", "words"),
    [
        (
            EnergyReport(
                valid=True, reasons=[], joules=1500.0, average_watts=300.0, joules_per_output_token=0.5, gpus=[GPU] * 2
            ),
            "energy of 2 GPUs: 1500 J, 300 W on average, 0.5 J per output token",
        ),
        (
            EnergyReport(valid=False, reasons=[Reason("sample_gap", "GPU-a was not read")]),
            "energy unknown: GPU-a was not read",
        ),
    ],
)
def test_energy_is_told_or_why_it_is_unknown(energy: EnergyReport, words: str) -> None:
    of_run = summary([result(0)], Environment())
    assert words in summary_text(msgspec.structs.replace(of_run, energy=energy)).splitlines()
    assert "energy" not in summary_text(of_run)


def test_intervals_and_the_steady_part_stand_under_the_numbers() -> None:
    sure = Interval(0.010, 0.012, 0.95, "means of 16 batches")
    histogram = Histogram()
    histogram.record_many([11 * 10**6] * 700)
    metric = Metric.of(histogram, ci=sure)
    found = summary([result(0)], Environment(model="m"))
    steady = SteadyReport(
        state="steady",
        text="",
        from_seconds=3,
        until_seconds=20,
        rates={"achieved_rps": 9.5},
        metrics=dict.fromkeys(found.metrics, metric),
    )
    rates = replace(found.rates, ci={"achieved_rps": Interval(9, 10, 0.95, "means of 16 batches")})
    text = summary_text(replace(found, steady=steady, rates=rates, metrics={**found.metrics, "ttft_seconds": metric}))
    assert "steady     3 to 20 s: 9.5 req/s, TTFT 11.0 ms, TPOT 11.0 ms, latency 11.0 ms on average" in text
    assert "likely     9 to 10 req/s\n           TTFT mean 10.0 ms to 12.0 ms, p99 at most 11.0 ms\n" in text
