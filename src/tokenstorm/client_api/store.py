"""Where groups are kept: one SQLite file, for one Client API at a time.

A group's request never changes and stands apart from its state, which does. Secrets stand apart from both and are
forgotten when the group ends; the file is the user's alone. Ids never repeat, deleted groups included.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tokenstorm import __version__
from tokenstorm.api.group_answers import GroupStatus
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.errors import NOT_JSON, RunError
from tokenstorm.runs import make_private
from tokenstorm.written import fault

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS groups (
    group_id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT UNIQUE,
    fingerprint TEXT,
    request BLOB NOT NULL,
    secrets BLOB,
    state BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_status ON groups (deleted, status);
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    url TEXT NOT NULL,
    body BLOB NOT NULL
);
"""


class GroupSecrets(msgspec.Struct, frozen=True):
    """`secrets.json` of the run: the engine's key, and the secret of the launcher's port."""

    launcher: str
    api_key: str | None = None

    def __repr__(self) -> str:
        return "GroupSecrets(***)"


@dataclass(frozen=True)
class Message:
    """One notification that an observer has not got yet."""

    id: int
    url: str
    body: bytes

    @property
    def age_seconds(self) -> float:
        """Since what it tells of."""
        at = msgspec.json.decode(self.body, type=_Dated).at
        return (datetime.now(UTC) - at).total_seconds()


class _Dated(msgspec.Struct):
    at: datetime


