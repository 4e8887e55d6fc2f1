"""A group that is watched: from events to what is shown."""

import msgspec

from tokenstorm.api.group_answers import Change, Second
from tokenstorm.cli.panel import Screen
from tokenstorm.loadgen.live import Status


class Watching:
    """Shows each event."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def see(self, event: Change | Second) -> None:
        """The next event."""
        if isinstance(event, Change):
            self._screen.say(change_line(event))
        elif status := msgspec.json.decode(event.status, type=Status | None):
            self._screen.show(status)


def change_line(change: Change) -> str:
    """A status and its reason."""
    how = change.outcome or change.status
    return f"group {change.group_id} is {how}" + (f": {change.reason}" if change.reason else "")
