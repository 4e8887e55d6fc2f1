"""What the launcher asks for beside the load, one exchange at a time: a small document, or what a caller makes of the answer."""

import asyncio
from time import monotonic_ns

from tokenstorm.loadgen.clock import wait_within
from tokenstorm.loadgen.http import Exchange, Receive
from tokenstorm.loadgen.pool import Pool, connect_failure

OK = 200


class Asked(Exchange):
    """An exchange that somebody waits for; `finish` tells that there is no more to wait for."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.sent = monotonic_ns()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self) -> None:
        """Let who waits go on, also when more would come."""
        if not self.over.done():
            self.over.set_result(None)

    def ended(self) -> None:
        self.finish()


class Document(Asked):
    """A request for a document of at most `limit` bytes. Its `body` is whole where `status` is 200 and `failure` is None."""

    def __init__(self, request: bytes, limit: int) -> None:
        super().__init__(request)
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def began(self, status: int) -> Receive:
        return self._receive

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
        else:
            self.finish()


async def ask(pool: Pool, asked: Asked, seconds: float) -> None:
    """Send it, and wait until it is over. What goes wrong is in its `failure`; what is left of the answer is not waited for."""
    try:
        await pool.resolve()
    except OSError as error:
        asked.fail(*connect_failure(error))
        return
    pool.send(asked)
    try:
        await wait_within(seconds, asked.over)
    except TimeoutError:
        asked.fail("timeout", f"no answer in {seconds:g} s")
    finally:
        if asked.done is None:
            asked.leave()


async def fetch(pool: Pool, request: bytes, *, seconds: float, limit: int) -> Document:
    """Ask for a document. What goes wrong is in its `failure`."""
    document = Document(request, limit)
    await ask(pool, document, seconds)
    if document.is_too_long:
        document.fail("too_long", f"more than {limit >> 10} KiB")
    return document
