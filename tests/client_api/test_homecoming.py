"""What is known to be missing of a run whose files are shown late, and what is brought home of it."""

import asyncio
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from running import Run, Stage
from tokenstorm.client_api.archive import Archive
from tokenstorm.client_api.homecoming import Expected, bring, missing
from tokenstorm.cluster.local import LocalShell
from tokenstorm.loadgen.live import Glance, RankSecond
from tokenstorm.metrics.reports import DiskReport
from tokenstorm.report.load import load_summary
from tokenstorm.report.page import try_page
from tokenstorm.runs import RunPaths


def second(t: int, **written: int) -> bytes:
    """A line of a timeline, with what each rank (`r0`, `r1`) had on disk by then."""
    zeros = [
        "scheduled",
        "sent",
        "succeeded",
        "failed",
        "unsent",
        "output_tokens",
        "in_flight",
        "waiting",
        "waited_below_cap",
    ]
    glances = dict.fromkeys(("latency", "service_time", "ttft"), Glance(None, None, None))
    ranks = {name[1:]: RankSecond(0.1, 0.0, 0.0, DiskReport(written_bytes=size)) for name, size in written.items()}
    rest = {"schema": 1, "t": t, "phase": "measured", "target_rps": None, "left_out": [], "histograms": {}}
    return msgspec.json.encode({**rest, **dict.fromkeys(zeros, 0), **glances, "ranks": ranks}) + b"\n"


@pytest.mark.parametrize(
    ("files", "expected", "said"),
    [
        ({}, Expected(), None),
        ({}, Expected(ran=True), "its logs"),
        ({"stderr.log": b""}, Expected(ran=True), None),
        ({"status.json": b"{}"}, Expected(ran=True), None),
        ({"status.json": b"{}"}, Expected(ran=True, ended_well=True), "summary.json"),
        ({"status.json": b"{}", "summary.json": b'{"sche'}, Expected(ended_well=True), "summary.json"),
        ({"results.1.0.jsonl": b"x" * 70}, Expected(written={1: 70}), None),
        ({"results.1.0.jsonl": b"x" * 70}, Expected(written={1: 100}), "the results of rank 1: 30 bytes"),
        ({"results.1.0.jsonl": b"x" * 70}, Expected(written={0: 9}), "the results of rank 0: 9 bytes"),
        ({"timeline.jsonl": second(0, r0=5) + second(1, r0=8) + second(2, r0=9)[:40]}, Expected(), "rank 0: 8 bytes"),
    ],
)
def test_what_others_know_of_a_run_tells_what_is_missing(
    tmp_path: Path, files: dict[str, bytes], expected: Expected, said: str | None
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = missing(RunPaths(tmp_path), expected)
    assert found == said or (said is not None and found is not None and found.endswith(said))


def test_a_second_visit_brings_what_was_added_and_what_was_renamed_into_place(tmp_path: Path) -> None:
    there, home = tmp_path / "there", tmp_path / "home"
    there.mkdir()

    def visit(**files: bytes) -> dict[str, bytes]:
        for name, data in files.items():
            (there / name.replace("_", ".")).write_bytes(data)
        asyncio.run(bring(LocalShell(), PurePosixPath(there), home))
        return {path.name: path.read_bytes() for path in home.iterdir()}

    seen = visit(results_0_0_jsonl=b"one\n", status_json=b"1", secrets_json=b"!", control=b"stop", other=b"?")
    assert seen == {"results.0.0.jsonl": b"one\n", "status.json": b"1"}
    seen = visit(results_0_0_jsonl=b"one\ntwo\n", status_json=b"2", results_1_0_jsonl=b"")
    assert seen == {"results.0.0.jsonl": b"one\ntwo\n", "status.json": b"2", "results.1.0.jsonl": b""}


def test_a_run_that_many_ask_for_at_once_comes_home_once(tmp_path: Path, stage: Stage) -> None:
    """Of what its user removed, the next call fetches all; so may ten calls at a time."""
    run = stage.bench(stage.truth().url, "--requests-per-second", "20", "--duration", "1", "--max-tokens", "2")
    archive = Archive(LocalShell(), PurePosixPath(tmp_path), tmp_path / "home", try_page, load_summary)

    async def all_at_once() -> None:
        await asyncio.gather(*(archive.at_home("run") for _ in range(10)))

    asyncio.run(all_at_once())
    assert len(Run(tmp_path / "home" / "runs" / "run").lines()) == len(run.lines()) == 20
