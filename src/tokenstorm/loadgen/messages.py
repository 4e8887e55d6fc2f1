"""What ranks and launcher say to each other: msgpack, each message after its length in four bytes."""

import asyncio
import struct
from collections.abc import Callable

import msgspec

from tokenstorm.errors import NOT_JSON
from tokenstorm.metrics.tally import Tally
from tokenstorm.metrics.verdict import DiskReport
from tokenstorm.plan import Plan

ADDRESS = "TOKENSTORM_LAUNCHER"
SECRET = "TOKENSTORM_SECRET"  # noqa: S105 - the name of a variable
PROTOCOL = "tokenstorm-rank"
"""What a rank asks the launcher's port to switch to."""
MAX_MESSAGE = 64_000_000
_LENGTH = struct.Struct("!I")


class Message(msgspec.Struct, frozen=True, tag=True):
    """One of the messages below."""


class Hello(Message, frozen=True):
    """Rank → launcher, first. `clock` names the machine's monotonic clock: equal means the same clock."""

    host: str
    pid: int
    version: str
    clock: str


class Welcome(Message, frozen=True):
    """Launcher → rank: who it is, and all it needs. `results` is the path of its result lines,
    `clock` the launcher's `Hello.clock`."""

    rank: int
    ranks: int
    plan: Plan
    results: str
    clock: str


class Ask(Message, frozen=True):
    """Rank → launcher, every second: what time is it? `sent` is the rank's clock."""

    sent: int


class Tell(Message, frozen=True):
    """Launcher → rank: it was `now` on my clock when your `sent` arrived."""

    sent: int
    now: int


class Ready(Message, frozen=True):
    """Rank → launcher: loaded, and waiting at the barrier."""


class Refused(Message, frozen=True):
    """Rank → launcher: cannot carry out the plan; `reason` tells the user what to do."""

    reason: str


class Service(msgspec.Struct, frozen=True):
    """What the launcher learnt of the service: the model's name, and the key that every request carries."""

    model: str
    api_key: str | None


class Start(Message, frozen=True):
    """Launcher → rank: the common start, on the launcher's clock."""

    at: int
    service: Service


class Live(msgspec.Struct):
    """What happened since the last look; see `Delta` for the meanings."""

    scheduled: int = 0
    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    unsent: int = 0
    output_tokens: int = 0
    waited: int = 0
    peak: int = 0
    loop_lag: float = 0.0


class Delta(Message, frozen=True):
    """Rank → launcher, every second: what happened since the last one.

    `second` counts from the common start. `scheduled` to `output_tokens` count events of that second, warm-up
    included; `tally` holds the requests that finished. `peak` is the most requests in flight; `cpu` the share of a
    core; `loop_lag`, `gc_pause` the longest in seconds; `waited` the measured arrivals that had to wait for a client.
    """

    second: int
    phase: str
    scheduled: int
    sent: int
    succeeded: int
    failed: int
    unsent: int
    output_tokens: int
    in_flight: int
    waiting: int
    peak: int
    waited: int
    cpu: float
    loop_lag: float
    gc_pause: float
    disk: DiskReport
    left_out: list[str]
    tally: Tally


class Drain(Message, frozen=True):
    """Launcher → rank: the window ends at `at` (nanoseconds from the common start); answer what is in flight."""

    at: int


class Abort(Message, frozen=True):
    """Launcher → rank: end at once; what is in flight is censored."""


class Done(Message, frozen=True):
    """Rank → launcher, last: everything this rank did.

    `window_end` is where its measured window ended, in nanoseconds from the common start, None when that was only when
    the count was reached. `cpu` is the CPU time from start to drain over that time, `cpu_seconds` and `wall_seconds` go
    on to the end of the drain; `start` is the common start on this rank's clock; `offset` what was added to this rank's
    clock to get the launcher's, and `round_trip` how well that was known, all in nanoseconds; `peak_memory` is in bytes.
    """

    tally: Tally
    window_end: int | None
    cpu: float
    cpu_seconds: float
    wall_seconds: float
    start: int
    offset: int
    round_trip: int
    gc_pauses: int
    gc_seconds: float
    peak_memory: int
    disk: DiskReport


AnyMessage = Hello | Welcome | Ask | Tell | Ready | Refused | Start | Delta | Drain | Abort | Done

_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], AnyMessage] = msgspec.msgpack.Decoder(AnyMessage).decode


def send(writer: asyncio.StreamWriter, message: AnyMessage) -> None:
    """Queue a message; a broken connection shows at the reader."""
    if not writer.is_closing():
        data = _encode(message)
        writer.write(_LENGTH.pack(len(data)) + data)


async def receive(reader: asyncio.StreamReader) -> AnyMessage | None:
    """The next message; None when the other side is gone. Raises ValueError for what is no message."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_MESSAGE:
            message = f"a message of {length} bytes"
            raise ValueError(message)
        return _decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except NOT_JSON as error:
        raise ValueError(str(error)) from None
