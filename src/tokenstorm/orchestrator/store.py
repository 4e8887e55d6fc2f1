"""Services on disk: a table with a row each, that outlives the orchestrator. It holds API keys: 0600."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from tokenstorm.errors import NOT_JSON, RunError
from tokenstorm.runs import make_private
from tokenstorm.written import fault

from .service import Service

_SCHEMA = 1


class Store:
    """The rows. One orchestrator at a time has it open."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    def services(self) -> list[Service]:
        """All there ever were, the oldest first."""
        rows = self._connection.execute("SELECT data FROM services ORDER BY number").fetchall()
        try:
            return [msgspec.json.decode(data, type=Service) for (data,) in rows]
        except NOT_JSON as error:
            message = f"{self._path} was written by another version of tokenstorm ({fault(error)}); move it away to begin anew"
            raise RunError(message) from None

    def save(self, service: Service) -> None:
        """Write a new row or change the one there is. Raises RunError, for a full disk, with all as it was."""
        self._write(
            "INSERT INTO services (id, data) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET data = excluded.data",
            service.id,
            msgspec.json.encode(service),
        )

    def forget(self, service_id: str) -> None:
        """Remove a row."""
        self._write("DELETE FROM services WHERE id = ?", service_id)

    def close(self) -> None:
        """Let another orchestrator have it."""
        self._connection.close()

    def _write(self, statement: str, *values: object) -> None:
        try:
            with self._connection:
                self._connection.execute(statement, values)
        except sqlite3.Error as error:
            message = f"{self._path} cannot be written: {error}; is the disk full?"
            raise RunError(message) from error


def open_store(path: Path) -> Store:
    """Raises RunError when another orchestrator has it, or the file is none."""
    try:
        make_private(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=0.5)
    except (OSError, sqlite3.Error) as error:
        message = f"cannot open {path}: {error}"
        raise RunError(message) from None
    try:
        _prepare(connection)
    except sqlite3.Error as error:
        connection.close()
        locked = "another orchestrator uses it: stop that one, or give this one a folder of its own (TOKENSTORM_HOME)"
        why = locked if "locked" in str(error) else f"{error}; move it away to begin anew"
        message = f"cannot use {path}: {why}"
        raise RunError(message) from None
    return Store(path, connection)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > _SCHEMA:
        message = "a later version of tokenstorm wrote it"
        raise sqlite3.DatabaseError(message)
    with closing(connection.cursor()) as cursor, connection:
        cursor.execute("BEGIN EXCLUSIVE")
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS services "
            "(number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, data BLOB NOT NULL)"
        )
        cursor.execute(f"PRAGMA user_version = {_SCHEMA}")
