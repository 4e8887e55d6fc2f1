"""Did it get worse? Runs against runs: what differs, by how much, how sure that is, and what a job fails on."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from reporting import SECOND, request, run_of, second
from tokenstorm.cli import main
from tokenstorm.errors import RunError, UsageError
from tokenstorm.plan import SeriesPlan
from tokenstorm.report.baselines import baselines, read_baseline, remove_baseline, set_baseline
from tokenstorm.report.compare_text import comparison_markdown, comparison_text
from tokenstorm.report.comparing import Compared, Comparison, compare
from tokenstorm.report.conditions import change_of
from tokenstorm.report.sides import Side, read_side

Write = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a folder of runs whose answers take `ms`, give or take 2 %; `fields` are of their plans."""
    monkeypatch.setenv("TOKENSTORM_HOME", str(tmp_path / "home"))

    def write(name: str, ms: float, *, repeats: int = 5, errors: int = 0, **fields: Any) -> Path:
        draw = Random(name)
        for number in range(repeats):
            root = tmp_path / name / f"run{number}"
            root.mkdir(parents=True)
            level = ms * draw.uniform(0.98, 1.02)
            results = [
                request(seq, seq * SECOND // 40, ms=round(level * draw.uniform(0.8, 1.2)), **failed(seq < errors))
                for seq in range(40)
            ]
            paths, summary = run_of(root, results, **fields)
            paths.summary.write_bytes(msgspec.json.encode(summary))
        return tmp_path / name

    return write


def failed(it: bool) -> dict[str, Any]:
    return {"error": {"kind": "reset", "detail": "gone"}, "output_tokens": None} if it else {}


def side(folder: Path) -> Side:
    return read_side(str(folder))


def row(found: Comparison, measure: str) -> Compared:
    return next(one for one in found.versus[0].points[0].measures if one.measure == measure)


def test_slower_answers_are_found_with_an_interval_that_holds_the_truth_and_no_other_change(runs: Write) -> None:
    found = compare(side(runs("a", 100)), [side(runs("b", 120))], [], force=False)
    latency = row(found, "latency_p50")
    assert latency.change == "worse"
    assert latency.difference
    assert latency.difference.ratio_ci
    assert latency.difference.ratio_ci.low < 0.2 < latency.difference.ratio_ci.high
    assert latency.p is not None
    assert latency.difference.p < latency.p < 0.05  # corrected for the other rows
    assert (latency.first.runs, latency.weak) == (5, False)
    assert row(found, "error_rate").change == "same"


def test_equal_runs_show_no_difference_and_fail_nothing(runs: Write) -> None:
    conditions = [change_of("latency_p99>+1%"), change_of("requests_per_second<-1%")]
    found = compare(side(runs("a", 100)), [side(runs("c", 100))], conditions, force=False)
    assert {one.change for one in found.versus[0].points[0].measures} == {"same"}
    assert not found.regressed


def test_a_condition_fails_only_on_a_change_that_is_large_enough_and_significant(runs: Write) -> None:
    a, b = side(runs("a", 100)), side(runs("b", 120))
    [words] = compare(a, [b], [change_of("latency_p50>+5%")], force=False).versus[0].regressions
    assert words.startswith("latency_p50>+5%: it changed by +")
    assert not compare(a, [b], [change_of("latency_p50>+50%")], force=False).regressed
    assert not compare(b, [a], [change_of("latency_p50>+5%")], force=False).regressed
    assert compare(b, [a], [change_of("latency_p50<-5%")], force=False).regressed


def test_errors_where_there_were_none_are_more_than_any_share_of_them(runs: Write) -> None:
    a, b = side(runs("a", 100)), side(runs("f", 100, errors=12))
    [words] = compare(a, [b], [change_of("error_rate>+50%")], force=False).versus[0].regressions
    assert words == "error_rate>+50%: it went from 0.00% to 30.00%, significantly"
    assert not compare(a, [a], [change_of("error_rate>+50%")], force=False).regressed


def test_a_condition_on_a_number_that_a_side_lacks_is_noted(runs: Write) -> None:
    a, b = side(runs("a", 100)), side(runs("f", 100, errors=40))
    found = compare(a, [b], [change_of("latency_p50>+5%")], force=False)
    assert found.notes[0] == f"--fail-if latency_p50>+5% was not judged: {a.name} or {b.name} has no latency_p50"


def test_a_number_beyond_the_usual_ones_is_compared_where_a_condition_names_it(runs: Write) -> None:
    found = compare(side(runs("a", 100)), [side(runs("b", 120))], [change_of("service_time_p95>+5%")], force=False)
    assert found.regressed
    assert row(found, "service_time_p95").change == "worse"


def test_loads_that_differ_are_refused_with_what_differs_unless_forced(runs: Write) -> None:
    a, b = side(runs("a", 100)), side(runs("b", 100, max_tokens=7, ranks=2))
    with pytest.raises(
        UsageError, match=r"not comparable, their loads differ \(Output tokens at most: 100 and 7\); --force"
    ):
        compare(a, [b], [], force=False)
    found = compare(a, [b], [], force=True)
    assert [(one.what, one.first, one.second) for one in found.versus[0].differs] == [
        ("load", "100", "7"),
        ("generator", "1", "2"),
    ]


def test_a_run_that_the_load_generator_spoiled_is_left_out_and_one_that_the_service_failed_is_not(runs: Write) -> None:
    spoiled, failing = runs("s", 100), runs("f", 100, errors=12)
    path = spoiled / "run0" / "summary.json"
    told = msgspec.json.decode(path.read_bytes())
    told["verdict"] = {"state": "invalid", "reasons": [{"code": "stalled", "text": "a rank stood still"}]}
    path.write_bytes(msgspec.json.encode(told))
    found = compare(side(runs("a", 100)), [side(spoiled), side(failing)], [], force=False)
    assert row(found, "latency_p50").second.runs == 4
    assert found.notes[0].endswith("1 run of 5 left out, which the load generator itself spoiled")
    [failed_requests] = [one for one in found.versus[1].points[0].measures if one.measure == "error_rate"]
    assert (failed_requests.second.runs, failed_requests.change) == (5, "worse")


def test_what_differs_in_model_and_length_is_told_and_no_reason_to_refuse(runs: Write) -> None:
    found = compare(
        side(runs("a", 100, model="old")), [side(runs("b", 100, warmup_seconds=0.5, model="new"))], [], force=False
    )
    assert [one.what for one in found.versus[0].differs] == ["length"]
    assert "what differs:\n  length, Warm-up, seconds: 0 -> 0.5" in comparison_text(found)


def test_the_text_and_the_markdown_have_each_number_with_its_interval_and_the_regression(runs: Write) -> None:
    found = compare(side(runs("a", 100)), [side(runs("b", 120))], [change_of("latency_p50>+5%")], force=False)
    text, markdown = comparison_text(found), comparison_markdown(found)
    assert text.startswith("*** SIMULATED ENGINE")
    assert "nothing else differs" in text
    assert "REGRESSION  latency_p50>+5%" in text
    line = next(line for line in text.splitlines() if line.startswith("latency p50"))
    assert line.endswith("WORSE")
    assert "regression" in markdown
    assert "| latency p50 |" in markdown
    assert msgspec.json.decode(msgspec.json.encode(found), type=Comparison) == found


def timeline(root: Path, ms: int, seconds: int) -> None:
    draw = Random(ms)
    lines = [second(t, latency_ms=round(ms * draw.uniform(0.95, 1.05))) for t in range(seconds)]
    (root / "timeline.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def test_single_runs_are_compared_by_their_seconds_and_marked_as_weaker(runs: Write) -> None:
    folders = [runs(name, ms, repeats=1) / "run0" for name, ms in (("a", 100), ("b", 130))]
    for folder, ms in zip(folders, (100, 130), strict=True):
        timeline(folder, ms, 40)
    found = compare(side(folders[0]), [side(folders[1])], [], force=False)
    latency = row(found, "latency_p50")
    assert (latency.weak, latency.change) == (True, "worse")
    assert latency.first.ci
    assert latency.first.ci.method == "bootstrap of 20 blocks of time"
    assert "WORSE*" in comparison_text(found)
    assert "repeat it (--repeats 5)" in found.notes[0]


def test_a_single_run_without_enough_seconds_says_that_there_is_too_little_to_tell(runs: Write) -> None:
    folder = runs("a", 100, repeats=1) / "run0"
    found = compare(side(folder), [side(folder)], [change_of("latency_p50>+5%")], force=False)
    assert {one.change for one in found.versus[0].points[0].measures} == {"unknown"}
    assert not found.regressed
    assert "too little to tell*" in comparison_text(found)


def test_the_runs_of_two_sweeps_are_compared_point_by_point(runs: Write, tmp_path: Path) -> None:
    for name, ms in (("a", 100), ("b", 130)):
        folder = runs(name, ms, repeats=4)
        series = folder.parent / f"series-{name}"
        points = []
        for number in range(1, 5):
            (series / "runs").mkdir(parents=True, exist_ok=True)
            (folder / f"run{number - 1}").rename(series / "runs" / str(number))
            points.append(point(number, {"num_clients": 2 + number % 2}))
        plan = msgspec.json.decode((series / "runs" / "1" / "plan.json").read_bytes())
        (series / "plan.json").write_bytes(msgspec.json.encode(plan))  # as a group has it
        told = {"plan": plan, "series": {"sweep": {"num_clients": [2, 3]}, "repeats": 2}}
        (series / "series.json").write_bytes(msgspec.json.encode({"schema": 1, **told}))
        msgspec.convert(msgspec.json.decode((series / "series.json").read_bytes()), SeriesPlan)
        whole = {"series": told, "outcome": "completed", "started_at": None, "ended_at": None, "order": "", "cache": ""}
        (series / "series_summary.json").write_bytes(msgspec.json.encode({**whole, "of": 4, "points": points}))
    found = compare(
        side(tmp_path / "series-a"), [side(tmp_path / "series-b")], [change_of("latency_p50>+9%")], force=False
    )
    assert [one.values for one in found.versus[0].points] == ['{"num_clients":3}', '{"num_clients":2}']
    assert 'at {"num_clients":3}' in comparison_text(found)
    assert all(one.measures[0].first.runs == 2 for one in found.versus[0].points)
    with pytest.raises(RunError, match="no point in common"):
        compare(side(tmp_path / "series-a"), [side(runs("c", 100))], [], force=False)


def point(number: int, values: dict[str, object]) -> dict[str, object]:
    nothing = {"p50": None, "p95": None, "p99": None}
    return {
        "number": number, "repeat": 1, "values": values, "run_id": "0" * 32, "started_at": None, "ended_at": None,
        "pause_seconds": None, "seconds": 1, "outcome": "completed", "verdict": {"state": "valid", "reasons": []}, "counts": {},
        "requested_rps": None, "achieved_rps": 1, "output_tokens_per_second": None, "output_tokens_per_second_per_user": None,
        "in_flight": None, "ttft": nothing, "tpot": nothing, "latency": nothing,
    }  # fmt: skip


def test_a_baseline_stays_when_the_runs_that_it_came_from_are_gone(runs: Write) -> None:
    folder = runs("a", 100)
    told = set_baseline("nightly", str(folder))
    assert len(told.values) == 5
    folder.rename(folder.with_name("moved"))
    assert [one.name for one in baselines()] == ["nightly"]
    found = compare(read_baseline("nightly"), [side(runs("b", 120))], [], force=False)
    assert found.first == "baseline nightly"
    assert row(found, "latency_p50").change == "worse"
    set_baseline("nightly", str(runs("c", 100, repeats=2)))
    assert read_baseline("nightly").count == 2
    remove_baseline("nightly")
    with pytest.raises(RunError, match=r"there is no baseline 'nightly'; there are: none yet"):
        read_baseline("nightly")


@pytest.mark.parametrize("name", ["", "../x", ".new", "a b"])
def test_a_baseline_s_name_is_no_path(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a baseline"):
        set_baseline(name, "last")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ttft_p99", "is no bound: write it as in 'ttft_p99>\\+5%'"),
        ("ttft_p98>+5%", "there is no number 'ttft_p98'; there are requests_per_second"),
        ("ttft_p99>5ms", "say by which share it may change, as in 'ttft_p99>\\+5%'"),
        ("ttft_p99>-5%", "say by which share"),
    ],
)
def test_a_change_that_says_nothing_is_refused_with_an_example(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        change_of(text)


def test_the_command_ends_with_4_for_a_regression_and_with_2_for_loads_that_differ(
    runs: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    a, b = runs("a", 100), runs("b", 120)
    assert main(["compare", str(a), str(b), "--fail-if", "latency_p50>+5%"]) == 4
    assert "REGRESSION" in capsys.readouterr().out
    assert main(["compare", str(a), str(a)]) == 0
    capsys.readouterr()
    assert main(["baseline", "set", "good", str(a)]) == 0
    assert main(["compare", str(b), "--baseline", "good", "--json", "--fail-if", "latency_p50>+5%"]) == 4
    out = capsys.readouterr().out
    assert msgspec.json.decode(out[out.index("{") :])["first"] == "baseline good"
    assert main(["compare", str(a), str(b), "--format", "md", "-o", str(tmp_path / "c.md")]) == 0
    assert (tmp_path / "c.md").read_text().startswith("**SIMULATED")
    assert main(["compare", str(a), str(b), "-o", str(tmp_path / "c.xml"), "--fail-if", "latency_p50>+5%"]) == 4
    assert '<testcase classname="tokenstorm" name="' in (tmp_path / "c.xml").read_text()
    assert 'failures="1"' in (tmp_path / "c.xml").read_text()
    assert main(["compare", str(a), str(b), "--format", "html"]) == 2
    assert main(["compare", str(a), str(b), "-o", str(tmp_path / "c.doc")]) == 2
    assert main(["compare", str(a), str(b), "-o", str(tmp_path / "c.html")]) == 0
    page = (tmp_path / "c.html").read_text()
    assert "latency p50" in page
    assert "Over one another" in page
    assert main(["baseline", "list"]) == 0
    assert "good" in capsys.readouterr().out
    assert main(["baseline", "remove", "good"]) == 0
    assert main(["compare", str(a), str(runs("d", 100, max_tokens=9))]) == 2
    assert main(["compare", str(a)]) == 2
    assert main(["compare", str(a), str(tmp_path / "none")]) == 1
    assert "no run begins so" in capsys.readouterr().err