class Store:
    """Every call is one transaction, on disk when it returns. Raises `RunError` when the disk does not take it."""

    def __init__(self, connection: sqlite3.Connection, lock: int, path: Path) -> None:
        self._connection = connection
        self._lock = lock
        self._path = path

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open or make the file. Raises `RunError` when another Client API has it, or it cannot be used."""
        lock = -1
        try:
            make_private(path.parent)
            lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA secure_delete=ON")  # of a key that is forgotten nothing stays in the file
            _refuse_other_schema(connection, path)
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version={_VERSION}")
        except RunError:
            os.close(lock)
            raise
        except BlockingIOError:
            os.close(lock)
            message = f"another Client API uses {path}: stop it, or give this one another TOKENSTORM_HOME"
            raise RunError(message) from None
        except (OSError, sqlite3.Error) as error:
            if lock >= 0:
                os.close(lock)
            message = f"cannot use {path}: {error}; make room there, or choose another TOKENSTORM_HOME"
            raise RunError(message) from None
        return cls(connection, lock, path)

    def close(self) -> None:
        """Let others have the file."""
        self._connection.close()
        os.close(self._lock)

    def add(
        self,
        make: Callable[[int], ClientGroup],
        request: bytes,
        secrets: GroupSecrets,
        *,
        idempotency_key: str | None,
        fingerprint: str,
    ) -> ClientGroup:
        """Keep a new group, made with the id that it gets."""
        with self._transaction() as execute:
            draft = make(0)
            values = (draft.run_id, draft.status, idempotency_key, fingerprint, request, msgspec.json.encode(secrets))
            row = execute(
                "INSERT INTO groups (run_id, status, idempotency_key, fingerprint, request, secrets, state) "
                "VALUES (?, ?, ?, ?, ?, ?, '') RETURNING group_id",
                values,
            ).fetchone()
            group = make(row[0])
            execute("UPDATE groups SET state = ? WHERE group_id = ?", (msgspec.json.encode(group), group.group_id))
        return group

    def save(self, *groups: ClientGroup, message: bytes | None = None, free_key: bool = False) -> None:
        """Keep the new state of groups, all or none, and in the same transaction what their observers are to be told.

        `free_key` is for a group that never came to be: its request may be tried again with its idempotency key.
        """
        with self._transaction() as execute:
            for group in groups:
                self._save(execute, group, message, free_key=free_key)
        if any(group.stage == "stopped" for group in groups):
            self._rows("PRAGMA wal_checkpoint(TRUNCATE)")  # nor in what was written ahead

    def _save(
        self, execute: Callable[..., sqlite3.Cursor], group: ClientGroup, message: bytes | None, *, free_key: bool
    ) -> None:
        over = group.stage == "stopped"
        execute(
            "UPDATE groups SET status = ?, deleted = ?, state = ?, secrets = CASE WHEN ? THEN NULL ELSE secrets END, "
            "idempotency_key = CASE WHEN ? THEN NULL ELSE idempotency_key END WHERE group_id = ?",
            (group.status, group.deleted, msgspec.json.encode(group), over, free_key, group.group_id),
        )
        if message is not None:
            for url in group.observers:
                execute("INSERT INTO outbox (url, body) VALUES (?, ?)", (url, message))

    def get(self, group_id: int) -> ClientGroup | None:
        """One group, deleted ones included."""
        rows = self._rows("SELECT state FROM groups WHERE group_id = ?", (group_id,))
        return _group(rows[0][0]) if rows else None

    def ids(self, status: GroupStatus | None = None) -> list[int]:
        """The groups that are not deleted, oldest first."""
        query = "SELECT group_id FROM groups WHERE deleted = 0 AND (?1 IS NULL OR status = ?1) ORDER BY group_id"
        return [row[0] for row in self._rows(query, (status,))]

    def groups(self, status: GroupStatus | None = None) -> list[tuple[ClientGroup, str]]:
        """The same groups with their requests; without the prompts, which may be megabytes of each."""
        query = (
            "SELECT state, json_remove(CAST(request AS TEXT), '$.prompts') FROM groups "
            "WHERE deleted = 0 AND (?1 IS NULL OR status = ?1) ORDER BY group_id"
        )
        return [(_group(state), request) for state, request in self._rows(query, (status,))]

    def active(self) -> list[ClientGroup]:
        """The groups that are not over, deleted ones included: somebody has to see them to their end."""
        return [_group(row[0]) for row in self._rows("SELECT state FROM groups WHERE status != 'stopped'")]

    def to_purge(self) -> list[ClientGroup]:
        """The groups that are over and whose files are to go."""
        rows = self._rows("SELECT state FROM groups WHERE deleted = 1 AND status = 'stopped'")
        return [group for group in (_group(row[0]) for row in rows) if group.purge]

    def request(self, group_id: int) -> bytes:
        """What was asked for, as JSON, without the API key."""
        found: bytes = self._rows("SELECT request FROM groups WHERE group_id = ?", (group_id,))[0][0]
        return found

    def secrets(self, group_id: int) -> GroupSecrets | None:
        """None once the group is over."""
        data = self._rows("SELECT secrets FROM groups WHERE group_id = ?", (group_id,))[0][0]
        return None if data is None else msgspec.json.decode(data, type=GroupSecrets)

    def by_key(self, idempotency_key: str) -> tuple[ClientGroup, str] | None:
        """The group that was created with that key, and the fingerprint of its request."""
        rows = self._rows("SELECT state, fingerprint FROM groups WHERE idempotency_key = ?", (idempotency_key,))
        return (_group(rows[0][0]), rows[0][1]) if rows else None

    def outbox_urls(self) -> list[str]:
        """The observers that have not got everything yet."""
        return [row[0] for row in self._rows("SELECT DISTINCT url FROM outbox")]

    def next_message(self, url: str) -> Message | None:
        """The oldest that an observer has not got yet."""
        rows = self._rows("SELECT id, url, body FROM outbox WHERE url = ? ORDER BY id LIMIT 1", (url,))
        return Message(*rows[0]) if rows else None

    def delivered(self, message: Message) -> None:
        """It need not be sent again."""
        with self._transaction() as execute:
            execute("DELETE FROM outbox WHERE id = ?", (message.id,))

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._told():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            message = f"cannot use {self._path}: {error}; make room there"
            raise RunError(message) from None


def _refuse_other_schema(connection: sqlite3.Connection, path: Path) -> None:
    """A file that is new has 0."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found not in {0, _VERSION}:
        connection.close()
        message = (
            f"another version of tokenstorm wrote {path} (schema {found}), this is {__version__} (schema {_VERSION}): "
            "use that version, or another TOKENSTORM_HOME"
        )
        raise RunError(message)


def _group(state: bytes) -> ClientGroup:
    try:
        return msgspec.json.decode(state, type=ClientGroup)
    except NOT_JSON as error:
        message = (
            f"the store of groups holds one that tokenstorm {__version__} cannot read ({fault(error)}): use the version "
            "that wrote it, or another TOKENSTORM_HOME"
        )
        raise RunError(message) from None
