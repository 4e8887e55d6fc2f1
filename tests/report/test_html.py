"""A run as one page: all that a person needs, nothing from outside that a browser would act on."""

import base64
import hashlib
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from tokenstorm.loadgen.live import TimelineLine
from tokenstorm.metrics.reports import Environment, RankReport
from tokenstorm.metrics.summarize import Run, summarize
from tokenstorm.metrics.summary import Summary
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.plan import Plan, make_plan
from tokenstorm.report.assets import Assets, read_assets
from tokenstorm.report.figures import duration
from tokenstorm.report.html import report_page
from tokenstorm.report.markdown import summary_markdown
from tokenstorm.report.over_time import over_time
from tokenstorm.report.story import Outline, Story
from tokenstorm.result import SCHEMA, Result

EVERY = "Every field of the plan"
ASSETS = Assets("p{}", "library()", "draw()")
HOSTILE = "<script>alert('x')</script><img src=x onerror=\"alert(1)\">&amp; \u202e \x1b[2J \x9b \u2028"
LONG = "It was long ago. " * 100
EVERY_FIELD: dict[str, tuple[Any, str]] = {
    "schema": (1, "1"),
    "tokenstorm": ("0.77.7", "0.77.7"),
    "run_id": ("a" * 32, "a" * 32),
    "group_id": (4711, "4711"),
    "name": ("the night run", "the night run"),
    "labels": ({"team": "hpc"}, '{"team":"hpc"}'),
    "targets": ([{"replica": "n1.0", "url": "http://n1:8101"}], "n1.0: http://n1:8101"),
    "endpoint": ("completions", "completions"),
    "inputs": (None, "-"),
    "custom": (None, "-"),
    "headers": ({"x-tenant": "hpc"}, '{"x-tenant":"hpc"}'),
    "api_key_header": ("x-api-key", "x-api-key"),
    "model": ("qwen-of-the-test", "qwen-of-the-test"),
    "models": ([], "-"),
    "stream": (True, "yes"),
    "max_tokens": (123, "123"),
    "temperature": (1.25, "1.25"),
    "ignore_eos": (True, "yes"),
    "extra_body": ({"top_k": 55}, '{"top_k":55}'),
    "prompts": ({"kind": "list", "prompts": ["First?", LONG, *("more",) * 30]}, f"First?\n{LONG[:300]} …\nmore"),
    "trace": (None, "-"),
    "columns": ({}, "-"),
    "conversation": (None, "-"),
    "no_repeat": (True, "yes"),
    "cache": ("salt", "salt"),
    "unique_prompts": (True, "yes"),
    "num_clients": (321, "321"),
    "requests_per_second": (12.5, "12.5"),
    "arrival": ({"kind": "gamma", "burstiness": 0.35}, "gamma, burstiness 0.35"),
    "think_time_seconds": (0.0, "0"),
    "ramp_seconds": (2.75, "2.75"),
    "seed": (987654321, "987654321"),
    "warmup_seconds": (3.5, "3.5"),
    "duration_seconds": (61.5, "61.5"),
    "request_count": (700, "700"),
    "drain_seconds": (31.5, "31.5"),
    "request_timeout_seconds": (119.5, "119.5"),
    "cancel": ({"rate": 0.25, "after_seconds": 2}, '{"rate":0.25,"after_seconds":2.0,"after_tokens":null}'),
    "slo": (
        {"ttft_seconds": 0.55, "latency_seconds": 7.5, "share": 0.95},
        "TTFT ≤ 550 ms, latency ≤ 7.5 s; 95% of all scheduled requests are to meet them",
    ),
    "ranks": (3, "3"),
    "engine_metrics": (False, "no"),
    "gpu_exporters": (["http://n1:9400"], "http://n1:9400"),
    "gpu_samplers": ([{"node": "n1", "url": "http://n1:1", "gpus": 4, "keyed": True}], "n1: 4 GPUs at http://n1:1"),
    "launch": (["srun", "--ntasks=3", "a b"], "srun --ntasks=3 'a b'"),
    "host": ("10.0.0.0/8", "10.0.0.0/8"),
    "start": ("manual", "manual"),
    "hold_seconds": (599.5, "599.5"),
    "barrier_seconds": (59.5, "59.5"),
    "record_chunks": (True, "yes"),
}


def result(seq: int, text: str) -> Result:
    """One of ten requests; the first fails with that text."""
    at = seq * 10**8
    failed = {"done": at + 10**6, "error": {"kind": text, "detail": text}}
    good = {"first_token": at + 10**6, "last_token": at + 10**7, "done": at + 2 * 10**7, "output_tokens": 5}
    line = {"schema": SCHEMA, "seq": seq, "rank": 0, "replica": text, "phase": "measured"}
    times = {"scheduled": at, "slot_free": at, "sent": at}
    return msgspec.convert({**line, **times, **(good if seq else failed)}, Result)


