"""Result lines go to disk in a thread of their own, so that the event loop never touches a file."""

import os
import threading
from collections import deque
from pathlib import Path
from time import monotonic_ns

from tokenstorm.metrics.verdict import DiskReport

INTERVAL_SECONDS = 0.2
QUEUE_BYTES = 256_000_000
"""What may wait for a stalled disk: about half a million lines. Beyond that, lines are lost and counted."""
STALL_NS = 500_000_000


class LineWriter:
    """Appends lines to one file. `put` never blocks; a full disk is tried again until `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: deque[tuple[bytes, int]] = deque()
        self._queued_bytes = 0
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
        if self._queued_bytes > QUEUE_BYTES:
            self._lost += lines
            return
        self._queued_bytes += len(block)
        self._queue.append((block, lines))

    def close(self, timeout: float) -> DiskReport:
        """Write what is queued, within `timeout` seconds; what does not get there is counted as lost."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        self._lost += sum(lines for _, lines in self._queue)
        return self.report()

    def report(self) -> DiskReport:
        """How the disk did so far, a write that is still going on included."""
        since = self._writing_since
        ongoing = monotonic_ns() - since if since else 0
        stalls = self._stalls + (ongoing > STALL_NS)
        return DiskReport(max(self._slowest, ongoing) / 1e9, stalls, self._lost, self._error)

    def _run(self) -> None:
        while not (self._closing and not self._queue):
            if self._queue:
                self._write_all()
            if not self._closing:
                self._wake.wait(INTERVAL_SECONDS)
            elif self._error:
                return
        os.close(self._fd)

    def _write_all(self) -> None:
        taken = [self._queue.popleft() for _ in range(len(self._queue))]
        data = memoryview(b"".join(block for block, _ in taken))
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
        if data:
            rest = bytes(data)
            self._queue.appendleft((rest, rest.count(b"\n")))
        self._queued_bytes -= sum(len(block) for block, _ in taken) - len(data)
