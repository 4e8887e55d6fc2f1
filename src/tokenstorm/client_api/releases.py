"""Held groups: which of them can be released, and until when. No I/O."""

import time
from datetime import datetime

from tokenstorm.api.groups import STARTUP_SECONDS
from tokenstorm.client_api.group import ClientGroup

_BEFORE_THE_START = frozenset(("", "starting", "holding"))


def not_releasable(group: ClientGroup, phase: str, *, together: bool) -> str | None:
    """Why a group cannot be released; `phase` is what its launcher said last."""
    which = f"group {group.group_id}"
    if not group.manual:
        return f'{which} was not created with "start": "manual": there is nothing to release'
    if group.status == "stopped" or phase not in _BEFORE_THE_START:
        return f"{which} {'has stopped' if group.status == 'stopped' else 'runs'}: there is nothing to release"
    if group.ending:
        return f"{which} is being stopped: it cannot be released any more"
    if together and phase != "holding":
        why = f": {group.reason}" if group.reason else ""
        return (
            f"{which} is not ready to start with the others ({phase or group.status}{why}), so none is released: ask again "
            'when all are in the phase "holding", or name a `start_at` by which they will be'
        )
    return None


def latest_start(group: ClientGroup) -> float:
    """Until when it may be held (Unix time): beyond that, its job's time limit does not hold the run any more."""
    if group.started_at is None:
        return time.time() + group.hold_seconds
    return datetime.fromisoformat(group.started_at).timestamp() + STARTUP_SECONDS + group.hold_seconds
