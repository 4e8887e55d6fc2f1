"""One engine process, and what it says when it is asked."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenstorm.node import words
from tokenstorm.node.keeper import Slot
from tokenstorm.runs import signal_name

LEAVE_SECONDS = 5.0
"""How long an engine has after TERM, before KILL. Shorter than what the scheduler gives us."""
PROBE_SECONDS = 5.0
LOOKED_AT = 65536
"""Bytes of a log's end that are searched for what an engine said last."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def start(command: Sequence[str], environment: Mapping[str, str], log: Path, slot: Slot) -> subprocess.Popen[bytes]:
    """Start an engine that ends when we do with all that it started, however we end. Raises OSError."""
    parent = os.getpid()

    def end_with_us() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # we ended before the kernel knew of the wish
            os._exit(1)
        slot.remember_me()

    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - an argv from the service's own file
            command,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            env=environment,
            process_group=0,
            preexec_fn=end_with_us,  # noqa: PLW1509 - it takes no lock that a thread could hold
        )
    except OSError:
        slot.forget()
        raise
    finally:
        os.close(handle)


async def stop(process: subprocess.Popen[bytes], slot: Slot) -> None:
    """TERM to an engine and its workers, KILL to what is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS):
            while process.poll() is None:  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):  # its workers may be there although it is not
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    slot.forget()


def not_started(error: OSError) -> str:
    """Why an engine could not be started, in words."""
    where = f"{error.filename}: " if error.filename else ""
    return f"cannot start the engine: {where}{error.strerror}"


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """By itself or by a signal, in words."""
    code = process.returncode
    return f"the engine ended with status {code}" if code >= 0 else f"the engine was killed by {signal_name(-code)}"


def said(log: Path, secret: str) -> str:
    """What an engine said last, as the end of a sentence, without its secret; nothing if it was silent."""
    told = last_words(log, secret)
    return f"; the last it said: {told}" if told else ""


def last_words(log: Path, secret: str) -> str:
    """What an engine said last, without its secret."""
    try:
        with log.open("rb") as file:
            begin = max(0, log.stat().st_size - LOOKED_AT)
            file.seek(begin)
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    text = text[len(secret) :] if begin else text  # it may begin with a part of the secret
    return words.last_words(text.replace(secret, "…"))


async def ask(host: str, port: int, path: str, key: str | None) -> int | None:
    """The status of a GET, or None when there was no answer. No proxy has a say in it."""
    name = f"[{host}]" if ":" in host else host
    head = f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n"
    if key is not None:
        head += f"Authorization: Bearer {key}\r\n"
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"{head}\r\n".encode())
                words = (await reader.readline()).split()
            finally:
                writer.close()
    except (OSError, ValueError):
        return None
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None