def summary(*, simulated: bool, text: str = "plain", **fields: Any) -> Summary:
    plan = make_plan(
        {
            "run_id": "0" * 32,
            "name": text,
            "labels": {text: text},
            "targets": [{"replica": text, "url": f"http://h/{text}"}],
            "prompts": {"kind": "list", "prompts": [text]},
            "num_clients": 4,
            "seed": 1,
            "requests_per_second": 10,
            "duration_seconds": 1,
            **fields,
        }
    )
    tally = Tally()
    tally.add([result(seq, text) for seq in range(10)], Window(0, 10**9))
    run = Run(
        plan=plan,
        outcome="completed",
        window_end=10**9,
        requested_rps=10.0,
        started_at="2026-01-01T00:00:00.000+00:00",
        ended_at=None,
        ranks=[RankReport(rank=0, host=text, lost=text)],
        waited_below_cap=0,
        unsent_by_lost_ranks=0,
        left_out=[],
        environment=Environment(model=text, simulated=simulated, hosts=[text], notes=[text]),
    )
    return summarize(run, tally)


def page_of(found: Summary, assets: Assets = ASSETS) -> str:
    """The page of a run with one second of a timeline."""
    second: dict[str, Any] = {
        **dict.fromkeys(("t", "scheduled", "sent", "succeeded", "failed", "unsent", "output_tokens"), 1),
        **dict.fromkeys(("in_flight", "waiting", "waited_below_cap"), 0),
        **{name: {"p50": None, "p90": None, "p99": None} for name in ("latency", "service_time", "ttft")},
        "schema": 1,
        "phase": "measured",
        "target_rps": None,
        "ranks": {},
        "left_out": [],
        "histograms": {},
        "failed_by_kind": dict.fromkeys(found.counts.failed_by_kind, 1),
    }
    story = Story(over_time([msgspec.convert(second, TimelineLine)]), Outline(0, found.plan.arrival), [], [], [])
    return report_page(found, story, assets)


def test_a_simulated_engine_is_said_above_everything_and_a_real_one_is_not() -> None:
    page = page_of(summary(simulated=True))
    assert page.partition("<body>")[2].startswith('\n<p class="simulated" role="note">SIMULATED ENGINE')
    assert "SIMULATED ENGINE" not in page_of(summary(simulated=False))


def test_the_verdict_stands_there_with_its_reasons() -> None:
    found = summary(simulated=False)
    page = page_of(found)
    assert f"Verdict: {found.verdict.state.upper()}" in page
    assert found.verdict.reasons
    assert page.count("<li>") == len(found.verdict.reasons)


def test_nothing_that_comes_from_outside_is_markup() -> None:
    plain, hostile = page_of(summary(simulated=False)), page_of(summary(simulated=False, text=HOSTILE))
    assert tags(hostile) == tags(plain)
    assert hostile.count("<script") == plain.count("<script") == 3
    data = re.findall(r'<script type="application/json" id="story">(.*?)</script>', hostile)
    assert HOSTILE in msgspec.json.decode(data[0])["over_time"]["lines"][0]["failed_by_kind"]


def test_nothing_that_comes_from_outside_is_an_escape_or_turns_the_text_around() -> None:
    page = page_of(summary(simulated=False, text=HOSTILE))
    shown_text = re.sub(r'<script type="application/json".*?</script>', "", page)  # its texts become text nodes
    assert not set("\u202e\x1b\x9b\u2028") & set(shown_text)
    assert r"\u202e \x1b[2J \x9b \u2028" in page


def test_every_field_of_the_plan_is_shown() -> None:
    assert EVERY_FIELD.keys() == {*Plan.__struct_fields__}, "a field that is new needs its value and its text here"
    page = page_of(summary(simulated=False, **{name: value for name, (value, _) in EVERY_FIELD.items()}))
    found = shown(page, EVERY)
    assert len(found) == len(EVERY_FIELD)
    for (name, (_, text)), (label, there) in zip(EVERY_FIELD.items(), found.items(), strict=True):
        assert there == text or (name == "prompts" and there.startswith(text)), (name, label)
    assert found["Prompts"].endswith("\nand 12 more")


def test_other_kinds_of_prompts_are_shown() -> None:
    file = {"kind": "file", "path": "/data/questions.jsonl", "sha256": "f00d" * 16}
    length = {"kind": "uniform", "low": 50, "high": 200}
    made_up = {"kind": "synthetic", "unit": "words", "length": length}
    for prompts, text in (
        (file, f"/data/questions.jsonl\nSHA-256 {'f00d' * 16}"),
        (made_up, "made up: 50 to 200 words"),
    ):
        assert shown(page_of(summary(simulated=False, prompts=prompts)), EVERY)["Prompts"].startswith(text)


def test_a_conversation_is_shown_in_words() -> None:
    talk = {"turns": {"kind": "uniform", "low": 2, "high": 8}, "think_seconds": {"kind": "exponential", "mean": 5}}
    page = page_of(summary(simulated=False, requests_per_second=None, conversation={**talk, "sessions_per_second": 3}))
    found = shown(page, EVERY)
    assert found["Conversations"] == "sessions of 2 to 8 turns, exponential:5 s of thought, 3 sessions a second"
    assert found["Requests per second"] == "as answers come (conversations)"
    assert "constant arrivals of 3 sessions/s, exponential times of thought between turns" in page


