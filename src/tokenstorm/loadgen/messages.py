"""The messages between ranks and launcher: msgpack, each after its length in four bytes."""

import asyncio
import struct
from collections.abc import Callable

import msgspec

from tokenstorm.errors import NOT_JSON
from tokenstorm.loadgen.prepared import Workload
from tokenstorm.metrics.counts import Work
from tokenstorm.metrics.reports import DiskReport, RankReport
from tokenstorm.metrics.tally import Tally
from tokenstorm.plan import Plan

ADDRESS = "TOKENSTORM_LAUNCHER"
SECRET = "TOKENSTORM_SECRET"  # noqa: S105 - the name of a variable
PROTOCOL = "tokenstorm-rank"
"""The protocol that a rank asks the launcher's port to switch to."""
COMMANDS = "`run`, `run <unix time>` (within hold_seconds), `stop` and `abort`"
"""What the launcher obeys, at its port and in its control file."""
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
    workload: Workload | None = None


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
    """What the launcher learnt of the service: the model's name, and the key that every request carries.

    `ignore_eos` is what requests ask, settled. Where it was asked: words that are one token each (none: words are words), the tokens that a template adds, and how many tokens
    a prompt and its answer may have together (None: nobody knows).
    """

    model: str
    api_key: str | None
    vocabulary: tuple[str, ...] = ()
    template_tokens: int = 0
    ignore_eos: bool = False
    context: int | None = None


class Start(Message, frozen=True):
    """Launcher → rank: the common start, on the launcher's clock."""

    at: int
    service: Service


class Live(Work):
    """What a rank did since the last look, warm-up included.

    `waited` counts the measured arrivals that had to wait for a client; `peak` is the most requests in flight, `loop_lag`
    the longest in seconds.
    """

    waited: int = 0
    peak: int = 0
    loop_lag: float = 0.0


class Delta(Message, frozen=True):
    """Rank → launcher, every second: what happened since the last one.

    `second` counts from the common start; `tally` holds the requests that finished. `cpu` is the share of a core, and
    `gc_pause` the longest in seconds.
    """

    second: int
    phase: str
    live: Live
    in_flight: int
    waiting: int
    cpu: float
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
    """Rank → launcher, last: everything this rank did, and its report, but for what the deltas tell.

    `window_end` is where its measured window ended, in nanoseconds from the common start, None when that was only when
    the count was reached.
    """

    tally: Tally
    window_end: int | None
    report: RankReport


AnyMessage = Hello | Welcome | Ask | Tell | Ready | Refused | Start | Delta | Drain | Abort | Done

_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], AnyMessage] = msgspec.msgpack.Decoder(AnyMessage).decode


def send(writer: asyncio.StreamWriter, message: AnyMessage) -> None:
    """Queue a message. A broken connection shows when reading."""
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
