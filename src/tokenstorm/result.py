"""What happened to one request: the record that every stage passes on, and a line of `results.*.jsonl`."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

SCHEMA: Literal[1] = 1

Moment = Annotated[int, Meta(ge=0, le=2**62)]
"""Nanoseconds from the common start."""
YEAR_NS = 366 * 86400 * 10**9
"""No moment of a run is later."""
Number = Annotated[int, Meta(ge=0, le=2**53)]
Tokens = Annotated[int, Meta(ge=0, le=2**31)]

CENSORED = "censored"
"""The failure kind of a request that was still in flight when the drain ended: neither succeeded nor failed."""

CANCELLED = "cancelled"
"""The failure kind of a request that was given up because its load asks for that: neither succeeded nor failed."""

EXHAUSTED = "exhausted"
"""The failure kind of a request for which this machine had no socket or port left: the load generator's fault."""


INTERNAL = "internal"
"""The failure kind of a request whose answer tokenstorm itself could not take in: a fault of ours, not of the service."""

FAILURE_KINDS = (
    *("refused", "unreachable", "dns", "tls", "reset", "closed", "timeout"),
    *("malformed", "stream_error", "truncated", EXHAUSTED, INTERNAL),
)
"""Every failure kind but `http_<status>`."""

Warned = Literal["no_token", "not_streamed", "short", "skipped", "unknown", "usage"]
"""What is odd about an answer that counts as a success all the same:

`no_token`      it holds nothing that was generated
`not_streamed`  a stream was asked for, and it came in one piece
`short`         it ended before the tokens that `ignore_eos` promised
`skipped`       it had events that say nothing, as heartbeats do
`unknown`       parts of it were neither an answer nor an error
`usage`         the server's count of tokens is none, above what was asked for, or below the number of chunks with text
"""


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why a request did not succeed: a `kind` to count by, and the engine's or the system's own words."""

    kind: str
    detail: str


class Stretch(msgspec.Struct, frozen=True, gc=False):
    """Makes one line stand for `count` arrivals that were never sent: those of sequence number `seq`, `seq + stride`, …

    `last_scheduled` is when the last of them was meant to leave.
    """

    count: Annotated[int, Meta(ge=1, le=2**53)]
    stride: Annotated[int, Meta(ge=1, le=2**53)]
    last_scheduled: Moment


Phase = Literal["warmup", "measured"]
SessionEnd = Literal["completed", "failed", "too_long"]


class Turn(msgspec.Struct, frozen=True, gc=False):
    """Which turn of which session a request is: turn `turn` (from 1) of the `turns` that session number `session` was to have.

    `session_phase` is that of the session's first turn.
    `session_end` tells how the session ended, if it ended with this request: all its turns were answered, this one
    failed, or the conversation has become too long for the model.
    """

    session: Number
    turn: Annotated[int, Meta(ge=1, le=2**31)]
    turns: Annotated[int, Meta(ge=1, le=2**31)]
    session_phase: Phase
    session_end: SessionEnd | None = None


class Result(msgspec.Struct, frozen=True, gc=False):
    """One request. Times are integer nanoseconds from the common start, None where it never came; only `connected` may be before it.

    `sent` None means that the request was never sent; then `slot_free` tells whether a client was free for it, or the rank stood still.
    A line with a `stretch` stands for many such, all of one replica and phase: `seq` and `scheduled` are the first one's,
    and each one's `slot_free` is that of the line, or its own intended time where that is later.
    `chunks` counts events that carried text; `coalesced` those of them that shared a read with an earlier one.
    `prompt` is the number of the prompt in its list or file, `warnings` what was odd about the answer,
    `prompt_asked` how many tokens a text that was made up was meant to have,
    `hidden_tokens` how many of the output tokens are reasoning that the server counts and does not show,
    `cached_tokens` how many tokens of the prompt the server had in its cache, as far as it tells,
    `conversation` where in which session it stands, None outside of conversations,
    `model` which of several models was asked for, `good` whether it met the objectives of its plan, None where there are none, or it was never sent.
    """

    schema: Literal[1]
    seq: Number
    rank: Number
    replica: str
    phase: Phase
    scheduled: Moment
    slot_free: Moment | None
    sent: Moment | None = None
    connected: Annotated[int, Meta(ge=-(2**62), le=2**62)] | None = None
    first_chunk: Moment | None = None
    first_token: Moment | None = None
    first_content: Moment | None = None
    last_token: Moment | None = None
    done: Moment | None = None
    chunks: Tokens = 0
    coalesced: Tokens = 0
    prompt_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    token_source: Literal["usage", "chunks"] | None = None
    resent: bool = False
    http_status: int | None = None
    finish_reason: str | None = None
    server_id: str | None = None
    error: Failure | None = None
    prompt: int | None = None
    chunk_times: list[int] | None = None
    warnings: list[Warned] | None = None
    hidden_tokens: int | None = None
    prompt_asked: Tokens | None = None
    stretch: Stretch | None = None
    good: bool | None = None
    model: str | None = None
    cached_tokens: Tokens | None = None
    conversation: Turn | None = None

    @property
    def count(self) -> int:
        """How many requests the line stands for."""
        return 1 if self.stretch is None else self.stretch.count

    @property
    def tpot(self) -> int | None:
        """The time per output token after the first, in nanoseconds; None for fewer than two, or all in one read."""
        first, last = self.first_token, self.last_token
        shown = (self.output_tokens or 0) - (self.hidden_tokens or 0)
        if first is None or last is None or last <= first or shown <= 1:
            return None
        return (last - first) // (shown - 1)

    @property
    def outcome(self) -> Literal["unsent", "censored", "cancelled", "failed", "succeeded"]:
        """Which of the five ways a scheduled request can end this one took."""
        if self.sent is None:
            return "unsent"
        if self.error is None:
            return "succeeded"
        if self.error.kind == CENSORED:
            return "censored"
        return "cancelled" if self.error.kind == CANCELLED else "failed"


encode_result = msgspec.json.Encoder().encode
"""Result → one JSON line without its newline."""
