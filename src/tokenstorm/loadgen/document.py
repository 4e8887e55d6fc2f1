"""One small document over one kept connection: what the launcher asks for beside the load."""

import asyncio
from time import monotonic_ns

from tokenstorm.loadgen.clock import wait_within
from tokenstorm.loadgen.http import Exchange, Receive
from tokenstorm.loadgen.pool import Pool, connect_failure

OK = 200


class Document(Exchange):
    """A request for a document of at most `limit` bytes. Its `body` is whole where `status` is 200 and `failure` is None."""

    def __init__(self, request: bytes, limit: int) -> None:
        self.request = request
        self.sent = monotonic_ns()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def began(self, status: int) -> Receive:
        return self._receive

    def ended(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    @property
    def body(self) -> bytes | None:
        """The document; None where it did not come."""
        return b"".join(self._pieces) if self.status == OK and self.failure is None and self.done else None

    @property
    def is_too_long(self) -> bool:
        """Whether more than `limit` bytes came."""
        return self._size > self._limit

    def _receive(self, piece: bytes, _at: int) -> None:
        self._size += len(piece)
        if not self.is_too_long:
            self._pieces.append(piece)
        elif not self.over.done():
            self.over.set_result(None)


async def fetch(pool: Pool, request: bytes, *, seconds: float, limit: int) -> Document:
    """Ask for a document. What goes wrong is in its `failure`."""
    document = Document(request, limit)
    try:
        await pool.resolve()
    except OSError as error:
        document.fail(*connect_failure(error))
        return document
    pool.send(document)
    try:
        await wait_within(seconds, document.over)
    except TimeoutError:
        document.fail("timeout", f"no answer in {seconds:g} s")
    except asyncio.CancelledError:
        document.leave()
        raise
    else:
        if document.is_too_long:
            document.fail("too_long", f"more than {limit >> 10} KiB")
    return document
