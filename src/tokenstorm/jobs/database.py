"""Rows on disk: one SQLite file, which one process at a time has open. It holds secrets: 0600, and nothing deleted stays.

It may lie on a network file system and be opened by another machine next: so only SQLite's
own locks lock it, and no memory is shared beside it.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tokenstorm import __version__
from tokenstorm.errors import NOT_JSON, RunError, fault
from tokenstorm.runs import make_private

BUSY_SECONDS = 0.5
"""How long another process may take to close the file."""

Execute = Callable[..., sqlite3.Cursor]
T = TypeVar("T")


class Database:
    """Each call is one transaction, on disk when it returns. Raises `RunError`, with all as it was, for a bad disk."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path, tables: str, *, schema: int, owner: str) -> "Database":
        """Open the file, or make it with these tables. `owner` names, for people, the program that holds such files open.

        Raises `RunError` when another process has it, another version wrote it, or it cannot be used.
        """
        connection = None
        try:
            make_private(path.parent)
            with suppress(FileExistsError):  # one that is there is not opened: closing it would end SQLite's locks
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            _prepare(connection, tables, schema)
        except (OSError, sqlite3.Error) as error:
            if connection:
                connection.close()
            message = f"cannot use {path}: {_why(error, owner)}"
            raise RunError(message) from None
        return cls(path, connection)

    def close(self) -> None:
        """Let another process have the file."""
        self._connection.close()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that a query finds."""
        with self._errors_told():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """Either every statement in it takes effect, or none."""
        with self._errors_told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def forget_deleted(self) -> None:
        """Remove deleted rows from the write-ahead log too."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def decode(self, data: bytes, kind: type[T]) -> T:
        """A row's JSON. Raises `RunError` for one that another version wrote."""
        try:
            return msgspec.json.decode(data, type=kind)
        except NOT_JSON as error:
            message = (
                f"{self._path} holds a row that tokenstorm {__version__} cannot read ({fault(error)}): use the version "
                "that wrote it, or another TOKENSTORM_HOME"
            )
            raise RunError(message) from None

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            message = f"cannot use {self._path}: {error}; make room there"
            raise RunError(message) from None


class _OtherSchema(sqlite3.Error):
    """The file is sound, and of another version."""


def _prepare(connection: sqlite3.Connection, tables: str, schema: int) -> None:
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # before the journal: then nothing is shared beside the file
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found not in {0, schema}:  # a file that is new has 0
        message = f"another version of tokenstorm wrote it (schema {found}), this is {__version__} (schema {schema})"
        raise _OtherSchema(message)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA secure_delete=ON")
    connection.executescript(f"BEGIN EXCLUSIVE; {tables} PRAGMA user_version={schema}; COMMIT")


def _why(error: Exception, owner: str) -> str:
    """What keeps a file from being used, and what to do."""
    if isinstance(error, _OtherSchema):
        return f"{error}: use that version, or another TOKENSTORM_HOME"
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return f"another {owner} uses it: stop that one, or give this one another TOKENSTORM_HOME"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return f"{error}; move it away to begin anew"
    return f"{error}; make room there, or choose another TOKENSTORM_HOME"
