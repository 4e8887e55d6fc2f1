"""`python -m tokenstorm.node FOLDER`: the engines of one service on this node, until they end or TERM comes."""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from tokenstorm.errors import UsageError
from tokenstorm.interfaces import local_address, node_name
from tokenstorm.node.keeper import Slot, start_keeper
from tokenstorm.node.parts import parts_here
from tokenstorm.node.publishing import Publisher
from tokenstorm.node.replica import Place, Replica
from tokenstorm.node.service import Published, Service, read_service
from tokenstorm.node.spanning import HeadPart, WorkerPart
from tokenstorm.runs import write_atomically

POLL_SECONDS = 0.05
TELLER_SECONDS = 2.0
"""How long the process that reads GPUs may take to end."""
TERMINATED = 128 + signal.SIGTERM


async def run(folder: Path, keeper: int) -> int:
    """All replicas of this node, or its parts of them. Returns 1 when they all ended, and what a shell says of TERM when that ended them."""
    service, node = read_service(folder), node_name()
    try:
        service = replace(service, host=local_address(service.host))
        service.make_caches()
        engines = _engines(service, folder, node, keeper)
    except UsageError as error:  # those who wait for this node's engines learn it at once
        await _fail(folder, service, node, str(error))
        raise
    tasks = [asyncio.create_task(one.run()) for one in engines]
    async with tell_of_gpus(folder, len(engines) * (service.gpus_per_replica or 0)):
        return await _follow(tasks)


async def _follow(tasks: list[asyncio.Task[None]]) -> int:
    """Wait for the end of the engines, or for a signal, and end what is left."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    stopping = asyncio.create_task(told.wait())
    over = asyncio.create_task(asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))
    await asyncio.wait((over, stopping), return_when=asyncio.FIRST_COMPLETED)
    if over.done():
        stopping.cancel()
        for task in over.result()[0]:
            task.result()  # raised when it is a bug: replicas see to their own failures
        return 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return TERMINATED


def _start_teller(folder: Path, count: int) -> subprocess.Popen[bytes]:
    """Start the process that reads GPUs, without a thread that waits for it: engines are forked from this process."""
    argv = [sys.executable, "-m", "tokenstorm.node.gpus", str(folder), str(count)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE)  # noqa: S603 - our own program


@asynccontextmanager
async def tell_of_gpus(folder: Path, count: int) -> AsyncIterator[None]:
    """Serve readings of the service's GPUs meanwhile, if it has any; see `tokenstorm.node.gpus`. Where that fails, engines run without."""
    if not count:
        yield
        return
    teller = _start_teller(folder, count)
    assert teller.stdin is not None
    try:
        yield
    finally:
        teller.stdin.close()
        began = time.monotonic()
        # one that hangs in the driver outlives even a kill: the job does not wait for that
        while teller.poll() is None and (lasted := time.monotonic() - began) < 2 * TELLER_SECONDS:
            if lasted > TELLER_SECONDS:
                teller.kill()
            await asyncio.sleep(POLL_SECONDS)


async def _fail(folder: Path, service: Service, node: str, reason: str) -> None:
    publisher = Publisher(folder)
    publisher.publish(
        Published(
            replica=f"{node}.0", node=node, host=service.host, port=None, pid=None, status="failed", reason=reason
        )
    )
    await publisher.finish()


def _engines(service: Service, folder: Path, node: str, keeper: int) -> list[Replica] | list[HeadPart | WorkerPart]:
    key_file = Path(service.api_key_file or folder / f"api_key.{node}")
    if service.wants_key_file() and service.api_key_file is None:
        try:
            write_atomically(key_file, service.api_key.encode(), mode=0o600)
        except OSError as error:
            message = f"the engines' key cannot be written to {key_file}: {error.strerror}"
            raise UsageError(message) from None
    if service.parts is None:
        places = [Place(folder, node, index) for index in range(service.replicas_per_node)]
        return [Replica(service, place, key_file, Slot(keeper, place.index)) for place in places]
    return [
        (WorkerPart if part.rank else HeadPart)(
            service, Place(folder, node, part.index), part, key_file, Slot(keeper, part.index)
        )
        for part in parts_here(service, os.environ, node)
    ]


def main() -> int:
    """Parse the command line and run. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tokenstorm.node", description=__doc__)
    parser.add_argument("folder", type=Path, help="the service's folder, where service.json lies")
    args = parser.parse_args()
    try:
        return asyncio.run(run(args.folder.absolute(), start_keeper()))
    except UsageError as error:
        sys.stderr.write(f"tokenstorm: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
