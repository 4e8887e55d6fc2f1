"""Writes result lines in a thread, so that the event loop never touches a file."""

import os
import threading
from collections import deque
from pathlib import Path
from time import monotonic_ns

from tokenstorm.metrics.reports import DiskReport

INTERVAL_SECONDS = 0.2
WRITE_BYTES = 1_000_000
"""The size of one write. Joining more would keep other threads from running."""
QUEUE_BYTES = 256_000_000
"""The most bytes that wait for a stalled disk: about half a million lines. Further lines are lost and counted."""
STALL_NS = 500_000_000


class LineWriter:
    """Appends lines to one file. `put` never blocks; a full disk is tried again until `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._queue: deque[tuple[bytes, int]] = deque()
        self._put = self._written = self._in_hand = 0  # each is changed by one thread alone
        self._wake = threading.Event()
        self._closing = False
        self._writing_since = 0
        self._slowest = self._stalls = self._lost = 0
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="result-writer", daemon=True)

    def start(self) -> None:
        """Create the file and start writing. Raises OSError."""
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._thread.start()

    def put(self, block: bytes, lines: int) -> None:
        """Queue a block of whole lines."""
        if self._put - self._written > QUEUE_BYTES:
            self._lost += lines
            return
        self._put += len(block)
        self._queue.append((block, lines))

    def close(self, timeout: float) -> DiskReport:
        """Write what is queued, within `timeout` seconds. What does not get there is counted as lost."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        self._lost += self._in_hand + sum(lines for _, lines in tuple(self._queue))
        return self.report()

    def report(self) -> DiskReport:
        """How the disk did so far, including a write that is still going on."""
        since = self._writing_since
        ongoing = monotonic_ns() - since if since else 0
        stalls = self._stalls + (ongoing > STALL_NS)
        return DiskReport(max(self._slowest, ongoing) / 1e9, stalls, self._lost, self._error, self._written)

    def _run(self) -> None:
        while not (self._closing and not self._queue):
            while self._queue and self._write_some():
                pass
            if not self._closing:
                self._wake.wait(INTERVAL_SECONDS)
            elif self._error:
                return
        os.close(self._fd)

    def _write_some(self) -> bool:
        """Write a part of the queue. Returns whether all of that part got there."""
        taken: list[bytes] = []
        size = 0
        while self._queue and size < WRITE_BYTES:
            block, lines = self._queue.popleft()
            taken.append(block)
            size += len(block)
            self._in_hand += lines
        data = memoryview(b"".join(taken))
        self._writing_since = monotonic_ns()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            self._error = None
        except OSError as error:
            self._error = f"{error.strerror} ({self._path})"
        took = monotonic_ns() - self._writing_since
        self._writing_since = 0
        self._slowest = max(self._slowest, took)
        self._stalls += took > STALL_NS
        self._written += size - len(data)
        if data:
            rest = bytes(data)
            self._queue.appendleft((rest, rest.count(b"\n")))
        self._in_hand = 0
        return not data
