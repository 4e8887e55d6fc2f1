"""The control socket of an ssh that is a master: who is behind it, and a connection on which its end is seen.

Its protocol is OpenSSH's own (PROTOCOL.mux): a message is a length (4 bytes), a kind (4) and its fields. A connection to the
socket keeps the master, and takes none of the sessions that the server gives.
"""

import asyncio
import struct
from pathlib import Path
from typing import Self

ANSWER_SECONDS = 5.0
"""A master that is silent for so long has stopped."""
_VERSION = 4
_HELLO, _ALIVE_CHECK, _ALIVE = 0x00000001, 0x10000004, 0x80000005
_LONGEST = 2**16


class Control:
    """A connection to a master that answered."""

    def __init__(self, path: Path, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.path, self.pid = path, pid
        self._writer = writer
        self._ending = asyncio.create_task(_end(reader))

    @classmethod
    async def to(cls, path: Path) -> Self | None:
        """Connect to a master; None where nobody listens or answers."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(str(path))
                try:
                    return cls(path, await _pid(reader, writer), reader, writer)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, EOFError, ValueError, struct.error):
            return None

    @property
    def there(self) -> bool:
        """Whether the master has not ended."""
        return not self._ending.done()

    async def close(self) -> None:
        """Let go of the master."""
        self._ending.cancel()
        self._writer.close()
        await asyncio.wait((self._ending,))


async def _pid(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """The process at the other end. Raises ValueError for one that is no master."""
    writer.write(_message(_HELLO, _VERSION) + _message(_ALIVE_CHECK, 0))
    while True:
        (size,) = struct.unpack(">I", await reader.readexactly(4))
        if size > _LONGEST:
            message = "no master answers there"
            raise ValueError(message)
        said = await reader.readexactly(size)
        if struct.unpack(">I", said[:4])[0] == _ALIVE:
            return int(struct.unpack(">II", said[4:12])[1])


def _message(*fields: int) -> bytes:
    body = struct.pack(f">{len(fields)}I", *fields)
    return struct.pack(">I", len(body)) + body


async def _end(reader: asyncio.StreamReader) -> None:
    """Wait until the master is gone."""
    try:
        while await reader.read(_LONGEST):
            pass
    except OSError:
        pass
