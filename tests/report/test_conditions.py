"""What a job fails on, of a single run: its objectives, its verdict, and bounds of its numbers."""

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from reporting import SECOND, request, run_of
from tokenstorm.cli import main
from tokenstorm.errors import UsageError
from tokenstorm.metrics.summary import Summary
from tokenstorm.report.conditions import bound_of, check_bound, crossed_bounds


def run(tmp_path: Path, **fields: object) -> Summary:
    """Forty requests of 100 ms, of which two failed."""
    failed = {"error": {"kind": "reset", "detail": "gone"}, "output_tokens": None}
    lines = [request(seq, seq * SECOND // 40, ms=100, **(failed if seq < 2 else {})) for seq in range(40)]
    paths, summary = run_of(tmp_path, lines, **fields)  # type: ignore[arg-type]
    paths.summary.write_bytes(msgspec.json.encode(summary))
    return summary


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("error_rate>1%", ["error_rate>1%: it is 5.00%"]),
        ("error_rate>5%", []),
        ("ttft_p99>5ms", ["ttft_p99>5ms: it is 10.0 ms"]),
        ("ttft_p99>0.5s", []),
        ("latency_mean > 50ms", ["latency_mean > 50ms: it is 100 ms"]),
        ("requests_per_second<100", ["requests_per_second<100: it is 34 req/s"]),
        ("joules_per_output_token>1", []),
        ("suspect", ["suspect: the verdict is suspect"]),
    ],
)
def test_a_run_fails_on_the_bounds_that_it_crosses(tmp_path: Path, text: str, words: list[str]) -> None:
    assert crossed_bounds(run(tmp_path), [text]) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("late", "is no bound: write it as in 'error_rate>1%' or 'ttft_p99>500ms'"),
        ("ttft>1s", "there is no number 'ttft'; there are"),
        ("ttft_p99>500", "the bound of ttft_p99 wants 's' or 'ms', and no sign"),
        ("error_rate>1s", "wants '%'"),
        ("requests_per_second<5%", "wants a number alone"),
        ("ttft_p99>+5ms", "and no sign"),
    ],
)
def test_a_bound_that_says_nothing_is_refused_before_the_run(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_bound(text)


def test_bounds_are_in_seconds_and_shares() -> None:
    assert bound_of("ttft_p99>500ms").bound == 0.5
    assert bound_of("error_rate>1%").bound == 0.01


def test_a_report_ends_with_5_and_says_on_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path), "--fail-on", "error_rate>50%", "--fail-on", "error_rate>1%"]) == 5
    assert "--fail-on error_rate>1%: it is 5.00%" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--fail-on", "slo"]) == 2
    assert main(["bench", "http://127.0.0.1:9", "--fail-on", "ttft_p99>5"]) == 2


def test_junit_has_a_test_for_the_verdict_the_objectives_and_each_bound(tmp_path: Path) -> None:
    run(tmp_path, slo={"latency_seconds": 0.05})
    target = tmp_path / "checks.xml"
    words = ["--fail-on", "error_rate>1%", "--fail-on", "ttft_p99>9s"]
    assert main(["report", str(tmp_path), "-o", str(target), *words]) == 5
    [suite] = ET.parse(target).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("4", "2")
    cases = {case.get("name"): [failure.get("message") for failure in case] for case in suite}
    assert cases["verdict"] == cases["ttft_p99>9s"] == []
    assert cases["error_rate>1%"] == ["error_rate>1%: it is 5.00%"]
    assert "0% of all scheduled requests are good" in str(cases["objectives"])
