"""Where groups are kept: one SQLite file, for one Client API at a time.

A group's request never changes and stands apart from its state, which does. Secrets stand apart from both and are
forgotten when the group ends; the file is the user's alone. Ids never repeat, deleted groups included.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tokenstorm.api.group_answers import GroupStatus
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.jobs.database import Database, Execute

_SCHEMA = 1
_TABLES = """
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

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open or make the file. Raises `RunError` when another Client API has it, or it cannot be used."""
        return cls(Database.open(path, _TABLES, schema=_SCHEMA, owner="Client API"))

    def close(self) -> None:
        """Let others have the file."""
        self._database.close()

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
        with self._database.transaction() as execute:
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
        with self._database.transaction() as execute:
            for group in groups:
                self._save(execute, group, message, free_key=free_key)
        if any(group.stage == "stopped" for group in groups):
            self._database.forget_deleted()  # their keys

    def _save(self, execute: Execute, group: ClientGroup, message: bytes | None, *, free_key: bool) -> None:
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
        rows = self._database.rows("SELECT state FROM groups WHERE group_id = ?", group_id)
        return self._group(rows[0][0]) if rows else None

    def ids(self, status: GroupStatus | None = None) -> list[int]:
        """The groups that are not deleted, oldest first."""
        query = "SELECT group_id FROM groups WHERE deleted = 0 AND (?1 IS NULL OR status = ?1) ORDER BY group_id"
        return [row[0] for row in self._database.rows(query, status)]

    def groups(self, status: GroupStatus | None = None) -> list[tuple[ClientGroup, str]]:
        """The same groups with their requests; without the prompts, which may be megabytes of each."""
        query = (
            "SELECT state, json_remove(CAST(request AS TEXT), '$.prompts') FROM groups "
            "WHERE deleted = 0 AND (?1 IS NULL OR status = ?1) ORDER BY group_id"
        )
        return [(self._group(state), request) for state, request in self._database.rows(query, status)]

    def active(self) -> list[ClientGroup]:
        """The groups that are not over. Deleted ones are included: their jobs still have to be followed to the end."""
        return [
            self._group(row[0]) for row in self._database.rows("SELECT state FROM groups WHERE status != 'stopped'")
        ]

    def to_purge(self) -> list[ClientGroup]:
        """The groups that are over and whose files are to go."""
        rows = self._database.rows("SELECT state FROM groups WHERE deleted = 1 AND status = 'stopped'")
        return [group for group in (self._group(row[0]) for row in rows) if group.purge]

    def request(self, group_id: int) -> bytes:
        """What was asked for, as JSON, without the API key."""
        found: bytes = self._database.rows("SELECT request FROM groups WHERE group_id = ?", group_id)[0][0]
        return found

    def secrets(self, group_id: int) -> GroupSecrets | None:
        """None once the group is over."""
        data = self._database.rows("SELECT secrets FROM groups WHERE group_id = ?", group_id)[0][0]
        return None if data is None else msgspec.json.decode(data, type=GroupSecrets)

    def by_key(self, idempotency_key: str) -> tuple[ClientGroup, str] | None:
        """The group that was created with that key, and the fingerprint of its request."""
        rows = self._database.rows("SELECT state, fingerprint FROM groups WHERE idempotency_key = ?", idempotency_key)
        return (self._group(rows[0][0]), rows[0][1]) if rows else None

    def outbox_urls(self) -> list[str]:
        """The observers that have not got everything yet."""
        return [row[0] for row in self._database.rows("SELECT DISTINCT url FROM outbox")]

    def next_message(self, url: str) -> Message | None:
        """The oldest that an observer has not got yet."""
        rows = self._database.rows("SELECT id, url, body FROM outbox WHERE url = ? ORDER BY id LIMIT 1", url)
        return Message(*rows[0]) if rows else None

    def delivered(self, message: Message) -> None:
        """It need not be sent again."""
        with self._database.transaction() as execute:
            execute("DELETE FROM outbox WHERE id = ?", (message.id,))

    def _group(self, state: bytes) -> ClientGroup:
        return self._database.decode(state, ClientGroup)
