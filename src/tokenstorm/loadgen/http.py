"""HTTP/1.1 over keep-alive connections. Each read has one timestamp: of its arrival by the kernel (`wire`), or taken at the read.

Each piece of body goes to its receiver at once, with the time of its read. The receiver may tell the connection what it
expects next: a read that is one whole chunk, and differs from the last only in a text, is then recognised by comparing
bytes. Such a read does not change the state of the framing, so the parser need not see it.

Whatever a server sends is data: at worst it fails its own request, never the process.
"""

import asyncio
import traceback
from collections.abc import Callable
from time import monotonic_ns
from typing import Protocol, cast

import httptools

from tokenstorm.loadgen.endings import CHUNK_LINES, LARGEST_EXPECTED, NO_ENDINGS, endings_of
from tokenstorm.result import INTERNAL, Failure

RACE_NS = 1_000_000_000
"""A reused connection that ends later than this after the send was not closed while idle."""

IDLE_TOO_LONG = 408
"""Some servers send this on an idle connection before they close it. It may cross the next request on its way."""

LINGER_SECONDS = 0.001
"""A connection whose answer is complete has this long to end its framing: servers write the last chunk separately."""

FRAMING_HEADERS = frozenset((b"content-length", b"transfer-encoding"))
HINT_HEADERS = frozenset((b"content-encoding", b"location"))
LARGEST_HEAD = 256 * 1024
"""The most bytes without any body. Real headers are far shorter, and the parser's time grows with their square."""

Receive = Callable[[bytes, int], None]
"""Takes a piece of body, and the time of its read."""


class Exchange:
    """One request on the wire, and what came back. Times are `time.monotonic_ns()`.

    A subclass returns the receiver of the body from `began`, and learns from `ended` that the exchange is over, well or not.
    """

    request: bytes
    sent: int
    connected: int | None = None
    status: int | None = None
    done: int | None = None
    failure: Failure | None = None
    resent: bool = False
    coding = ""
    """The coding of the body, if the server names one. We never ask for any."""
    location = ""
    """The address that the server redirects to."""
    carrier: "Connection | asyncio.Task[None] | None" = None

    def began(self, status: int) -> Receive:
        """The answer has this status. Returns the receiver of its body."""
        raise NotImplementedError

    def ended(self) -> None:
        """Called once, when the answer is whole (`done` is set) or the exchange failed (`failure` is set)."""
        raise NotImplementedError

    def leave(self) -> None:
        """Give up the connection; `ended` is not called."""
        carrier, self.carrier = self.carrier, None
        if isinstance(carrier, Connection):
            carrier.abandon()
        elif carrier is not None:
            carrier.cancel()

    def fail(self, kind: str, detail: str) -> None:
        """End the exchange with a failure, unless its answer is complete, and give up its connection."""
        self.leave()
        if self.done is None:
            self.done = monotonic_ns()
            self.failure = Failure(kind, detail)
        self.ended()


class Home(Protocol):
    """Where connections come from; see `Pool`."""

    def release(self, connection: "Connection") -> None: ...

    def lost(self, connection: "Connection") -> None: ...

    def resend(self, exchange: Exchange) -> None: ...


