"""What those see who watch a run."""

import io
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from rich.console import Console

from plans import plan
from reporting import second
from tokenstorm.cli.drawn import panel
from tokenstorm.loadgen.group import Group
from tokenstorm.loadgen.live import Glance, Minute, Recent, Status
from tokenstorm.loadgen.messages import Delta, Live
from tokenstorm.loadgen.progress import Progress
from tokenstorm.loadgen.recent import LastMinute
from tokenstorm.loadgen.standing import standing_of
from tokenstorm.metrics.reports import DiskReport
from tokenstorm.metrics.tally import Tally
from tokenstorm.report.live import heading, live_line, panel_lines, sparkline

GLANCE = Glance(0.01, 0.02, 0.5)
A_SECOND = Status(
    at=datetime(2026, 1, 1, tzinfo=UTC),
    run_id="0" * 32,
    phase="measured",
    reason=None,
    elapsed_seconds=12.3,
    fraction=0.2,
    window_end_seconds=60,
    scheduled=250,
    sent=245,
    succeeded=230,
    failed=2,
    failed_by_kind={"http_503": 2},
    newest_failure="http_503: the queue is full",
    unsent=3,
    in_flight=13,
    waiting=5,
    num_clients=20,
    requested_rps=20,
    achieved_rps=12.1,
    output_tokens_per_second=1000,
    recent=Recent(seconds=5, asked_rps=20, sent_rps=19.8, answered_rps=19.5, output_tokens_per_second=1234.5),
    minute=Minute(sent=(20, 20, 19), answered=(0, 10, 20), failed=(0, 0, 2), ttft=(None, 0.01, 0.02)),
    latency=GLANCE,
    service_time=GLANCE,
    ttft=Glance(None, None, None),
    ranks=3,
    ranks_up=2,
    environment=None,
)


def drawn(status: Status, columns: int) -> list[str]:
    """The panel as a terminal of that width shows it, without colours."""
    console = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as shown:
        console.print(panel(status, columns))
    return shown.get().splitlines()


@pytest.mark.parametrize("columns", [30, 40, 60, 80])
@pytest.mark.parametrize("phase", ["measured", "draining"])
def test_failures_and_their_kinds_are_seen_on_the_live_line_however_narrow_the_terminal(
    columns: int, phase: str
) -> None:
    line = live_line(replace(A_SECOND, phase=phase, failed_by_kind={}), columns)
    assert "2 failed" in line
    assert len(line) <= columns
    assert "2 failed (2 http_503)" in live_line(replace(A_SECOND, phase=phase))


def test_the_live_line_is_one_line_with_the_rates_of_the_last_seconds_latencies_and_trouble() -> None:
    line = live_line(A_SECOND)
    assert "\n" not in line
    for part in (
        "12 s measured",
        "sent 19.8/s of 20 asked",
        "answered 19.5/s",
        "1234 tok/s",
        "13 of 20 in flight +5 waiting",
        "1 of 3 ranks lost",
    ):
        assert part in line
    assert "TTFT p50 - p99 -" in line
    assert "latency p50 10.0 ms p99 500 ms" in line
    assert "97.5% good" in live_line(replace(A_SECOND, goodput=0.975))


def test_the_panel_fits_80_columns_with_every_number_whole_and_failures_first() -> None:
    advice = "15/s needs about 20 clients; num_clients is 10"
    lines = drawn(replace(A_SECOND, advice=advice, goodput=0.5), 80)
    assert {len(line) for line in lines} == {80}
    text = "\n".join(lines)
    for part in (
        "12 of 60 s, measured",
        "failed    2 failed (2 http_503)",
        "newest    http_503: the queue is full",
        "last 5 s  sent 19.8/s of 20 asked · answered 19.5/s · 1234 tok/s",
        "so far    245 sent · 230 answered · 50.0% good",
        "unsent    3: every client was busy",
        "in flight 13 of 20 in flight +5 waiting",
        "latency   p50 10.0 ms · p90 20.0 ms · p99 500 ms",
        "1 of 3 are lost",
        advice,
        "answered ▁▅█",
    ):
        assert part in text
    assert lines.index(next(line for line in lines if "failed" in line)) == 3


def test_in_a_narrow_panel_numbers_are_left_out_and_none_is_cut() -> None:
    lines = [line.text(40) for line in panel_lines(A_SECOND, 40)]
    assert max(map(len, lines)) <= 40
    assert "last 5 s  sent 19.8/s of 20 asked" in lines
    assert "so far    245 sent · 230 answered" in lines


def test_the_drain_and_opening_connections_are_told() -> None:
    assert heading(replace(A_SECOND, phase="draining")) == (
        "12 s, drain: waiting for the last answers, Ctrl-C ends at once"
    )
    assert heading(replace(A_SECOND, opening=1)) == "opening 1 connection, then the load starts"


def test_a_sparkline_has_a_block_for_each_value_and_a_gap_where_there_is_none() -> None:
    assert sparkline([0, 1, None, 7], 10) == "▁▂ █"
    assert sparkline([9, 9, 0, 0], 2) == "▁▁"
    assert sparkline([], 5) == ""


def test_rates_of_the_last_seconds_are_no_mean_of_the_whole_run() -> None:
    minute = LastMinute()
    for t in range(100):
        late = t >= 95
        minute.add(
            second(t, sent=10 if late else 2, succeeded=8 if late else 0, target_rps=10.0, failed_by_kind={"a": 1})
        )
    assert minute.recent() == Recent(seconds=5, asked_rps=10, sent_rps=10, answered_rps=8, output_tokens_per_second=40)
    assert minute.minute().sent == (*[2] * 55, *[10] * 5)
    assert minute.failed_by_kind == {"a": 100}


@pytest.mark.parametrize("phase", ["warmup", "measured"])
def test_the_first_answers_tell_how_many_clients_the_rate_needs(phase: str) -> None:
    """15 a second, 1.3 s each, 10 clients."""
    group = Group(plan(requests_per_second=15.0, num_clients=10, warmup_seconds=30.0 if phase == "warmup" else 0.0))
    progress = Progress(group.plan, group, lambda: {0: True}, standing_of)
    tally = Tally(service_ns=4 * 1_300_000_000)
    (tally.warmup if phase == "warmup" else tally.counts).succeeded = 4
    for waiting in (0, 7):
        group.add(
            0,
            Delta(
                second=progress.second,
                phase=phase,
                live=Live(sent=10),
                in_flight=10,
                waiting=waiting,
                cpu=0.1,
                gc_pause=0.0,
                disk=DiskReport(),
                left_out=[],
                tally=tally if waiting else Tally(),
            ),
        )
        progress.close_second()
        told = progress.status().advice
        assert told == (
            "15/s × 1.3 s needs about 20 clients; num_clients is 10" if waiting else ""  # noqa: RUF001 - it multiplies
        )
