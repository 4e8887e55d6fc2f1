"""Rows on disk survive kills and the last version's locks, and nothing half of them is ever read."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tokenstorm.errors import RunError
from tokenstorm.jobs.database import Database

TABLES = "CREATE TABLE IF NOT EXISTS rows (name TEXT NOT NULL UNIQUE);"
WRITES = f"""
import sys, time
from pathlib import Path
from tokenstorm.jobs.database import Database
database = Database.open(Path(sys.argv[1]), {TABLES!r}, schema=1, owner="test")
with database.transaction() as execute:
    execute("INSERT INTO rows VALUES ('whole')")
with database.transaction() as execute:
    execute("INSERT INTO rows VALUES ('half')")
    print("ready", flush=True)
    time.sleep(600)
"""


def opened(path: Path) -> Database:
    return Database.open(path, TABLES, schema=1, owner="keeper")


def names(path: Path) -> list[str]:
    with closing(opened(path)) as database:
        return [name for (name,) in database.rows("SELECT name FROM rows ORDER BY name")]


def test_a_process_that_is_killed_leaves_what_it_wrote_wholly_and_its_lock_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    command = [sys.executable, "-c", WRITES, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == b"ready\n"
            with pytest.raises(RunError, match=r"rows.sqlite: another keeper uses it: stop that one"):
                opened(path)
        finally:
            os.kill(writer.pid, signal.SIGKILL)
    assert names(path) == ["whole"]


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_file_of_the_last_version_is_taken_over_and_refused_while_that_has_it(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "rows.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as last:
        last.execute("PRAGMA locking_mode=" + ("EXCLUSIVE" if journal == "DELETE" else "NORMAL"))
        last.execute(f"PRAGMA journal_mode={journal}")
        last.executescript(f"{TABLES} INSERT INTO rows VALUES ('kept'); PRAGMA user_version=1")
        with pytest.raises(RunError, match="another keeper uses it"):
            opened(path)
    assert names(path) == ["kept"]


def test_the_last_version_is_refused_while_this_one_has_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    with closing(opened(path)), closing(sqlite3.connect(path, timeout=0.1)) as last:  # noqa: SIM117 - one line each
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            last.execute("SELECT * FROM rows").fetchall()


def test_what_fails_in_the_middle_of_a_transaction_leaves_all_as_it_was(tmp_path: Path) -> None:
    def write_twice(database: Database) -> None:
        with database.transaction() as execute:
            execute("INSERT INTO rows VALUES ('a')")
            execute("INSERT INTO rows VALUES ('a')")

    with closing(opened(tmp_path / "rows.sqlite")) as database:
        with pytest.raises(RunError, match=r"rows.sqlite: UNIQUE"):
            write_twice(database)
        assert database.rows("SELECT * FROM rows") == []