class Connection(asyncio.Protocol):
    """One connection to one replica; it carries one exchange at a time."""

    __slots__ = (
        "_bodiless",
        "_data",
        "_endings",
        "_expected_below",
        "_feed",
        "_framed",
        "_head",
        "_head_at",
        "_headers_done",
        "_hints",
        "_known",
        "_linger",
        "_note",
        "_parser",
        "_pool",
        "_receive",
        "_text_at",
        "_transport",
        "_whole",
        "closed",
        "connected",
        "exchange",
        "fresh",
        "idle_since",
        "read_at",
    )

    def __init__(self, pool: Home) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._receive: Receive = _nobody
        self.exchange: Exchange | None = None
        self.closed = False
        self.fresh = True
        self._framed = False
        self._headers_done = False
        self._whole = False
        self.connected = self.idle_since = self.read_at = 0
        self._data = self._head = b""
        self._expected_below = self._head_at = self._text_at = self._bodiless = 0
        self._endings = NO_ENDINGS
        self._known = NO_ENDINGS.known
        self._hints: dict[bytes, bytes] = {}
        self._linger: asyncio.TimerHandle | None = None
        self._note: Callable[[int], None] = _nobody

    def data_received(self, data: bytes) -> None:
        self.take(data, monotonic_ns())

    def take(self, data: bytes, now: int) -> None:
        """Take what was read; it arrived at `now`."""
        self.read_at = now
        size = len(data)
        if (
            size < self._expected_below
            and data.startswith(self._head, self._head_at)
            and ((rest := data[self._text_at :]) in self._known or self._endings.holds(rest))
            and data.startswith(CHUNK_LINES[size])
        ):
            note = self._note
            note(now)
            return
        self._expected_below = 0
        if self.exchange is None:
            self._close()  # nobody asked, and nobody must be given it later
            return
        self._data = data
        self._bodiless += size
        feed = self._feed
        try:
            feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._give_up(error)
        if self._bodiless > LARGEST_HEAD:
            self._broken("malformed", f"more than {LARGEST_HEAD >> 10} KiB of headers")
        if self._whole:  # only now: the next request must not be given what is left of this read
            self._whole = False
            self._complete()
        elif self.exchange is not None and self.exchange.done is not None:
            self._wait_for_the_end()

    def _give_up(self, error: Exception) -> None:
        """The parser stopped: the answer is not HTTP, or our own code failed on it, which is printed."""
        if isinstance(error, httptools.HttpParserCallbackError):
            cause = error.__context__ or error
            traceback.print_exception(cause)
            what = f"{type(cause).__name__}: {cause}"
            self._broken(INTERNAL, f"tokenstorm itself failed on this answer, please report it: {what}")
        elif isinstance(error, httptools.HttpParserUpgrade):
            self._broken("malformed", "HTTP 101: the server switches to a protocol that nobody asked for")
        elif self._whole:
            self._close()  # what follows a whole answer is nobody's
        else:
            self._broken("malformed", f"not HTTP: {error}")

    def answered(self) -> None:
        """Called while a piece of body is taken: the answer is complete, whatever its framing says."""
        exchange = self.exchange
        if exchange is not None and exchange.done is None:
            exchange.done = self.read_at
            self._receive = self._refuse_more

    def _refuse_more(self, piece: bytes, _at: int) -> None:
        if not piece.isspace():
            self._close()

    def _wait_for_the_end(self) -> None:
        """The answer is complete, its framing is not. If the framing ends soon, the connection can be used again."""
        if self.closed:
            self._stop_waiting()
        elif self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._stop_waiting)

    def _stop_waiting(self) -> None:
        self._close()
        self._complete()

    def on_body(self, piece: bytes) -> None:
        self._bodiless = 0
        self._receive(piece, self.read_at)

    def expect(self, head: bytes, tail: bytes, note: Callable[[int], None]) -> None:
        """The last piece was `head`, a text without quotes, and `tail`: of pieces like it, only `note` the times.

        This ends with the next piece that differs, or that did not come as one whole chunk in one read.
        """
        data = self._data
        line = data[: data.find(b"\r\n") + 2]
        size = len(data)
        if size < LARGEST_EXPECTED and line == CHUNK_LINES[size] and data.endswith(tail + b"\r\n"):
            self._head_at = len(line)
            self._text_at = len(line) + len(head)
            self._head = head
            self._endings = endings_of(tail + b"\r\n")
            self._known = self._endings.known
            self._note = note
            self._expected_below = LARGEST_EXPECTED

    def send(self, exchange: Exchange) -> None:
        """Write the request; the connection must be idle."""
        exchange.carrier = self
        if exchange.connected is None:
            exchange.connected = self.connected
        self.exchange = exchange
        self.read_at = self._bodiless = 0
        self._transport.write(exchange.request)

    def abandon(self) -> None:
        """Close without telling anyone."""
        self.exchange = None
        self.closed = True
        self._receive = _nobody
        self._forget_the_end()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connected = self.idle_since = monotonic_ns()
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._pool.lost(self)
        exchange = self.exchange
        if exchange is None:
            return
        if exchange.done is not None or (exc is None and self._headers_done and not self._framed):
            self._complete()  # it was complete already, or the body ended with the connection
        elif self._lost_the_race(exchange):
            self.exchange = None
            self._pool.resend(exchange)
        else:
            where = "in the middle of the answer" if self.read_at else "before any answer"
            what = (str(exc) or type(exc).__name__) if exc else "the server closed the connection"
            self._broken("reset" if exc else "closed", f"{what}, {where}")

    def _lost_the_race(self, exchange: Exchange) -> bool:
        """Whether the server closed an idle connection while the request was on its way to it."""
        return not self.read_at and self._may_be_late(exchange)

    def _may_be_late(self, exchange: Exchange) -> bool:
        """Whether this may be about the time before this request, which was just sent on a reused connection."""
        return monotonic_ns() - exchange.sent < RACE_NS and not (self.fresh or exchange.resent)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in FRAMING_HEADERS:
            self._framed = True
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                self._hints[b"content-encoding"] = value
        elif name in HINT_HEADERS and not self._headers_done:
            self._hints[name] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        exchange, hints = self.exchange, self._hints
        if hints:
            self._hints = {}
        if 100 <= status < 200:  # noqa: PLR2004 - 1xx answers precede the real one
            return
        self._headers_done = True
        if exchange is None or self._whole:  # nobody asked
            self._close()
        elif status == IDLE_TOO_LONG and not self._parser.should_keep_alive() and self._may_be_late(exchange):
            self._close()
            self.exchange = None
            self._pool.resend(exchange)
        else:
            exchange.status = status
            if hints:
                exchange.location = hints.get(b"location", b"").decode("latin-1")
                exchange.coding = hints.get(b"content-encoding", b"").decode("latin-1")
            self._receive = exchange.began(status)

    def on_message_complete(self) -> None:
        if self._headers_done:
            self._headers_done = self._framed = False
            self._receive = _nobody
            self._whole = True
            if not self._parser.should_keep_alive():
                self._close()

    def _complete(self) -> None:
        exchange = self.exchange
        self._headers_done = self._framed = False
        self._receive = _nobody
        if self._linger is not None:
            self._forget_the_end()
        if exchange is None:
            return
        self.idle_since = self.read_at
        exchange.done = exchange.done or self.read_at
        self.exchange = exchange.carrier = None
        if not self.closed:
            self._pool.release(self)
        exchange.ended()

    def _forget_the_end(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _broken(self, kind: str, detail: str) -> None:
        self._close()
        if self.exchange is not None:
            self.exchange.fail(kind, detail)

    def _close(self) -> None:
        self.closed = True
        self._transport.close()


def _nobody(*_: object) -> None:
    """Receives what nobody asked for."""
