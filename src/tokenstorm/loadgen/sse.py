"""Server-sent events by WHATWG's rules, from pieces cut anywhere, in time linear in their bytes.

Lines end at LF, CR LF or CR alone; a byte order mark may precede the first; `: comment` is no event. Three liberties: an
event that only lacks its last blank line counts; that of `[DONE]` is not waited for; and `error:`, a field that llama.cpp
sends, is an event of type `error`.
"""

from codecs import BOM_UTF8
from typing import NamedTuple

SILENT_FIELDS = frozenset((b"id", b"retry"))
DONE = b"[DONE]"
"""The data of OpenAI's last event."""
LINE_COST = 64
"""Bytes that a line needs in memory beside its own."""

UNKNOWN = b"?"
"""The type of a line that belongs to no field; `data` is then the line."""

ERROR = b"error"


class Sent(NamedTuple):
    """One event: its type, empty where none was named, and its data without the last line break."""

    type: bytes
    data: bytes


def data_alone(piece: bytes) -> bytes:
    """The data of a piece that is one whole event of one line, as most pieces are; empty for any other piece."""
    if (
        piece.startswith(b"data: ")
        and piece.endswith(b"\n\n")
        and piece.find(b"\n") == len(piece) - 2
        and b"\r" not in piece
    ):
        return piece[6:-2]
    return b""


class EventReader:
    """Takes an event stream in pieces; `take` gives the events that a piece completes, `end` one that lacks its blank line.

    `started` says that something came which only an event stream has, `held` how many bytes wait for the end of an
    event, and `is_between_events` whether the last piece ended with one.
    """

    __slots__ = ("_after_cr", "_data", "_is_first", "_pieces", "_type", "held", "is_between_events", "started")

    def __init__(self, *, started: bool = False) -> None:
        self.started = started
        self.is_between_events = True
        self.held = 0
        self._pieces: list[bytes] = []
        self._data: list[bytes] = []
        self._type = b""
        self._is_first = not started
        self._after_cr = False

    def take(self, piece: bytes) -> list[Sent]:
        """The events that end in this piece, and the lines that belong to no field."""
        events: list[Sent] = []
        for line in self._lines(piece):
            if line.startswith(b"data:"):
                self.started = True
                self._keep(line[6:] if line.startswith(b"data: ") else line[5:], events)
            elif not line:
                if self._data:
                    events.append(Sent(self._type, b"\n".join(self._data)))
                    self._data = []
                    self.held = sum(map(len, self._pieces))
                self._type = b""
            else:
                self._take_field(line, events)
        self.is_between_events = not (self.held or self._data or self._type)
        return events

    def end(self) -> list[Sent]:
        """The stream is over: the last event counts although no blank line closes it."""
        return self.take(b"\n\n")

    def _keep(self, data: bytes, events: list[Sent]) -> None:
        if not self._data and data.strip() == DONE:
            events.append(Sent(self._type, data))  # nobody has to wait for the blank line after it
        else:
            self._data.append(data)
            self.held += len(data) + LINE_COST

    def _lines(self, piece: bytes) -> list[bytes]:
        if self._after_cr or b"\r" in piece:
            if self._after_cr and piece.startswith(b"\n"):
                piece = piece[1:]  # the other half of a CR LF
            self._after_cr = piece.endswith(b"\r") or (self._after_cr and not piece)
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = piece.split(b"\n")
        rest = lines.pop()
        if lines and self._pieces:
            begun = b"".join(self._pieces)
            self._pieces.clear()
            self.held -= len(begun)
            lines[0] = begun + lines[0]
        if rest:
            self._pieces.append(rest)
            self.held += len(rest)
        if lines and self._is_first:
            self._is_first = False
            lines[0] = lines[0].removeprefix(BOM_UTF8)
        return lines

    def _take_field(self, line: bytes, events: list[Sent]) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self.started = True
            self._type = value
        elif name == ERROR:
            self.started = True
            events.append(Sent(ERROR, value))
        elif name == b"data":
            self.started = True
            self._keep(value, events)
        elif not name or name in SILENT_FIELDS:
            self.started = True
        elif self.started:
            events.append(Sent(UNKNOWN, line))
