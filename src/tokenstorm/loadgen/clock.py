"""An alarm that rings at an absolute time of `time.monotonic_ns()`.

Event loops know timers of a millisecond, some of which fire early. Where the kernel has timerfd, the alarm is exact to
some tens of microseconds; elsewhere it falls back to the loop's timers. It never rings early.
"""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from time import monotonic_ns

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC if sys.platform == "linux" else 0
_TFD_TIMER_ABSTIME = 1


LOOK_SECONDS = 0.1


async def wait_within(seconds: float, future: asyncio.Future[None]) -> None:
    """Wait for `future`, at most this long. Raises TimeoutError.

    Time in which this loop stood still does not count: what came meanwhile is read before the time is up.
    """
    left = seconds
    while left > 0:
        step, before = min(left, LOOK_SECONDS), monotonic_ns()
        if (await asyncio.wait([future], timeout=step))[0]:
            return
        left -= min(step, (monotonic_ns() - before) / 1e9)
    for _ in range(2):  # a whole turn of the loop, in which it looks at its sockets
        await asyncio.sleep(0)
    if not future.done():
        raise TimeoutError


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Calls `ring` at the time that was set last; one time at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]) -> None:
        self._loop = loop
        self._ring = ring
        self._at: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._spec = _Itimerspec()
        self._spec_pointer = ctypes.byref(self._spec)
        self._has_opened = False
        self._fd = -1

    def set(self, at: int | None) -> None:
        """Ring at `at` instead of any time set before; with None, do not ring. A past time rings at once."""
        if at == self._at:
            return
        self._at = at
        self._arm()

    def close(self) -> None:
        """Never ring again."""
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._has_opened = True
        if sys.platform == "linux":
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._wake)

    def _arm(self) -> None:
        if self._fd >= 0:
            value = self._spec.value
            value.seconds, value.nanoseconds = (
                divmod(max(1, self._at), 1_000_000_000) if self._at is not None else (0, 0)
            )
            self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._spec_pointer, None)
        elif not self._has_opened:
            self._open()
            self._arm()
        else:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._at is not None:
                self._timer = self._loop.call_later(max(0, self._at - monotonic_ns()) / 1e9, self._wake)

    def _wake(self) -> None:
        if self._at is None:
            return
        if monotonic_ns() < self._at:
            self._arm()
            return
        self._at = None
        self._ring()
        if self._at is None:
            self._arm()  # a timerfd stays readable until it is set anew
