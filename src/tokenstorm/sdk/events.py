"""Server-sent events: from lines to what they say."""

from typing import Any, TypeAlias

import msgspec

from tokenstorm.api.group_answers import Change, Second
from tokenstorm.errors import NOT_JSON, ApiError

GroupEvent: TypeAlias = Change | Second


class Reader:
    """Is given the lines of a stream one by one; gives an event at the end of each. Unknown events are left out."""

    def __init__(self) -> None:
        self._name = "message"
        self._data: list[str] = []

    def line(self, line: str) -> GroupEvent | None:
        """The event that this line completes."""
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            return None
        name, data = self._name, "\n".join(self._data)
        self._name, self._data = "message", []
        return _event(name, data) if data else None


def _event(name: str, data: str) -> GroupEvent | None:
    try:
        match name:
            case "progress":
                return msgspec.json.decode(data, type=Second)
            case "status":
                return msgspec.json.decode(data, type=Change)
            case "done":
                told = msgspec.json.decode(data, type=dict[str, Any])
                return msgspec.convert({**told, "final": True}, Change)
            case _:
                return None
    except NOT_JSON as error:
        message = f"an event cannot be read ({error}): is it another version of tokenstorm that answers?"
        raise ApiError(message) from None
