"""A run as one page: all that a person needs, nothing from outside that a browser would act on."""

import re
from html.parser import HTMLParser

import msgspec

from tokenstorm.metrics.summary import Environment, RankReport, Run, Summary, summarize
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.plan import make_plan
from tokenstorm.report.html import summary_page
from tokenstorm.result import SCHEMA, Result

HOSTILE = "<script>alert('x')</script><img src=x onerror=\"alert(1)\">&amp; \u202e"


def result(seq: int, text: str) -> Result:
    """One of ten requests; the first fails with that text."""
    at = seq * 10**8
    failed = {"done": at + 10**6, "error": {"kind": text, "detail": text}}
    good = {"first_token": at + 10**6, "last_token": at + 10**7, "done": at + 2 * 10**7, "output_tokens": 5}
    line = {"schema": SCHEMA, "seq": seq, "rank": 0, "replica": text, "phase": "measured"}
    times = {"scheduled": at, "slot_free": at, "sent": at}
    return msgspec.convert({**line, **times, **(good if seq else failed)}, Result)


def summary(*, simulated: bool, text: str = "plain") -> Summary:
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


def test_a_simulated_engine_is_said_in_large_letters_and_a_real_one_is_not() -> None:
    assert '<p class="simulated">SIMULATED ENGINE' in summary_page(summary(simulated=True))
    assert "SIMULATED ENGINE" not in summary_page(summary(simulated=False))


def test_the_verdict_stands_there_with_its_reasons() -> None:
    found = summary(simulated=False)
    page = summary_page(found)
    assert f"Verdict: {found.verdict.state.upper()}" in page
    assert found.verdict.reasons
    assert page.count("<li>") == len(found.verdict.reasons)


def test_nothing_that_comes_from_outside_is_markup() -> None:
    plain, hostile = summary_page(summary(simulated=False)), summary_page(summary(simulated=False, text=HOSTILE))
    assert tags(hostile) == tags(plain)
    assert "<script" not in hostile


def test_the_page_needs_nothing_else() -> None:
    page = summary_page(summary(simulated=False))
    assert not re.search(r"\b(src|href|@import|url\()", page.replace("http://h/", ""))


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
