"""A run's folder in which something is missing, broken, foreign or of another version: what `report` makes of it."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from running import Run, Stage, compile_truthd, running_second
from tokenstorm import __version__
from tokenstorm.errors import RunError
from tokenstorm.metrics.summary import Summary
from tokenstorm.report.load import load_summary
from tokenstorm.runs import RunPaths

pytestmark = pytest.mark.integration
LOAD = ("--requests-per-second", "40", "--max-tokens", "4", "--ranks", "2", "--num-clients", "20")


@pytest.fixture(scope="module")
def stage_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("runs")
    stage = Stage(folder, lambda: compile_truthd(folder))
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def finished(stage_of_all: Stage) -> Path:
    """A whole run of two ranks, with a warm-up."""
    return stage_of_all.bench(
        stage_of_all.truth().url, *LOAD, "--warmup", "0.5", "--duration", "1.6", name="finished"
    ).root


@pytest.fixture(scope="module")
def killed(stage_of_all: Stage) -> Path:
    """A run that was killed as a whole after some seconds."""
    process, run = stage_of_all.starting(stage_of_all.truth().url, *LOAD, "--duration", "60", name="killed")
    running_second(run, process, 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return run.root


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    """A run's folder, to do something to."""

    def made(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "run"))

    return made


def rebuilt(folder: Path) -> Summary:
    return load_summary(RunPaths(folder), rebuild=True)


def reasons(summary: Summary) -> dict[str, str]:
    return {reason.code: reason.text for reason in summary.verdict.reasons}


def halve(path: Path) -> None:
    """Cut a file in half, in the middle of a line."""
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[: half - (data[half - 1 : half] == b"\n")])


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


