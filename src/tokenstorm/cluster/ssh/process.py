"""The user's own ssh as a process: start it, read what it says, end it, and write its arguments."""

import asyncio
import contextlib
import os
import signal
import sys
import termios
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from tokenstorm.cluster.ssh.tty import restore
from tokenstorm.errors import UsageError
from tokenstorm.printable import printable

NOISE_BYTES = 2**20
"""What a site's start-up files may print."""


async def start(*arguments: str, terminal: bool = False) -> Process:
    """An ssh. Without our terminal, Ctrl-C there does not end it."""
    try:
        return await asyncio.create_subprocess_exec(
            "ssh",
            *arguments,
            stdin=DEVNULL if terminal else PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=not terminal,
            limit=NOISE_BYTES,
        )
    except FileNotFoundError:
        message = 'there is no ssh on this machine: install it, or leave out ssh.shell = "openssh"'
        raise UsageError(message) from None


async def hear(process: Process, heard: bytearray, *, aloud: bool) -> None:
    """What an ssh says, kept, and passed on to our own standard error."""
    assert process.stderr
    while part := await process.stderr.read(NOISE_BYTES):
        heard += part
        del heard[:-NOISE_BYTES]  # a command on the way may go on talking for days
        if aloud:
            sys.stderr.write(printable(part.decode(errors="replace")))
            sys.stderr.flush()


async def ended(process: Process, *, politely: bool = False) -> None:
    """End it, if it has not. One that may have a terminal in its hands is first given the time to let go of it.

    Process.wait() would also wait for the end of its streams, and a master, or an ssh to a jump host, holds those as long
    as the command runs on the server.
    """
    for number, turns in ((signal.SIGTERM, 200), (signal.SIGKILL, None)) if politely else ((signal.SIGKILL, None),):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)  # Process.kill() takes away the status that asyncio waits for
        for _ in count() if turns is None else range(turns):
            if process.returncode is not None:
                break
            await asyncio.sleep(0.01)
    if process.stdin is not None:
        giving = process.stdin.transport
        if giving.get_write_buffer_size() or not giving.is_closing():
            giving.abort()  # it would wait for somebody to read the rest
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public closes our ends of its streams
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            await process.stdin.wait_closed()
    for stream in (process.stdout, process.stderr):
        while stream is not None and await stream.read(NOISE_BYTES):
            pass  # up to the end, by which it is closed


@contextlib.contextmanager
def same_terminal() -> Iterator[None]:
    """Restore the terminal's settings afterwards: an ssh that ends at its prompt leaves echo off."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        yield
        return
    was = termios.tcgetattr(terminal)
    try:
        yield
    finally:
        restore(terminal, was)
        os.close(terminal)


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("-o", setting)]


def escaped(path: Path) -> str:
    """As ssh reads a path: a percent sign begins a token."""
    return str(path).replace("%", "%%")


def quoted(path: Path) -> str:
    return f'"{escaped(path)}"'


def words(said: bytes) -> str:
    return " ".join(said.decode(errors="replace").split())
