"""The kernel's times of arrival, over real sockets."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from time import monotonic_ns

import pytest

from scripted import run
from tokenstorm.loadgen import wire
from tokenstorm.loadgen.wire import Stamps
from waiting import until

HOUR_NS = 3600 * 10**9
STANDS_STILL = 0.05


class Reads:
    """Keeps what a wire tells."""

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, int]] = []
        self.lost: list[Exception | None] = []
        self.transport: asyncio.Transport

    def take(self, data: bytes, at: int) -> None:
        self.pieces.append((data, at))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    @property
    def text(self) -> bytes:
        return b"".join(piece for piece, _ in self.pieces)


@contextlib.asynccontextmanager
async def connected(stamps: Stamps, host: str = "127.0.0.1") -> AsyncIterator[tuple[Reads, socket.socket]]:
    """A wire, and the blocking socket at its other end."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        reads = Reads()
        await wire.connect(host, listener.getsockname()[1], reads, stamps)
        with listener.accept()[0] as other:
            yield reads, other
        reads.transport.abort()
        await until(lambda: bool(reads.lost))


async def more_than(reads: Reads, pieces: int) -> None:
    await until(lambda: len(reads.pieces) > pieces)


async def warm(reads: Reads, other: socket.socket) -> None:
    """The kernel begins to stamp shortly after the first socket wants it."""
    for _ in range(20):
        before = len(reads.pieces)
        other.send(b".")
        await more_than(reads, before)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_client_that_stands_still_knows_when_an_answer_came(host: str) -> None:
    async def main() -> None:
        stamps = Stamps()
        async with connected(stamps, host) as (reads, other):
            await warm(reads, other)
            del reads.pieces[:], stamps.lags[:]
            other.send(b"token")
            written = monotonic_ns()
            time.sleep(STANDS_STILL)  # noqa: ASYNC251 - the loop is to stand still
            resumed = monotonic_ns()
            await until(lambda: bool(reads.pieces))
            ((piece, at),) = reads.pieces
            assert piece == b"token"
            assert at - written < (resumed - written) / 2, "it is the time of the arrival, not of the read"
            assert stamps.lags[0] > (resumed - written) / 2, "and how long it waited is known"

    run(main)


@pytest.mark.parametrize("step", [HOUR_NS, -HOUR_NS, 20_000_000, -20_000_000])
def test_a_wall_clock_that_was_set_moves_no_answer(step: int) -> None:
    async def main() -> None:
        stamps = Stamps()
        async with connected(stamps) as (reads, other):
            await warm(reads, other)
            del reads.pieces[:]
            stamps.offset += step  # as if the wall clock had been set since both were read
            before = monotonic_ns()
            other.send(b"token")
            await until(lambda: bool(reads.pieces))
            assert before <= reads.pieces[0][1] <= monotonic_ns()

    run(main)


def test_no_answer_comes_before_its_request_nor_before_the_piece_in_front_of_it() -> None:
    async def main() -> None:
        stamps = Stamps()
        async with connected(stamps) as (reads, other):
            await warm(reads, other)
            for number in range(50):
                stamps.offset += (number % 3 - 1) * 400_000  # a clock that is known badly
                sent = monotonic_ns()
                reads.transport.write(b"?")
                other.recv(1)
                other.send(b"!")
                before = len(reads.pieces)
                await more_than(reads, before)
                assert reads.pieces[-1][1] >= sent
            times = [at for _, at in reads.pieces]
            assert times == sorted(times)
            assert min(stamps.lags) >= 0

    run(main)


def test_a_request_longer_than_the_sockets_buffers_arrives_whole() -> None:
    async def main() -> None:
        async with connected(Stamps()) as (reads, other):
            long = bytes(range(256)) * 40_000
            reads.transport.write(long[:9_000_000])
            reads.transport.write(long[9_000_000:])

            def read_all() -> bytes:
                got = bytearray()
                while len(got) < len(long):
                    got += other.recv(65536)
                return bytes(got)

            assert await asyncio.to_thread(read_all) == long
            other.send(b"thanks")
            await until(lambda: reads.text == b"thanks")

    run(main)


def test_the_end_of_a_connection_is_told_once_and_a_reset_as_one() -> None:
    async def main() -> None:
        async with connected(Stamps()) as (reads, other):
            other.send(b"last")
            other.shutdown(socket.SHUT_WR)
            await until(lambda: bool(reads.lost))
            assert (reads.text, reads.lost) == (b"last", [None])
            reads.transport.write(b"nobody reads this")
            reads.transport.close()
        async with connected(Stamps()) as (reads, other):
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.close()
            await until(lambda: bool(reads.lost))
            assert isinstance(reads.lost[0], ConnectionResetError)

    run(main)


def test_a_reset_that_comes_with_the_last_data_is_noticed_and_the_data_kept() -> None:
    """A loop that stands still finds both at once, and libuv tells it only once."""

    async def main() -> None:
        stamps = Stamps()
        stamps.begin()
        async with connected(stamps) as (reads, other):
            await warm(reads, other)
            del reads.pieces[:]
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.send(b"last")
            other.close()
            await until(lambda: bool(reads.lost))
            assert reads.text == b"last"
            assert isinstance(reads.lost[0], ConnectionResetError)
        assert not stamps.wires

    run(main)


def test_a_connection_that_is_refused_is_an_error_of_the_system() -> None:
    async def main() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionRefusedError):
                await wire.connect("127.0.0.1", bound.getsockname()[1], Reads(), Stamps())

    run(main)
