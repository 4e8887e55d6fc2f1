"""An engine whose answers are any of those that real servers were seen to give, cut anywhere, with any end."""

import asyncio
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from streams import USAGE, chunk, sse

TEXT = sse(chunk({"content": "a"}))
FINISH = sse(chunk({}, "stop"))
DONE = b"data: [DONE]\n\n"


def streamed(*events: bytes) -> bytes:
    """Each event in a chunk of its own."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


def whole(body: object, status: str = "200 OK", headers: str = "") -> bytes:
    """An answer in one piece."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\n{headers}content-length: {len(data)}\r\n\r\n".encode() + data


def _usage(**counts: object) -> bytes:
    return sse(chunk(usage={**USAGE, **counts}))


ANSWERS: dict[str, bytes] = {
    "well": streamed(TEXT, TEXT, TEXT, FINISH, _usage(), DONE),
    "well, from one template": streamed(*[TEXT] * 20, FINISH, DONE),
    "no end": streamed(TEXT, TEXT),
    "usage everywhere, no end": streamed(*[sse(chunk({"content": "a"}, usage=USAGE))] * 3),
    "huge usage": streamed(TEXT, FINISH, _usage(completion_tokens=2**64, prompt_tokens=10**30), DONE),
    "negative usage": streamed(TEXT, FINISH, _usage(completion_tokens=-5, prompt_tokens=-(2**70)), DONE),
    "usage in words": streamed(TEXT, FINISH, _usage(completion_tokens="many"), DONE),
    "error": streamed(TEXT, sse({"error": {"message": "boom"}}), DONE),
    "error, no end": streamed(TEXT, sse({"error": {"message": "boom"}}))[:-5],
    "too many tokens": streamed(TEXT, FINISH, _usage(completion_tokens=10**6), DONE),
    "bare end": streamed(TEXT, b"[DONE]\n\n"),
    "gave up": streamed(TEXT, sse(chunk({}, "network_error")), DONE),
    "error event": streamed(TEXT, b'event: error\ndata: {"x": 1}\n\n'),
    "error line": streamed(TEXT, b"error: boom\n\n", DONE),
    "detail": streamed(sse({"detail": "boom"}), DONE),
    "whole": whole({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": USAGE}),
    "whole error": whole({"message": "boom", "code": 500}),
    "empty": streamed(FINISH, DONE),
    "nothing": whole(b""),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "page": whole(b"<html>\n\nwelcome</html>"),
    "gzip": whole(b"\x1f\x8b\x08\x00\xff", headers="content-encoding: gzip\r\n"),
    "redirect": whole(b"", "302 Found", "location: http://elsewhere/\r\n"),
    "503": whole(b"", "503 Service Unavailable"),
    "429": whole({"error": {"message": "slow down"}}, "429 Too Many Requests"),
    "tools": streamed(sse(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]})), FINISH, DONE),
    "surrogate": streamed(TEXT, TEXT.replace(b'"a"', b'"\\ud83d"'), TEXT, FINISH, DONE),
    "surrogate id": streamed(TEXT.replace(b"chatcmpl", b"\\ud83d"), FINISH, DONE),
    "not UTF-8": streamed(TEXT, TEXT.replace(b'"a"', b'"\xff"'), TEXT, FINISH, DONE),
    "escapes": streamed(TEXT, TEXT.replace(b'"a"', b'"\\x"'), TEXT.replace(b'"a"', b'"\\n\\""'), FINISH, DONE),
    "CR": streamed(TEXT.replace(b"\n", b"\r"), DONE.replace(b"\n", b"\r")),
    "mark": streamed(b"\xef\xbb\xbf" + TEXT, DONE),
    "empty data": streamed(TEXT, b"data:\n\n", DONE),
    "comment as data": streamed(b"data: : hi\n\n", TEXT, DONE),
    "other objects": streamed(TEXT, b"data: {}\n\ndata: null\n\ndata: 7\n\n", DONE),
    "odd types": streamed(sse({**chunk({"content": "a"}), "id": 12, "usage": "x", "created": []}), FINISH, DONE),
    "no choices": streamed(sse({"choices": "none"}), DONE),
    "deep": streamed(b"data: " + b"[" * 50_000 + b"\n\n", TEXT, DONE),
    "deep content": streamed(sse(chunk({"content": [[[["a"]]]]})), DONE),
    "long": streamed(sse(chunk({"content": "x" * 200_000})), FINISH, DONE),
    "control": streamed(sse({"error": {"message": "\x1b[2J\u202e\n\x00"}})),
    "101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello",
    "100 first": b"HTTP/1.1 100 Continue\r\n\r\n" + streamed(TEXT, FINISH, DONE),
    "bad length": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "old": b"HTTP/1.0 200 OK\r\n\r\n" + TEXT + FINISH + DONE,
    "999": whole(b"?", "999 What"),
    "twice": streamed(TEXT, FINISH, DONE) + streamed(TEXT, FINISH, DONE),
    "long header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 600_000,
}
"""By name; each is the whole of what is written for one request."""

ENDS = ("stay", "close", "reset", "break")
"""What the connection does after the answer; with `break` it is closed somewhere in the middle of it."""
ABORT = struct.pack("ii", 1, 0)


def kind_of(seq: int) -> tuple[str, str]:
    """Which answer, and which end of its connection, the request with this number gets."""
    names = list(ANSWERS)
    return names[seq % len(names)], ENDS[seq // len(names) % len(ENDS)]


class _Server:
    """Serves connections until it is stopped."""

    def __init__(self, seed: int, answer_of: Callable[[int], tuple[bytes, str]]) -> None:
        self._cuts = random.Random(seed)
        self._answer_of = answer_of
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if head.startswith("get"):
            writer.write(whole({"data": [{"id": "odd"}]}))
            return True
        await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        number = head.partition("x-request-id: ")[2].split()[0].rpartition("-")[2]
        data, end = (ANSWERS["well"], "stay") if number == "preflight" else self._answer_of(int(number))
        if end == "break":
            data = data[: int(number) * 37 % 97 * len(data) // 97]  # the same for each seed
        for piece in self._cut(data):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(self._cuts.choice((0, 0, 0.002)))
        if end == "stay":
            return True
        await asyncio.sleep(0.05)  # what was written arrives, which a reset would take back
        if end == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            writer.transport.abort()
        return False

    def _cut(self, data: bytes) -> list[bytes]:
        if data == ANSWERS["twice"]:
            return [data]  # a second answer that comes later is the next request's, for all that anybody can tell
        places = range(self._cuts.choice((0, 1, 3, 12)))
        edges = sorted({0, len(data), *(self._cuts.randrange(len(data) + 1) for _ in places)})
        return [data[begin:end] for begin, end in pairwise(edges)]


def each_kind(seq: int) -> tuple[bytes, str]:
    """Every answer with every end, in turn."""
    name, end = kind_of(seq)
    return ANSWERS[name], end


@contextmanager
def odd_server(seed: int, answer_of: Callable[[int], tuple[bytes, str]] = each_kind) -> Iterator[str]:
    """Gives request n its answer in pieces that `seed` decides; its URL."""
    loop = asyncio.new_event_loop()
    odd = _Server(seed, answer_of)
    listening = loop.run_until_complete(asyncio.start_server(odd.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def stop() -> None:
        listening.close()
        await odd.stop()
        loop.stop()

    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop)
        thread.join()
        loop.close()
