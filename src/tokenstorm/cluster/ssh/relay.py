"""Many connections over the two standard streams of one command: for sites whose SSH server forwards nothing.

Both sides run this file: here it is imported, and on the login node, or beside a job, a Python 3.6 or newer runs it as text, with nothing
but its standard library. A frame is a kind (1 byte), the number of a connection (4) and a length (4), then so many bytes.
A connection sends at most WINDOW bytes that the other side has not handed on yet: a slow one holds up no other.
"""

import asyncio
import contextlib
import json
import select
import struct
import sys
from collections.abc import Coroutine, Iterator
from typing import Any

WINDOW = 256 * 1024
HELLO = b"tokenstorm-relay\n"
"""What the far side says first: what comes before it is a site's own."""
_READ = 64 * 1024
_HEAD = struct.Struct(">BII")
_GONE = "the relay ended"
_OPEN, _OPENED, _FAILED, _DATA, _END, _HANDED_ON, _GIVEN_UP = range(7)


class Relay:
    """One side, over asyncio's streams or those of asyncssh, which raise what is in `lost` at their end.

    `run` handles what comes until the streams end; `open` is for the side that wants connections."""

    def __init__(self, reader: Any, writer: Any, lost: "tuple[type[Exception], ...]" = (OSError,)) -> None:
        self._reader, self._writer, self._lost = reader, writer, lost
        self._sending = asyncio.Lock()
        self._connections: dict[int, _Connection] = {}
        self._opening: dict[int, asyncio.Future[None]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._last = 0
        self.over = False

    async def run(self) -> None:
        """Until the other side is gone; then every connection ends."""
        try:
            while True:
                kind, number, length = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
                self._take(kind, number, await self._reader.readexactly(length) if length else b"")
        except asyncio.IncompleteReadError:
            pass
        except self._lost:
            pass
        finally:
            self.over = True
            for opening in self._opening.values():
                if not opening.done():
                    opening.set_exception(ConnectionResetError(_GONE))
            left = tuple(self._tasks.values())
            for task in left:
                task.cancel()
            for connection in self._connections.values():
                connection.writer.close()
            if left:
                await asyncio.wait(left)

    async def open(self, host: str, port: int, near: "tuple[Any, Any]") -> None:
        """Connect the pair of streams `near` to an address, as the other side sees it. Raises OSError.

        With port 0, `host` is the path of a unix socket there."""
        if self.over:
            raise ConnectionResetError(_GONE)
        self._last += 1
        number = self._last
        self._opening[number] = asyncio.get_event_loop().create_future()
        # before it is opened: its first bytes may come at once
        connection = self._connections[number] = _Connection(*near)
        try:
            await self._send(_OPEN, number, json.dumps([host, port]).encode())
            await self._opening[number]
        except BaseException:
            del self._connections[number]
            if not self.over:
                self._start(number, self._send(_GIVEN_UP, number, b""))
            raise
        finally:
            del self._opening[number]
        self._start(number, self._for_us(number, connection))

    def _take(self, kind: int, number: int, data: bytes) -> None:
        connection = self._connections.get(number)
        if kind == _OPEN:
            self._start(number, self._dial(number, *json.loads(data.decode())))
        elif kind in (_OPENED, _FAILED):
            opening = self._opening.get(number)
            if opening is not None and not opening.done():
                if kind == _OPENED:
                    opening.set_result(None)
                else:
                    opening.set_exception(ConnectionRefusedError(data.decode(errors="replace")))
        elif kind == _GIVEN_UP:
            if number in self._tasks:
                self._tasks[number].cancel()
        elif connection is None:
            pass  # it ended here, and the other side does not know yet
        elif kind == _HANDED_ON:
            connection.room += struct.unpack(">I", data)[0]
            connection.has_room.set()
        else:
            connection.coming.put_nowait(data if kind == _DATA else None)

    async def _dial(self, number: int, host: str, port: int) -> None:
        try:
            if port:
                reader, writer = await asyncio.open_connection(host, port)
            else:
                reader, writer = await asyncio.open_unix_connection(host)
        except OSError as error:
            await self._send(_FAILED, number, str(error).encode())
            return
        connection = self._connections[number] = _Connection(reader, writer)
        with self._ending(number, connection):
            await self._send(_OPENED, number, b"")
            await asyncio.gather(self._up(number, connection), self._down(number, connection))

    async def _for_us(self, number: int, connection: "_Connection") -> None:
        """Carry both directions until both ends have closed, or our end has hung up."""
        down = asyncio.ensure_future(self._down(number, connection))
        with self._ending(number, connection):
            try:
                await self._up(number, connection)
                if hung_up(connection.writer):
                    await self._send(_GIVEN_UP, number, b"")
                else:
                    await down
            finally:
                down.cancel()
                await asyncio.gather(down, return_exceptions=True)

    @contextlib.contextmanager
    def _ending(self, number: int, connection: "_Connection") -> "Iterator[None]":
        try:
            yield
        except self._lost:  # `run` finds out too
            pass
        finally:
            self._connections.pop(number, None)
            connection.writer.close()

    def _start(self, number: int, work: "Coroutine[Any, Any, None]") -> None:
        task = self._tasks[number] = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._tasks.pop(number))

    async def _up(self, number: int, connection: "_Connection") -> None:
        """From our end to the other side, as fast as the other side takes it."""
        try:
            while True:
                while connection.room <= 0:
                    connection.has_room.clear()
                    await connection.has_room.wait()
                data = await connection.reader.read(min(_READ, connection.room))
                if not data:
                    break
                connection.room -= len(data)
                await self._send(_DATA, number, data)
        except OSError:  # our end was reset: the other side sees an end
            pass
        await self._send(_END, number, b"")

    async def _down(self, number: int, connection: "_Connection") -> None:
        """From the other side to our end. Once our end is broken, the rest is dropped, so that it holds nothing up."""
        broken = False
        while True:
            data = await connection.coming.get()
            if data is None:
                break
            if not broken:
                try:
                    connection.writer.write(data)
                    await connection.writer.drain()
                except OSError:
                    broken = True
            await self._send(_HANDED_ON, number, struct.pack(">I", len(data)))
        if not broken and connection.writer.can_write_eof():
            with contextlib.suppress(OSError):
                connection.writer.write_eof()

    async def _send(self, kind: int, number: int, data: bytes) -> None:
        async with self._sending:
            self._writer.write(_HEAD.pack(kind, number, len(data)) + data)
            await self._writer.drain()


class _Connection:
    def __init__(self, reader: Any, writer: Any) -> None:
        self.reader, self.writer = reader, writer
        self.room = WINDOW
        self.has_room = asyncio.Event()
        self.coming: asyncio.Queue[bytes | None] = asyncio.Queue()


def hung_up(writer: Any) -> bool:
    """Whether the peer of a stream that came to its end has closed it altogether, and so reads nothing more either."""
    if writer.transport.is_closing():
        return True
    polled = select.poll()
    polled.register(writer.get_extra_info("socket").fileno(), 0)  # which tells of POLLHUP alone
    return bool(polled.poll(0))


async def _serve() -> None:
    loop = asyncio.get_event_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    writer.write(HELLO)
    await Relay(reader, writer).run()


if __name__ == "__main__":
    asyncio.new_event_loop().run_until_complete(_serve())
