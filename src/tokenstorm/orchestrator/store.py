"""Services on disk: a row each, that outlives the orchestrator."""

from pathlib import Path

import msgspec

from tokenstorm.jobs.database import Database

from .service import Service

_SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS services (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    data BLOB NOT NULL
);
"""


class Store:
    """The rows. One orchestrator at a time has it open. Raises RunError for a bad disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open or make the file. Raises RunError when another orchestrator has it, or it cannot be used."""
        return cls(Database.open(path, _TABLES, schema=_SCHEMA, owner="orchestrator"))

    def close(self) -> None:
        """Let another orchestrator have it."""
        self._database.close()

    def services(self) -> list[Service]:
        """All there ever were, the oldest first."""
        rows = self._database.rows("SELECT data FROM services ORDER BY number")
        return [self._database.decode(data, Service) for (data,) in rows]

    def save(self, service: Service) -> None:
        """Write a new row or change the one there is."""
        with self._database.transaction() as execute:
            execute(
                "INSERT INTO services (id, data) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET data = excluded.data",
                (service.id, msgspec.json.encode(service)),
            )
