"""One engine process, and what it says when it is asked."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import httptools

from tokenstorm.hosts import in_url
from tokenstorm.node import ports, words
from tokenstorm.node.keeper import Slot
from tokenstorm.node.log import Log
from tokenstorm.node.readiness import Answer
from tokenstorm.runs import signal_name

LEAVE_SECONDS = 5.0
"""How long an engine has after TERM, before KILL. Shorter than what the scheduler gives us."""
POLL_SECONDS = 0.1
TOLD_SECONDS = 0.5
"""How much later than its engine a wrapper may be told that both must end."""
LOOKED_AT = 65536
"""Bytes of a log's end that are searched for what an engine said last."""
LARGEST_ANSWER = 1_000_000
"""Bytes of an answer that are read; a list of models or a token is far shorter."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Engine(subprocess.Popen[bytes]):
    """The process of an engine, and what keeps its log."""

    log: Log


def start(command: Sequence[str], environment: Mapping[str, str], path: Path, slot: Slot) -> Engine:
    """Start an engine that ends when we do with all that it started, however we end. Raises OSError."""
    parent = os.getpid()

    def end_with_us() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # we ended before the kernel knew of the wish
            os._exit(1)
        slot.remember_me()

    log = Log(path)
    try:
        engine = Engine(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log.pipe,
            stderr=log.pipe,
            env=environment,
            process_group=0,
            preexec_fn=end_with_us,
        )
    except OSError:
        slot.forget()
        raise
    finally:
        os.close(log.pipe)
    engine.log = log
    return engine


async def ended(process: Engine) -> None:
    """Wait until an engine has ended by itself. The end of a job reaches engines and wrapper at the same time."""
    while process.poll() is None:  # noqa: ASYNC110 - another process sets no event
        await asyncio.sleep(POLL_SECONDS)
    await asyncio.sleep(TOLD_SECONDS)


async def stop(process: Engine, slot: Slot, mark: bytes | None = None) -> None:
    """TERM to an engine and its workers, KILL to what is left, also where a container's runtime put it elsewhere."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS):
            while process.poll() is None:  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):  # its workers may be there although it is not
        os.killpg(process.pid, signal.SIGKILL)
    for pid in ports.marked(mark) if mark else ():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    slot.forget()
    await asyncio.to_thread(process.log.finish)


def not_started(error: OSError) -> str:
    """In words, why an engine could not be started."""
    where = f"{error.filename}: " if error.filename else ""
    return f"cannot start the engine: {where}{error.strerror}"


def how_it_ended(process: Engine) -> str:
    """In words, how an engine ended: with a status, or by a signal."""
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


async def ask(
    host: str, port: int, path: str, key: str | None, body: bytes | None = None, *, seconds: float | None = None
) -> Answer:
    """A GET, or a POST of JSON, and what came back within `seconds`. No proxy has a say in it."""
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {in_url(host)}:{port}",
        "Connection: close",
    ]
    lines += [] if body is None else ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [] if key is None else [f"Authorization: Bearer {key}"]
    lines += ["User-Agent: tokenstorm", "Accept-Encoding: identity", "", ""]
    answer = _Answer()
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write("\r\n".join(lines).encode() + (body or b""))
                while not answer.complete and (piece := await reader.read(65536)):
                    answer.take(piece)
            finally:
                writer.close()
    except TimeoutError:
        return Answer(None, trouble=f"within {seconds:g} s" if seconds else "timed out")
    except OSError as error:
        return Answer(None, trouble=error.strerror or str(error))
    except httptools.HttpParserError:
        return Answer(None, trouble="it speaks no HTTP")
    return answer.whole()


class _Answer:
    """One answer as it comes; httptools calls what begins with `on_`."""

    def __init__(self) -> None:
        self.complete = False
        self._status: int | None = None
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)

    def take(self, piece: bytes) -> None:
        """Raises httptools.HttpParserError."""
        self._parser.feed_data(piece)

    def whole(self) -> Answer:
        """What came; an answer whose end is the connection's counts, too."""
        return Answer(self._status, self._body, "" if self._status else "it closed the connection")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        if len(self._body) < LARGEST_ANSWER:
            self._body += piece

    def on_message_complete(self) -> None:
        self.complete = True
