"""An engine that remembers what it was asked and what it answered, over real sockets, in a thread of its own."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any

ODD = 'a "quote", a \\, a line\nbreak, 日本 and \N{GRINNING FACE} '
"""What JSON must escape, or has in more bytes than characters."""


@dataclass
class Asked:
    """One request: its messages, the answer that it got, and when (nanoseconds of this machine's monotonic clock)."""

    messages: list[dict[str, Any]]
    answer: str
    body: dict[str, Any]
    received: int
    ended: int


@dataclass
class Talker:
    """The engine. Its answers differ with what was said. `fails` are questions that it refuses, `context` is the model's."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    context: int | None = None
    fails: str = ""

    def conversations(self) -> dict[str, list[Asked]]:
        """What was asked, by what was said until the first answer, in the order of the turns."""
        found: dict[str, list[Asked]] = {}
        for asked in sorted(self.asked, key=lambda one: len(one.messages)):
            found.setdefault(json.dumps(asked.messages[: 1 + (asked.messages[0]["role"] == "system")]), []).append(
                asked
            )
        return found

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                received = monotonic_ns()
                length = [
                    line.split(":")[1] for line in head.lower().split("\r\n") if line.startswith("content-length")
                ]
                body = json.loads(await reader.readexactly(int(length[0]))) if length else {}
                if not head.startswith("POST"):
                    model: dict[str, Any] = {"id": "m"} | ({"max_model_len": self.context} if self.context else {})
                    self._whole(writer, 200, {"data": [model]})
                elif "messages" not in body or "/chat/completions" not in head:
                    self._whole(writer, 404, {})
                else:
                    await self._answer(writer, body, received, counted="-preflight" not in head)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, body: dict[str, Any], received: int, *, counted: bool
    ) -> None:
        messages = body["messages"]
        tokens = sum(len(message["content"].split()) for message in messages)
        if self.context and tokens + body["max_tokens"] > self.context:
            self._whole(writer, 400, {"error": {"message": "the conversation is too long"}})
            return
        if self.fails and self.fails in messages[-1]["content"]:
            self._whole(writer, 500, {"error": {"message": "no answer to that"}})
            return
        answer = ODD + hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:8]
        usage = {
            "prompt_tokens": tokens,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": tokens // 2},
        }
        if body["stream"]:
            pieces = [answer[:5], answer[5:12], answer[12:30], answer[30:]]
            events: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
            events += [
                {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces
            ]
            events += [
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {"choices": [], "usage": usage},
            ]
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for event in [*map(json.dumps, events), "[DONE]"]:
                data = f"data: {event}\n\n".encode()
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            ended = monotonic_ns()
            writer.write(b"0\r\n\r\n")
        else:
            ended = monotonic_ns()
            choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
            self._whole(writer, 200, {"choices": [choice], "usage": usage})
        if counted:
            self.asked.append(Asked(messages, answer, body, received, ended))

    @staticmethod
    def _whole(writer: asyncio.StreamWriter, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        writer.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%b" % (status, len(data), data))


@contextmanager
def talker(context: int | None = None, fails: str = "") -> Iterator[Talker]:
    """A talker that listens on loopback."""
    made, loop, ready = Talker(context=context, fails=fails), asyncio.new_event_loop(), threading.Event()

    async def listen() -> asyncio.Server:
        server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        return server

    def work() -> None:
        server = loop.run_until_complete(listen())
        loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
