"""One connection of a client: its bytes become requests, and replies go back in order."""

import asyncio
import json
import logging
from collections import deque
from dataclasses import replace
from typing import cast

import httptools

from tokenstorm.httpd.messages import PHRASES, Handler, HasKey, Reply, Request
from tokenstorm.peers import Peer, find_peer

MAX_HEAD_BYTES = 64 * 1024
PIPELINE_DEPTH = 16
SILENT_SECONDS = 60.0
LINGER_SECONDS = 2.0

_log = logging.getLogger("tokenstorm.httpd")
_STRANGER = "this port is for the user who opened it, and you are another user of this machine"
_UNKNOWN = "this port is for the user who opened it, and it cannot be told who you are"
_REFUSED = Request("", "", "", {}, b"", keep_alive=False, http_version="1.1")
_REFUSED_HEAD = replace(_REFUSED, method="HEAD")


class Connection(asyncio.Protocol):
    """One connection: parses requests, queues them, and gives them to the handler one by one."""

    def __init__(self, handler: Handler, keep_alive: float, max_body: int, has_key: HasKey | None) -> None:
        self._handler = handler
        self._has_key = has_key
        self._peer: Peer = "unknown"
        self._keep_alive = keep_alive
        self._max_body = max_body
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._reply: Reply | None = None
        self._dispatching = False
        self._idle: asyncio.TimerHandle | None = None
        self._refusal: tuple[int, str] | None = None
        self._deaf = False  # nothing more is read as HTTP: refused, upgraded or closing
        self.rest = b""  # what came after a request to upgrade
        self._messages = 0
        self._partial = self._in_head = self._is_head = False
        self._head_bytes = self._body_bytes = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self.transport: asyncio.Transport
        self.paused = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._peer = find_peer(transport.get_extra_info("socket"))
        self._wait(SILENT_SECONDS)

    def connection_lost(self, _error: Exception | None) -> None:
        self._deaf = True
        self._busy()
        self._queue.clear()
        reply, self._reply = self._reply, None
        if reply:
            reply.lose()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self.rest += data if self._refusal is None else b""
            if len(self.rest) > MAX_HEAD_BYTES:
                self.transport.pause_reading()
            return
        self._busy()
        message = self._messages
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._deaf = True
            self.rest = data[offer.args[0] :]
        except httptools.HttpParserCallbackError:
            raise  # a bug here, not a fault of the peer
        except httptools.HttpParserError as error:
            self._refuse(400, f"malformed HTTP request: {error}")
        if self._in_head and message == self._messages:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the head is larger than {MAX_HEAD_BYTES} bytes")
        self._next()

    # the parser's side

    def on_message_begin(self) -> None:
        self._messages += 1
        self._partial = self._in_head = True
        self._is_head = False
        self._head_bytes = self._body_bytes = 0
        self._url = b""
        self._headers = {}
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # trailers after a chunked body are dropped
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._is_head = self._parser.get_method() == b"HEAD"
        head_bytes = len(self._url) + sum(len(k) + len(v) for k, v in self._headers.items())
        if head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the head is larger than {MAX_HEAD_BYTES} bytes")
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body:
            self._refuse(413, f"the body is larger than {self._max_body} bytes")
        if self._peer == "stranger" and not (self._has_key and self._has_key(self._headers)):
            self._refuse(403, f"{_STRANGER}: {'open your own' if self._has_key is None else 'send its key'}")
        elif self._peer == "unknown" and self._has_key is None:
            self._refuse(401, f"{_UNKNOWN}: open it with a key, and send that")
        if "expect" in self._headers and self._refusal is None and self._reply is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._max_body:
            self._refuse(413, f"the body is larger than {self._max_body} bytes")
        if self._refusal is None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._partial = False
        if self._refusal:
            return
        version = self._parser.get_http_version()
        method = self._parser.get_method().decode("latin-1")
        path, _, query = self._url.decode("latin-1").partition("?")
        # What follows a request to upgrade may not be HTTP, even if the handler does not upgrade.
        keep = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        keep = keep and version == "1.1"
        body = b"".join(self._body)
        self._queue.append(Request(method, path, query, self._headers, body, keep, version))
        if len(self._queue) >= PIPELINE_DEPTH:
            self.transport.pause_reading()

    # the reply's side

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def finished(self, *, keep: bool) -> None:
        self._reply = None
        if not keep:
            self._deaf = True
            self._queue.clear()
            self._close()
        elif not self._dispatching:
            self._next()

    def fail(self, reply: Reply, error: Exception) -> None:
        _log.error("the handler of a request failed", exc_info=error)
        if not reply.started:
            reply.send(500, _error_body("internal error, see the server's log", 500))
        elif not reply.closed:
            reply.reset()  # half an answer must not look like a whole one

    # inside

    def _next(self) -> None:
        """Give the queued requests to the handler until one takes its time."""
        self._dispatching = True
        while self._queue and self._reply is None:
            request = self._queue.popleft()
            reply = self._reply = Reply(self, request)
            try:
                self._handler(request, reply)
            except Exception as error:  # noqa: BLE001 - logged, and answered with 500
                self.fail(reply, error)
        self._dispatching = False
        if self._reply is not None or self.transport.is_closing():
            return
        if self._refusal:
            status, message = self._refusal
            Reply(self, _REFUSED_HEAD if self._is_head else _REFUSED).send(status, _error_body(message, status))
        elif not self._deaf:
            self.transport.resume_reading()
            self._wait(SILENT_SECONDS if self._partial else self._keep_alive)

    def _close(self) -> None:
        if self._refusal and self.transport.can_write_eof():
            # Closing at once, with bytes unread, would reset the connection and lose the answer.
            self.transport.write_eof()
            self._loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()

    def _wait(self, seconds: float) -> None:
        """Close the connection if the next byte takes longer than this."""
        self._idle = self._loop.call_later(seconds, self.transport.close)

    def _busy(self) -> None:
        if self._idle:
            self._idle.cancel()
            self._idle = None

    def _refuse(self, status: int, message: str) -> None:
        """Note the first fault; it is answered when the requests before it have been."""
        if self._refusal is None:
            self._refusal = (status, message)
        self._deaf = True


def _error_body(message: str, status: int) -> bytes:
    error = {"message": message, "type": PHRASES[status], "param": None, "code": status}
    return json.dumps({"error": error}).encode()
