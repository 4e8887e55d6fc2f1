"""What an engine prints, kept in a file. It goes through a pipe: a print that fails for a full disk would end the engine."""

import os
import select
import threading
from pathlib import Path

AGAIN_SECONDS = 1.0
LAST_SECONDS = 5.0
"""How long what an engine said last is tried to be written, once nobody says more."""
KEPT = 1_000_000
"""Bytes that wait for a file system that takes none; beyond that the oldest are given up."""


class Log:
    """Reads from a pipe until nobody holds its other end, `pipe`, and appends to a file. Raises OSError for want of a pipe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._unsaid = b""
        self._write()  # so that the file is there from the beginning
        self._reading, self.pipe = os.pipe()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until all is written, unless somebody else goes on printing. Blocks."""
        self._thread.join(LAST_SECONDS)

    def _keep(self) -> None:
        while True:
            waits = AGAIN_SECONDS if self._unsaid else None
            if select.select([self._reading], [], [], waits)[0]:
                piece = os.read(self._reading, 65536)
                if not piece:
                    break
                self._unsaid = (self._unsaid + piece)[-KEPT:]
            self._write()
        os.close(self._reading)
        for _ in range(int(LAST_SECONDS / AGAIN_SECONDS)):
            self._write()
            if not self._unsaid:
                break
            select.select([], [], [], AGAIN_SECONDS)
        if self._file is not None:
            os.close(self._file)

    def _write(self) -> None:
        """As much as the file takes now."""
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            while self._unsaid:
                self._unsaid = self._unsaid[os.write(self._file, self._unsaid) :]
        except OSError:  # full, or stale: opened anew, and tried again in a second
            if self._file is not None:
                os.close(self._file)
                self._file = None
