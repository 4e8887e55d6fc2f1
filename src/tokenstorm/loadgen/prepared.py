"""A prepared workload: all rows of a run in one file, which every rank reads in stripes and none has in memory.

The file is the rows one after the other, as msgpack; then where each row begins, where the last one ends, and when each is due,
as 64-bit integers; then where those begin, and how many rows there are. It is pinned by its SHA-256.
"""

import hashlib
import os
import sys
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from struct import Struct as Layout
from typing import Final, Generic, TypeVar

import msgspec

from tokenstorm.errors import RunError

AT_ONCE: Final = 256
"""So many rows are read at a time."""
CHUNK_BYTES: Final = 1 << 20
_MAGIC: Final = b"tokenstorm workload 1\n"
_TAIL: Final = Layout("<QQ")
"""Where the integers begin, and how many rows there are."""


T = TypeVar("T")


class Workload(msgspec.Struct, frozen=True):
    """A prepared workload: its file, which every rank must be able to read, and how many rows it has."""

    path: str
    sha256: str
    rows: int


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What one request asks: so many tokens of the blocks `ids`, or of a text of its own; for so many tokens of an answer."""

    input: int
    output: int
    ids: list[int]


_encode = msgspec.msgpack.Encoder().encode


def write_prepared(path: Path, rows: Iterable[tuple[int, msgspec.Struct]]) -> Workload:
    """Write the rows, each a struct with its time, into a file for this user alone. Raises OSError, and what `rows` raises."""
    places, times = array("Q"), array("q")
    digest, at = hashlib.sha256(), 0
    parts: list[bytes] = []
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:

        def flush() -> None:
            piece = b"".join(parts)
            parts.clear()
            digest.update(piece)
            file.write(piece)

        parts.append(_MAGIC)
        at = len(_MAGIC)
        for due, entry in rows:
            data = _encode(entry)
            places.append(at)
            times.append(due)
            parts.append(data)
            at += len(data)
            if len(parts) > AT_ONCE:
                flush()
        places.append(at)
        for index in (places, times):
            if sys.byteorder == "big":
                index.byteswap()
            parts.append(index.tobytes())
        parts.append(_TAIL.pack(at, len(times)))
        flush()
    new.replace(path)
    return Workload(path=str(path), sha256=digest.hexdigest(), rows=len(times))


class Rows(Generic[T]):
    """The rows of a prepared workload, for one rank. Rows that are next are read ahead, by a thread.

    `kind` is what the rows are, and `stripe` the order in which they are asked for. Raises `RunError` for a file that is not the one that was prepared.
    """

    def __init__(self, workload: Workload, stripe: Iterable[int], kind: type[T]) -> None:
        self._file = _opened(workload)
        end = os.fstat(self._file).st_size - _TAIL.size
        index_at, count = _TAIL.unpack(os.pread(self._file, _TAIL.size, end))
        self._places = _numbers(self._file, "Q", index_at, count + 1)
        self._times_at: int = index_at + 8 * (count + 1)
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._stripe = iter(stripe)
        self._reader = ThreadPoolExecutor(1, "rows")
        self._here: dict[int, bytes] = {}
        self._coming = self._read_ahead()

    def __len__(self) -> int:
        return len(self._places) - 1

    def times(self) -> "array[int]":
        """When each row is due, in nanoseconds from the start."""
        return _numbers(self._file, "q", self._times_at, len(self))

    def __getitem__(self, index: int) -> T:
        """A row; those of the stripe were read ahead, in its order."""
        data = self._here.pop(index, None)
        if data is None:
            if self._coming.done():
                self._here.update(self._coming.result())
                self._coming = self._read_ahead()
            data = self._here.pop(index, None) or self._read(index)
        return self._decode(data)

    def close(self) -> None:
        """Let go of the file."""
        self._reader.shutdown(cancel_futures=True)
        os.close(self._file)

    def _read_ahead(self) -> "Future[dict[int, bytes]]":
        self._here = dict(list(self._here.items())[-AT_ONCE:])  # of rows that nobody asked for
        return self._reader.submit(self._read_next)

    def _read_next(self) -> dict[int, bytes]:
        return {index: self._read(index) for index in islice(self._stripe, AT_ONCE)}

    def _read(self, index: int) -> bytes:
        start = self._places[index]
        return os.pread(self._file, self._places[index + 1] - start, start)


def _opened(workload: Workload) -> int:
    """The file, if it holds what was prepared."""
    digest = hashlib.sha256()
    try:
        file = os.open(workload.path, os.O_RDONLY)
        for piece in _pieces(file):
            digest.update(piece)
    except OSError as error:
        message = f"cannot read the prepared workload {workload.path}: {error.strerror}"
        raise RunError(message) from None
    if digest.hexdigest() != workload.sha256:
        os.close(file)
        message = f"{workload.path} is not what was prepared for this run (its SHA-256 differs): start the run again"
        raise RunError(message)
    return file


def _pieces(file: int) -> Iterator[bytes]:
    while piece := os.read(file, CHUNK_BYTES):
        yield piece


def _numbers(file: int, kind: str, at: int, count: int) -> "array[int]":
    numbers = array(kind)
    numbers.frombytes(os.pread(file, 8 * count, at))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
