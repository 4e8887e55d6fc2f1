"""Answers in other forms than chat's: what one JSON value of them says is read by a function, the rest is the same."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from tokenstorm.loadgen.answers import LARGEST_EVENT, Answer, Whole
from tokenstorm.loadgen.events import error_in, is_empty, read_json, words_of
from tokenstorm.loadgen.stream import Carrier, Stream


class Said(msgspec.Struct, gc=False):
    """What one JSON value says: an event of a stream, or an answer in one piece.

    `said` tells whether it holds anything generated, `thought` that this is reasoning. `usage` has the names of chat. `error`
    is the server's message, empty for one without words. `complete` ends a stream.
    """

    said: bool = False
    thought: bool = False
    finish: object = None
    usage: dict[str, Any] | None = None
    id: object = None
    error: str | None = None
    complete: bool = False


Read = Callable[[Any], Said | None]
"""Reads a JSON value; None where it is nothing that the operation answers. Raises ValueError that says what is wrong with it."""


Ends = Literal["event", "finish", "body"]
"""What shows that a stream is complete: an event that says so, a finish reason, or nothing but the end of its body."""


def usage_of(prompt: object, output: object = None, *, reasoning: object = None) -> dict[str, Any]:
    """Counts of tokens under the names of chat; what is None was not told."""
    counts: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": output}
    return counts | ({"completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning else {})


def object_in(value: object) -> dict[str, Any]:
    """The value, where it is an object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


class SaidWhole(Whole):
    """An answer in one piece; `what` it should hold is for the message where it does not."""

    def __init__(self, read: Read, what: str, *, generates: bool) -> None:
        super().__init__()
        self._read_json = read
        self._what = what
        self._generates = generates

    def _understand(self, body: bytes) -> None:
        said = self._read_json(read_json(body))
        if said is None:
            if (words := error_in(body)) is not None:
                self._fail("stream_error", words)
            else:
                self._malformed(f"an answer without {self._what}", body)
            return
        _learn(self, said)
        if self._generates and self.failure is None:
            if not said.said:
                self._warn("no_token")
            self._settle(thought=said.thought)


class SaidStream(Stream):
    """An answer as events; `whole` makes what reads one that is no stream. See `Ends` for when it is complete."""

    def __init__(
        self,
        read: Read,
        whole: Callable[[], Whole],
        carrier: Carrier | None = None,
        *,
        keep_times: bool = False,
        ends: Ends = "event",
    ) -> None:
        super().__init__(carrier, keep_times=keep_times)
        self._read_json = read
        self._whole = whole
        self._ends = ends

    @property
    def is_complete(self) -> bool:
        if self._ends == "body" or (self._ends == "finish" and self.finish_reason is not None):
            return True
        return super().is_complete

    def _new_whole(self) -> Whole:
        return self._whole()

    def _take_data(self, data: bytes) -> str:
        said = self._read_json(read_json(data))
        if said is None:
            if (words := error_in(data)) is not None:
                self._fail("stream_error", words)
            else:
                self._skip(data, "skipped" if is_empty(data) else "unknown")
            return ""
        _learn(self, said)
        if said.said:
            self._times.append(self._at)
            self.first_token = self.first_token or self._at
            if said.thought:
                self._thought = True
            else:
                self.first_content = self.first_content or self._at
        if said.complete:
            self._finish_now()
        return ""


class SaidLines(SaidStream):
    """An answer as JSON values, one on each line."""

    _is_stream = True
    _held = 0

    def receive(self, piece: bytes, at: int) -> None:
        if self._is_done:
            return
        self._at = at
        if self.first_chunk is None:
            self.first_chunk = at
            self._pieces: list[bytes] = []
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._pieces, lines[0]])
            self._pieces, self._held = [], 0
        for line in lines:
            self._take_value(line)
        if rest:
            self._pieces.append(rest)
            self._held += len(rest)
        if self._held > LARGEST_EVENT:
            self._fail("malformed", f"a line of more than {LARGEST_EVENT >> 20} MiB")
            self._finish_now()

    def finish(self, status: int) -> None:
        if self.first_chunk is not None:
            self._take_value(b"".join(self._pieces))
        super().finish(status)

    def _take_value(self, line: bytes) -> None:
        if line.strip() and not self._is_done:
            self._take(b"", line)


def _learn(answer: Answer, said: Said) -> None:
    """Take all of it but the text."""
    answer.learn(said.id, said.usage, said.finish)
    if said.error is not None:
        answer.refuse(said.error or "an error without words")


def words_in(error: object) -> str:
    """The message of an error in any shape."""
    return words_of(error) or "an error without words"
