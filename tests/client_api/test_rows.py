"""The rows of a run, as they are handed out."""

import asyncio
import csv
from pathlib import Path, PurePosixPath

import pytest

from tokenstorm.client_api.archive import Archive
from tokenstorm.cluster.local import LocalShell
from tokenstorm.report.load import load_summary
from tokenstorm.report.page import try_page
from tokenstorm.result import Failure, Result, Stretch, encode_result
from tokenstorm.written import read_lines

ROWS = [
    Result(1, 0, 0, "0", "measured", 0, 0, 5, done=9, error=Failure("timeout", "no answer")),
    Result(1, 1, 0, "0", "measured", 1000, None),
    Result(1, 2, 0, "0", "measured", 2000, None, stretch=Stretch(500, 2, 1_000_000)),
]


def test_rows_of_a_table_say_for_how_many_requests_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "results.0.0.jsonl"
    path.write_bytes(b"".join(encode_result(row) + b"\n" for row in ROWS))
    assert [row.count for row in read_lines(path, Result, pytest.fail)] == [1, 1, 500]
    archive = Archive(LocalShell(), PurePosixPath(tmp_path), tmp_path, try_page, load_summary)

    async def table() -> str:
        return b"".join([part async for part in archive.csv([PurePosixPath(path)])]).decode()

    rows = list(csv.DictReader(asyncio.run(table()).splitlines()))
    names = ("seq", "outcome", "scheduled_seconds", "error_kind", "stretch_count", "stretch_last_scheduled_seconds")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("0", "failed", "0.0", "timeout", "", ""),
        ("1", "unsent", "1e-06", "", "", ""),
        ("2", "unsent", "2e-06", "", "500", "0.001"),
    ]


def test_rows_are_those_of_the_last_start_that_sent_anything_as_in_the_report(tmp_path: Path) -> None:
    """A job that is started anew and ends at once leaves empty files behind those of the run."""
    folder = tmp_path / "runs" / "a1"
    folder.mkdir(parents=True)
    (folder / "plan.json").touch()
    for name, rows in (("results.0.0", ROWS[:1]), ("results.0.1", ROWS), ("results.1.1", []), ("results.0.2", [])):
        (folder / f"{name}.jsonl").write_bytes(b"".join(encode_result(row) + b"\n" for row in rows))
    archive = Archive(LocalShell(), PurePosixPath(tmp_path / "runs"), tmp_path, try_page, load_summary)
    files = asyncio.run(archive.result_files("a1"))
    assert [file.name for file in files] == ["results.0.1.jsonl", "results.1.1.jsonl"]