def test_a_trace_is_shown_with_what_is_replayed_of_it() -> None:
    fields: dict[str, Any] = {
        "prompts": {"kind": "trace", "path": "/data/t.jsonl", "sha256": "f00d" * 16, "format": "azure", "rows": 7},
        "trace": {"path": "t.jsonl", "speed": 20, "until_seconds": 90, "skip_bad_rows": True},
        "arrival": {"kind": "trace", "stages": [{"rps": 1, "seconds": 0.5}, {"rps": 13, "seconds": 0.5}]},
        "requests_per_second": None,
    }
    found = shown(page_of(summary(simulated=False, **fields)), EVERY)
    assert found["Trace"] == "t.jsonl, 20 times as fast, from 0 to 90 s, without rows that contradict its format"
    assert found["Prompts"].startswith("/data/t.jsonl (azure, 7 rows)\nSHA-256")
    assert found["Requests per second"] == "as the trace says: 1 to 13"


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({"requests_per_second": 12.5}, "12.5"),
        ({"requests_per_second": None}, "as answers come (closed loop)"),
        ({"requests_per_second": None, "arrival": {"ramp": {"from_rps": 1, "to_rps": 50}}}, "from 1 to 50"),
        (
            {
                "requests_per_second": None,
                "arrival": {"stages": [{"rps": 5, "seconds": 0.5}, {"rps": 20, "seconds": 0.5}]},
            },
            "5 for 0.5 s, 20 for 0.5 s",
        ),
    ],
)
def test_the_rate_that_was_asked_for_is_told_however_it_was_given(fields: dict[str, Any], rate: str) -> None:
    assert shown(page_of(summary(simulated=False, **fields)), EVERY)["Requests per second"] == rate


def test_the_page_needs_nothing_else_and_runs_no_script_but_its_own() -> None:
    page = page_of(summary(simulated=False))
    assert not re.search(r"\b(src=|href|@import|url\()", page.replace("http://h/", ""))
    rules = unescape(re.findall(r'Content-Security-Policy" content="(.*?)"', page)[0])
    assert rules.startswith("default-src 'none'; ")
    assert "unsafe" not in rules
    for part in re.findall(r"<script>(.*?)</script>|<script type=.module.>(.*?)</script>|<style>(.*?)</style>", page):
        digest = base64.b64encode(hashlib.sha256("".join(part).encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules
    assert rules.count("sha256-") == 3


def test_without_the_files_that_draw_the_page_has_all_but_the_charts_and_says_so() -> None:
    page = page_of(summary(simulated=False), Assets("p{}", "", ""))
    assert "<script" not in page
    assert "script-src 'none'" in page
    assert "installed without the files that draw them" in page
    assert "9 of 10 scheduled" in page


def test_the_first_screen_has_the_headline_numbers_with_their_samples() -> None:
    found = summary(simulated=False)
    tiles = page_of(found).partition('<div class="tiles">')[2].partition("<section>")[0]
    for text in (
        f"{duration(found.metrics['ttft_seconds'].p50)} <small>p50",
        f"{duration(found.metrics['latency_seconds'].p50)} <small>p50",
        "9 samples",
        "90%",
        "9 of 10 scheduled",
        f"{found.rates.achieved_rps:.4g} <small>answered",
    ):
        assert text in tiles, text


def test_one_failure_among_many_is_not_rounded_away() -> None:
    found = summary(simulated=False)
    counts = msgspec.structs.replace(found.counts, scheduled=100_000, succeeded=99_999, failed=1)
    found = msgspec.structs.replace(found, counts=counts)
    assert "99.99%" in page_of(found)
    assert "99.99% of 100000 succeeded" in summary_markdown(found)


def test_the_files_that_draw_are_read_as_they_are_whatever_the_locale() -> None:
    program = "from tokenstorm.report.assets import read_assets; print(ascii(read_assets()))"
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | plain, capture_output=True, check=True)
    assert done.stdout.decode() == f"{read_assets()!a}\n"


def test_each_kind_of_failure_is_shown_with_the_words_of_one() -> None:
    page = page_of(summary(simulated=False, text="overloaded"))
    assert '<td class="words">overloaded</td><td>1</td><td class="words">overloaded</td>' in page


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))


def tags(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    parser = Tags()
    parser.feed(page)
    return parser.seen


def shown(page: str, title: str) -> dict[str, str]:
    """The names and texts of one table of facts."""
    table = page.partition(f"{title}</")[2].partition("</table>")[0]
    rows = re.findall(r"<tr><th scope=.row.>(.*?)</th><td>(.*?)</td></tr>", table, re.DOTALL)
    return {unescape(name): unescape(text) for name, text in rows}
