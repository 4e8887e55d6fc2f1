"""A connection's socket, read with the times at which the kernel took in what is read.

Linux stamps each TCP segment as it arrives. Segments that wait together are merged and bear the last one's stamp, so a
stamp is that of the piece as long as it is read before the next one comes, and never later than the read.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from struct import Struct
from time import monotonic_ns, time_ns
from typing import Protocol

from tokenstorm.metrics.histogram import Histogram

READ_SIZE = 16384
STAMP_ROOM = socket.CMSG_SPACE(48)
"""Three `struct timespec`: of the software, unused, of the hardware."""
SO_TIMESTAMPING = 37
STAMP_AT_ARRIVAL = 1 << 3 | 1 << 4
"""SOF_TIMESTAMPING_RX_SOFTWARE and SOF_TIMESTAMPING_SOFTWARE."""
DOUBT_NS = 5_000_000
"""A piece that seems to have waited longer than this, or to come from the future, may be a step of the wall clock."""
TRIES = 5
FOLD_SECONDS = 0.02
FOLDS_A_LOOK = 10
"""After so many folds connections are looked at that may have been reset."""

_timespec = Struct("qq").unpack_from


class Stamps:
    """The kernel's stamps, which are of the wall clock, as times of the monotonic clock; and how long what they are of waited to be read."""

    def __init__(self) -> None:
        self.lags: list[int] = []
        """From the arrival to the read, in nanoseconds, of all reads since the last `fold`."""
        self.wires: set[Wire] = set()
        self.used = False
        self.offset = 0
        self._histogram = Histogram()
        self._folds = 0
        self.compare()

    def compare(self) -> None:
        """Read both clocks, as close to each other as they can be: the wall clock may have been set."""
        readings = [(monotonic_ns(), time_ns(), monotonic_ns()) for _ in range(TRIES)]
        before, wall, after = min(readings, key=lambda reading: reading[2] - reading[0])
        self.offset = wall - (before + after) // 2

    def doubt(self, stamp: int, now: int, earliest: int) -> int:
        """The monotonic time of a stamp that looks odd, by the clocks as they are now: not before `earliest`, nor after the read."""
        self.compare()
        arrived = max(min(stamp - self.offset, now), earliest)
        self.lags.append(now - arrived)
        return arrived

    def begin(self) -> None:
        """Fold now and then, from now on: many at once would hold up the loop. And look for connections that were reset."""
        self._fold()
        self._folds += 1
        if self._folds % FOLDS_A_LOOK == 0:
            for each in tuple(self.wires):
                each.look()
        asyncio.get_running_loop().call_later(FOLD_SECONDS, self.begin)

    def take(self) -> Histogram:
        """How long reads waited since the last call."""
        self.compare()
        self._fold()
        taken, self._histogram = self._histogram, Histogram()
        return taken

    def _fold(self) -> None:
        if self.lags:
            self.used = True
            self._histogram.record_many(self.lags)
            self.lags.clear()


class Reader(Protocol):
    """What a wire tells; see `Connection`."""

    def take(self, data: bytes, at: int) -> None: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...


class Wire(asyncio.Transport):
    """A connected socket: what arrives goes to the reader with its time of arrival.

    An answer does not arrive before its request was written, nor a piece before the one before it.
    """

    __slots__ = (
        "_closing",
        "_earliest",
        "_fd",
        "_loop",
        "_reader",
        "_receive",
        "_socket",
        "_stamps",
        "_take",
        "_unsent",
    )

    def __init__(self, connected: socket.socket, reader: Reader, stamps: Stamps) -> None:
        self._socket = connected
        self._fd = connected.fileno()
        self._receive = connected.recvmsg
        self._reader = reader
        self._take: Callable[[bytes, int], None] = reader.take
        self._stamps = stamps
        self._unsent = bytearray()
        self._closing = False
        self._earliest = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)
        stamps.wires.add(self)
        reader.connection_made(self)

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._receive(READ_SIZE, STAMP_ROOM)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        now = at = monotonic_ns()
        if not data:
            self._end(None)
            return
        if ancillary:
            seconds, nanoseconds = _timespec(ancillary[0][2])
            stamps = self._stamps
            stamp = seconds * 1_000_000_000 + nanoseconds
            at = stamp - stamps.offset
            if self._earliest <= at and 0 <= (lag := now - at) < DOUBT_NS:
                stamps.lags.append(lag)
            else:
                at = stamps.doubt(stamp, now, self._earliest)
        self._earliest = at
        self._take(data, at)

    def look(self) -> None:
        """Notice a reset that nobody was told of: libuv tells of an error once, and that read may have brought data."""
        if error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            with contextlib.suppress(OSError):
                while not self._closing and (data := self._socket.recv(READ_SIZE)):
                    self._take(data, monotonic_ns())
            self._end(OSError(error, os.strerror(error)))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        self._earliest = monotonic_ns()
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._end(error)
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._fd, self._writable)
        self._unsent += memoryview(data)[sent:]

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._fd)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._stamps.wires.discard(self)
            self._loop.remove_reader(self._fd)
            if self._unsent:
                self._loop.remove_writer(self._fd)
            self._loop.call_soon(self._reader.connection_lost, error)
            self._loop.call_soon(self._socket.close)


async def connect(address: str, port: int, reader: Reader, stamps: Stamps) -> None:
    """Connect the reader to an address (no name). Raises OSError."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.settimeout(0)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, STAMP_AT_ARRIVAL)
        await asyncio.get_running_loop().sock_connect(made, (address, port))
        Wire(made, reader, stamps)
    except BaseException:
        made.close()
        raise


def has_stamps() -> bool:
    """Whether this machine's kernel stamps what arrives."""
    return sys.platform == "linux"