def change_line(path: Path, **fields: object) -> None:
    """Change fields of the first line that is of the measured window, and of a file's other kinds of lines the first."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    place = next((place for place, line in enumerate(lines) if "seq" in line and line["phase"] == "measured"), 0)
    lines[place].update(fields)
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def test_a_whole_folder_is_rebuilt_without_a_complaint(finished: Path, copy: Callable[[Path], Path]) -> None:
    written, again = load_summary(RunPaths(finished)), rebuilt(copy(finished))
    assert "incomplete" not in reasons(again)
    assert again.counts == written.counts
    assert again.windows == written.windows
    assert again.metrics["inter_chunk_seconds"] == written.metrics["inter_chunk_seconds"]
    assert again.environment.notes == written.environment.notes


def test_a_run_that_was_killed_is_cut_off_and_not_incomplete(killed: Path) -> None:
    assert "cut_off" in reasons(rebuilt(killed))
    assert "incomplete" not in reasons(rebuilt(killed))


@pytest.mark.parametrize("folder", ["finished", "killed"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "results.1.0.jsonl is not there"),
        (halve, "results.1.0.jsonl ends after"),
        (lambda path: path.write_bytes(b""), "results.1.0.jsonl ends after 0 of"),
        (lambda path: (path.unlink(), path.mkdir()), "results.1.0.jsonl"),
        (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "results.1.0.jsonl, line 1"),
    ],
)
def test_results_of_a_rank_that_are_missing_are_named_and_make_the_run_invalid(
    request: pytest.FixtureRequest, copy: Callable[[Path], Path], folder: str, harm: Callable[[Path], Any], words: str
) -> None:
    run = copy(request.getfixturevalue(folder))
    harm(run / "results.1.0.jsonl")
    summary = rebuilt(run)
    assert summary.verdict.state == "invalid"
    assert words in reasons(summary)["incomplete"]


@pytest.mark.parametrize("folder", ["finished", "killed"])
def test_a_run_whose_results_are_all_gone_did_not_end_before_its_first_request(
    request: pytest.FixtureRequest, copy: Callable[[Path], Path], folder: str
) -> None:
    run = copy(request.getfixturevalue(folder))
    for path in run.glob("results.*"):
        path.unlink()
    summary = rebuilt(run)
    assert summary.verdict.state == "invalid"
    assert "results.0.0.jsonl is not there" in reasons(summary)["incomplete"]


def test_what_is_missing_is_known_without_the_summary_and_without_the_timeline(
    finished: Path, copy: Callable[[Path], Path]
) -> None:
    run = copy(finished)
    halve(run / "results.0.0.jsonl")
    (run / "summary.json").unlink()
    assert "results.0.0.jsonl ends after" in reasons(rebuilt(run))["incomplete"]
    (run / "timeline.jsonl").unlink()
    text = reasons(rebuilt(run))["incomplete"]
    assert "requests that were told of have no line" in text
    assert "timeline.jsonl is not there" in text
    assert rebuilt(run).verdict.state == "invalid"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "timeline.jsonl is not there"),
        (halve, "timeline.jsonl, line"),
        (lambda path: path.write_bytes(b""), "timeline.jsonl lacks second 0"),
        (lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:])), "lacks second 0"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "timeline.jsonl, line"),
        (lambda path: (path.unlink(), path.mkdir()), "timeline.jsonl cannot be read"),
    ],
)
def test_a_timeline_that_is_missing_or_cut_is_named(
    finished: Path, copy: Callable[[Path], Path], harm: Callable[[Path], Any], words: str
) -> None:
    run = copy(finished)
    harm(run / "timeline.jsonl")
    summary = rebuilt(run)
    assert words in reasons(summary)["incomplete"]
    assert summary.verdict.state == "suspect"
    assert summary.counts == load_summary(RunPaths(finished)).counts


@pytest.mark.parametrize("line", [b"no json\n", b"{}\n", b'{"schema":1,"seq":-\n', b"\xff\xfe\n", b"[" * 5000 + b"\n"])
def test_one_bad_line_costs_that_line_and_a_note(finished: Path, copy: Callable[[Path], Path], line: bytes) -> None:
    run = copy(finished)
    for name in ("results.0.0.jsonl", "timeline.jsonl"):
        lines = (run / name).read_bytes().splitlines(keepends=True)
        lines[1] = line
        (run / name).write_bytes(b"".join(lines))
    summary, whole = rebuilt(run), load_summary(RunPaths(finished))
    lost = whole.counts.scheduled + whole.windows.warmup.scheduled - 1
    assert summary.counts.scheduled + summary.windows.warmup.scheduled == lost
    text = reasons(summary)["incomplete"]
    assert "results.0.0.jsonl, line 2" in text
    assert "timeline.jsonl, line 2" in text
    assert summary.verdict.state == "suspect"
    notes = summary.environment.notes
    assert any("results.0.0.jsonl, line 2" in note for note in notes)
    assert any("timeline.jsonl, line 2" in note for note in notes)
    assert not any("$." in note for note in notes)


def test_a_line_with_impossible_times_costs_that_line(finished: Path, copy: Callable[[Path], Path]) -> None:
    run = copy(finished)
    path = run / "results.0.0.jsonl"
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1])
    lines[-1] = json.dumps({**last, "sent": last["slot_free"] - 1})
    path.write_text("\n".join([*lines, ""]))
    summary = rebuilt(run)
    assert f"results.0.0.jsonl, request {last['seq']}: impossible times" in reasons(summary)["incomplete"]
    assert summary.counts.scheduled == load_summary(RunPaths(finished)).counts.scheduled - 1


@pytest.mark.parametrize("second", [99999999999999, 10**30, -5])
def test_a_second_that_the_run_cannot_have_costs_that_line(
    finished: Path, copy: Callable[[Path], Path], second: int
) -> None:
    run = copy(finished)
    change_line(run / "timeline.jsonl", t=second)
    summary = rebuilt(run)
    text = reasons(summary)["incomplete"]
    assert "timeline.jsonl lacks second 0 of" in text
    assert any("timeline.jsonl, " in note for note in summary.environment.notes)
    assert summary.counts == load_summary(RunPaths(finished)).counts


@pytest.mark.parametrize(
    "histogram",
    [
        {"counts": {"99999999999": 1}, "count": 1, "total": 5, "minimum": 5, "maximum": 5},
        {"counts": {"-1": 1}, "count": 1, "total": 5, "minimum": 5, "maximum": 5},
        {"counts": {"5": -1}, "count": -1, "total": 5, "minimum": 5, "maximum": 5},
        {"counts": {"5": 1}, "count": 1000, "total": 5, "minimum": 5, "maximum": 5},
        {"counts": {"5": 1}, "count": 1, "total": 10**30, "minimum": 5, "maximum": 5},
        {"counts": {}, "count": 7, "total": 0, "minimum": None, "maximum": None},
    ],
)
def test_a_histogram_that_cannot_be_costs_its_second(
    finished: Path, copy: Callable[[Path], Path], histogram: dict[str, object]
) -> None:
    run = copy(finished)
    change_line(run / "timeline.jsonl", histograms={"inter_chunk": histogram})
    assert "timeline.jsonl, " in reasons(rebuilt(run))["incomplete"]


STRETCH = {"count": 5, "stride": 2, "last_scheduled": 10**9}


@pytest.mark.parametrize("cut_off", [False, True])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"done": 10**20}, "`done`: expected `int` <= "),
        ({"done": 10**15}, "it is later than the run's end"),
        ({"done": -1}, "`done`: expected `int` >= 0"),
        ({"output_tokens": -4}, "`output_tokens`: expected `int` >= 0"),
        ({"prompt_tokens": 10**15}, "`prompt_tokens`: expected `int` <= "),
        ({"chunks": -1}, "`chunks`: expected `int` >= 0"),
        ({"seq": 10**30}, "`seq`: expected `int` <= "),
        ({"seq": 1}, "it is not of rank 0"),
        ({"rank": 7}, "it is not of rank 0"),
        ({"replica": "9"}, "the plan has no such replica"),
        ({"sent": None, "stretch": {**STRETCH, "count": -5}}, "`stretch.count`: expected `int` >= 1"),
        ({"sent": None, "stretch": {**STRETCH, "stride": 3}}, "it cannot stand for a stretch of requests"),
        ({"sent": None, "stretch": {**STRETCH, "last_scheduled": 10**17}}, "it is later than the run's end"),
        ({"stretch": STRETCH}, "it cannot stand for a stretch of requests"),
    ],
)
def test_a_line_with_a_number_that_cannot_be_costs_that_line(
    finished: Path, copy: Callable[[Path], Path], fields: dict[str, object], words: str, *, cut_off: bool
) -> None:
    run = copy(finished)
    if cut_off:
        (run / "summary.json").unlink()
    change_line(run / "results.0.0.jsonl", **fields)
    summary, whole = rebuilt(run), load_summary(RunPaths(finished))
    text = reasons(summary)["incomplete"]
    assert "results.0.0.jsonl, " in text
    assert words in text
    lost = 0 if cut_off else 1  # of a run that was cut off, an arrival without a line was in flight
    assert summary.counts.scheduled == whole.counts.scheduled - lost
    assert summary.counts.sent - summary.counts.censored == whole.counts.sent - 1


def test_a_request_with_two_lines_is_counted_once(finished: Path, copy: Callable[[Path], Path]) -> None:
    run = copy(finished)
    path = run / "results.0.0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    size = max({len(line) for line in lines}, key=lambda size: sum(len(line) == size for line in lines))
    first = next(line for line in lines if len(line) == size)
    copies = sum(len(line) == size for line in lines) - 1
    assert copies > len(lines) // 4
    path.write_bytes(b"".join(first if len(line) == size else line for line in lines))
    summary, whole = rebuilt(run), load_summary(RunPaths(finished))
    assert f"request {json.loads(first)['seq']}: there is a line of it already" in reasons(summary)["incomplete"]
    assert len(summary.environment.notes) == len(set(summary.environment.notes))
    everything = whole.counts.scheduled + whole.windows.warmup.scheduled
    assert summary.counts.scheduled + summary.windows.warmup.scheduled == everything - copies
    assert summary.verdict.state == "invalid"


def test_lines_that_tell_of_more_requests_than_the_summary_are_told(
    finished: Path, copy: Callable[[Path], Path]
) -> None:
    run = copy(finished)
    change_line(run / "results.0.0.jsonl", sent=None, done=None, stretch=STRETCH)
    assert "the lines tell of more requests than the summary (4 more)" in reasons(rebuilt(run))["incomplete"]


def test_files_that_the_run_did_not_write_are_told_and_never_counted_twice(
    finished: Path, copy: Callable[[Path], Path]
) -> None:
    whole = load_summary(RunPaths(finished))
    run = copy(finished)
    shutil.copy(run / "results.0.0.jsonl", run / "results.2.0.jsonl")
    summary = rebuilt(run)
    assert "results.2.0.jsonl is not counted" in reasons(summary)["incomplete"]
    assert summary.counts == whole.counts
    (run / "results.2.0.jsonl").unlink()
    with (run / "results.0.0.jsonl").open("ab") as file:
        file.write((run / "results.0.0.jsonl").read_bytes().splitlines(keepends=True)[0])
    assert re.search(r"has \d+ bytes, and this run wrote \d+", reasons(rebuilt(run))["incomplete"])


def test_of_a_job_that_was_started_anew_the_last_start_is_the_run(killed: Path, copy: Callable[[Path], Path]) -> None:
    run = copy(killed)
    for rank in (0, 1):
        (run / f"results.{rank}.0.jsonl").rename(run / f"results.{rank}.1.jsonl")
        (run / f"results.{rank}.0.jsonl").write_text("")
    assert rebuilt(run).counts == rebuilt(killed).counts
    assert "incomplete" not in reasons(rebuilt(run))
    (run / "results.1.1.jsonl").unlink()
    assert "results.1.1.jsonl is not there" in reasons(rebuilt(run))["incomplete"]


@pytest.mark.parametrize("name", ["plan.json", "summary.json", "status.json"])
def test_another_version_is_said_first(finished: Path, copy: Callable[[Path], Path], name: str) -> None:
    run = copy(finished)
    change(run / name, schema=2, counts="of the future")
    with pytest.raises(RunError, match=rf"{name} was written for .* \(schema 2\), this is {__version__} \(schema 1\)"):
        rebuilt(run)


def test_a_summary_of_another_version_is_refused_also_where_nothing_is_rebuilt(
    finished: Path, copy: Callable[[Path], Path]
) -> None:
    run = copy(finished)
    plan = json.loads((run / "plan.json").read_bytes())
    change(run / "summary.json", plan={**plan, "tokenstorm": "7.0.1"})
    with pytest.raises(RunError, match=rf"summary.json was written for tokenstorm 7\.0\.1 .* this is {__version__}"):
        load_summary(RunPaths(run))


@pytest.mark.parametrize("name", ["timeline.jsonl", "results.0.0.jsonl"])
def test_lines_of_another_schema_are_refused_as_a_whole(
    finished: Path, copy: Callable[[Path], Path], name: str
) -> None:
    run = copy(finished)
    lines = [json.loads(line) for line in (run / name).read_bytes().splitlines()]
    (run / name).write_text("".join(json.dumps({**line, "schema": 2}) + "\n" for line in lines))
    with pytest.raises(RunError, match=rf"{name} was written for another version .* this is {__version__}"):
        rebuilt(run)


@pytest.mark.parametrize("name", ["plan.json", "summary.json"])
def test_a_later_minor_version_is_read_unless_it_has_fields_that_this_one_does_not_know(
    finished: Path, copy: Callable[[Path], Path], name: str
) -> None:
    run = copy(finished)
    plan = {**json.loads((run / "plan.json").read_bytes()), "tokenstorm": "0.99.0"}
    fields = plan if name == "plan.json" else {"plan": plan}
    change(run / name, **fields)
    assert rebuilt(run).counts == load_summary(RunPaths(finished)).counts
    change(run / name, **fields, weather="fine")
    with pytest.raises(RunError, match=rf"{name} was written for tokenstorm 0\.99\.0, this is {__version__}.*weather"):
        rebuilt(run)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": "one"}', "\0" * 100])
def test_a_damaged_summary_or_status_is_a_fault_of_the_folder_and_no_traceback(
    finished: Path, copy: Callable[[Path], Path], text: str
) -> None:
    run = copy(finished)
    (run / "summary.json").write_text(text)
    with pytest.raises(RunError, match=r"summary\.json is damaged.*--rebuild"):
        load_summary(RunPaths(run))
    (run / "status.json").write_text(text)
    summary = rebuilt(run)
    said = reasons(summary)["incomplete"]
    assert "summary.json is damaged" in said
    assert "status.json is damaged" in said
    assert "$" not in said


def test_a_summary_that_lost_a_field_names_it_without_a_path_of_the_decoder(
    finished: Path, copy: Callable[[Path], Path]
) -> None:
    run = copy(finished)
    change(run / "summary.json", rates={"requested_rps": "many"})
    with pytest.raises(RunError, match=r"summary\.json is damaged: `rates") as refused:
        load_summary(RunPaths(run))
    assert "$" not in str(refused.value)


def test_the_command_says_what_is_missing_and_ends_with_3(
    stage_of_all: Stage, finished: Path, copy: Callable[[Path], Path]
) -> None:
    run = copy(finished)
    (run / "results.1.0.jsonl").unlink()
    ended = stage_of_all.command("report", str(run), "--rebuild")
    assert (ended.code, ended.err) == (3, "")
    assert "results.1.0.jsonl is not there" in ended.out
    assert "verdict: INVALID" in ended.out
    assert Run(run).reasons == Run(finished).reasons  # what was written stays
