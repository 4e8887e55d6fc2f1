"""What another version of tokenstorm left to the Client API, and lines that cannot be read."""

import asyncio
import json
import sqlite3
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from plans import plan
from tokenstorm import __version__
from tokenstorm.client_api.archive import Archive
from tokenstorm.client_api.homecoming import Expected, missing
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.local import LocalShell
from tokenstorm.errors import RunError
from tokenstorm.plan import encode_plan
from tokenstorm.report.load import load_summary
from tokenstorm.report.page import try_page
from tokenstorm.result import SCHEMA, Result, encode_result
from tokenstorm.runs import RunPaths


def result(seq: int) -> bytes:
    fields = {"schema": SCHEMA, "seq": seq, "rank": 0, "replica": "0", "phase": "measured", "scheduled": seq}
    return encode_result(msgspec.convert({**fields, "slot_free": None}, Result)) + b"\n"


def test_a_store_of_another_version_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "groups.sqlite"
    Store.open(path).close()
    Store.open(path).close()  # our own is read again
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=2")
    connection.close()
    with pytest.raises(RunError, match=rf"another version .*schema 2.* this is {__version__} .*TOKENSTORM_HOME"):
        Store.open(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=1")
    connection.close()
    Store.open(path).close()  # whoever was refused holds no lock


def test_a_group_that_cannot_be_read_is_told_without_a_path_of_the_decoder(tmp_path: Path) -> None:
    path = tmp_path / "groups.sqlite"
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        values = ("a", "running", "{}", '{"group_id": "of the future"}')
        connection.execute("INSERT INTO groups (run_id, status, request, state) VALUES (?, ?, ?, ?)", values)
    connection.close()
    store = Store.open(path)
    with pytest.raises(RunError, match="`group_id`") as refused:
        store.active()
    store.close()
    assert "$" not in str(refused.value)


def test_a_summary_of_another_version_came_home_and_says_so(tmp_path: Path) -> None:
    run_id = "0" * 32
    folder = tmp_path / "home" / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "plan.json").write_bytes(encode_plan(plan()))
    (folder / "stderr.log").write_text("")
    (folder / "summary.json").write_text(json.dumps({"schema": 2, "plan": {"tokenstorm": "7.0.0"}}))
    assert missing(RunPaths(folder), Expected(ran=True, ended_well=True)) is None
    archive = Archive(LocalShell(), PurePosixPath(tmp_path / "there"), tmp_path / "home", try_page, load_summary)
    left = asyncio.run(archive.sum_up(run_id))
    assert left.summary is None
    assert "was written for tokenstorm 7.0.0 (schema 2)" in left.said


def test_one_bad_line_costs_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.0.0.jsonl"
    path.write_bytes(result(1) + b"no json\n" + result(2))
    archive = Archive(LocalShell(), PurePosixPath(tmp_path), tmp_path / "home", try_page, load_summary)

    async def rows() -> bytes:
        return b"".join([part async for part in archive.csv([PurePosixPath(path)])])

    table = asyncio.run(rows()).decode().splitlines()
    assert [line.partition(",")[0] for line in table] == ["seq", "1", "2"]
    assert "a result line was left out" in capsys.readouterr().err
