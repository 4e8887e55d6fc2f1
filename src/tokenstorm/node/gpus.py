"""`python -m tokenstorm.node.gpus FOLDER COUNT`: serves readings of this node's GPUs to callers with the service's key.

It runs beside the engines, in a process of its own: a driver that hangs holds up nobody else. GPUs are read when they are
asked for, so that a service that nobody loads pays nothing. It ends with its standard input.
"""

import asyncio
import hmac
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

import msgspec

from tokenstorm.errors import RunError
from tokenstorm.hosts import in_url
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.interfaces import local_address, node_name
from tokenstorm.metrics.energy import GpuReading
from tokenstorm.metrics.gputext import write_gpus
from tokenstorm.node.boards import Read, find_boards
from tokenstorm.node.service import read_service, run_of
from tokenstorm.prometheus import MEDIA_TYPE
from tokenstorm.runs import write_atomically

AGAIN_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 10.0


class PublishedGpus(msgspec.Struct, frozen=True, kw_only=True):
    """`gpus.<node>.json`: where a node's GPUs can be read, and how many of them the service has. `run` as in `Published`."""

    node: str
    url: str
    gpus: int
    run: str = ""
    schema: int = 1


class _Teller:
    """Answers with the GPUs as they are now. Questions that come together share one reading."""

    def __init__(self, read: Read, api_key: str) -> None:
        self._read = read
        self._api_key = api_key
        self._reading: asyncio.Task[tuple[list[GpuReading], float]] | None = None

    def has_key(self, headers: Mapping[str, str]) -> bool:
        given = headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(given, f"Bearer {self._api_key}".encode())

    def answer(self, request: Request, reply: Reply) -> None:
        if not self.has_key(request.headers):
            reply.send(401, b'{"detail": "this port wants the service\'s key as a bearer token"}')
        elif (request.verb, request.path) != ("GET", "/metrics"):
            reply.send(404, b'{"detail": "there is /metrics"}')
        else:
            reply.spawn(self._tell(reply))

    async def _tell(self, reply: Reply) -> None:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._look())
        try:
            readings, at = await asyncio.shield(self._reading)
        except RunError as error:
            reply.send(503, msgspec.json.encode({"detail": str(error)}))
        else:
            reply.send(200, write_gpus(readings, monotonic() - at), MEDIA_TYPE)

    async def _look(self) -> tuple[list[GpuReading], float]:
        readings = await self._read()
        return readings, monotonic()


async def tell(folder: Path, count: int) -> None:
    """Tell of `count` GPUs until standard input ends. Ends at once where nothing reads any."""
    service, node = read_service(folder), node_name()
    read = await find_boards(os.environ, count)
    if read is None:
        return
    teller = _Teller(read, service.api_key)
    host = local_address(service.host)
    server = await serve(teller.answer, host, 0, keep_alive=KEEP_ALIVE_SECONDS, has_key=teller.has_key)
    url = f"http://{in_url(host)}:{server.sockets[0].getsockname()[1]}/metrics"
    published = PublishedGpus(node=node, url=url, gpus=count, run=run_of(os.environ))
    publishing = asyncio.create_task(_publish(folder / f"gpus.{node}.json", msgspec.json.encode(published)))
    await _end_of_input()
    publishing.cancel()
    server.close()


async def _publish(path: Path, data: bytes) -> None:
    """Make it known as soon as the file system takes it."""
    while True:
        try:
            write_atomically(path, data, mode=0o600)
        except OSError:
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            return


async def _end_of_input() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its input
    asyncio.run(tell(Path(sys.argv[1]), int(sys.argv[2])))
