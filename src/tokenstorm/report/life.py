"""Whether the run of a folder still goes on, as far as its files and this machine tell."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from tokenstorm.cluster.processes import started_at
from tokenstorm.errors import NOT_JSON
from tokenstorm.interfaces import node_name
from tokenstorm.loadgen.live import Status
from tokenstorm.runs import RunPaths

FRESH_SECONDS = 10.0
"""A launcher writes its status every two seconds. One on another machine that wrote this recently still runs."""
CLOCK_SECONDS = 2.0
"""The start of a process is known to this precision."""
T = TypeVar("T")
_OVER = frozenset(("finished", "failed"))


@dataclass(frozen=True)
class Life:
    """`goes_on` if that is known; otherwise `doubt` says in words why it cannot be found out here."""

    goes_on: bool = False
    doubt: str = ""


class _Address(msgspec.Struct):
    host: str
    pid: int


def life_of(paths: RunPaths) -> Life:
    """Look for the launcher: its process on this machine, the age of its status elsewhere.

    What came home from a cluster has no address, and is over.
    """
    status, address = _read(paths.status, Status), _read(paths.address, _Address)
    if paths.summary.exists() or address is None or (status and status.phase in _OVER):
        return Life()
    if address.host == node_name():
        began = started_at(address.pid)
        written = paths.address.stat().st_mtime
        return Life(goes_on=began is not None and began <= written + CLOCK_SECONDS)  # else its pid was used again
    age = (datetime.now(UTC) - status.at).total_seconds() if status else None
    if age is not None and age < FRESH_SECONDS:
        return Life(goes_on=True)
    said = "said nothing yet" if age is None else f"last said something {age:.0f} s ago"
    return Life(
        doubt=f"its launcher ran on {address.host}, of which this machine knows nothing, and {said}: "
        "it was cut off, or its files come late; look again later"
    )


def _read(path: Path, kind: type[T]) -> T | None:
    """Read a file of the launcher; None if it is missing or torn, as after a crash of its node."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, *NOT_JSON):
        return None
