"""The launcher's port: ranks connect here, and those who hold the run's secret ask and command."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping

import msgspec

from tokenstorm.errors import RunError
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.loadgen.live import Event, Status, TimelineLine
from tokenstorm.loadgen.messages import COMMANDS, PROTOCOL
from tokenstorm.loadgen.progress import Progress
from tokenstorm.prometheus import MEDIA_TYPE

KEEP_ALIVE_SECONDS = 60.0

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[object, object, None]]


class Port:
    """Answers requests about one run.

    `accept` talks to a rank that connects; `obey` carries out a command and returns False for one that it does not know.
    """

    def __init__(self, secret: str, progress: Progress, *, accept: Accept, obey: Callable[[str], bool]) -> None:
        self._secret = secret
        self._progress = progress
        self._accept = accept
        self._obey = obey
        self._followers: list[Reply] = []

    async def listen(self, host: str) -> asyncio.Server:
        """Listen on a free port of this machine's address `host`. Raises `RunError`."""
        try:
            return await serve(self._answer, host, 0, keep_alive=KEEP_ALIVE_SECONDS, has_key=self._has_secret)
        except OSError as error:
            message = f"cannot listen on `host` {host!r}: it must be an address of this machine ({error})"
            raise RunError(message) from None

    def publish(self, status: Status, line: TimelineLine | None) -> None:
        """Send a second to everyone who follows the run, without its histograms. A slow reader misses seconds."""
        line = line and msgspec.structs.replace(line, histograms={})
        event = msgspec.json.encode(Event(status, line)) + b"\n"
        self._followers = [follower for follower in self._followers if not follower.closed]
        for follower in self._followers:
            if not follower.paused:
                follower.write(event)

    def dismiss_followers(self, status: Status) -> None:
        """Send the last status to everyone who follows the run, and end their answers."""
        self.publish(status, None)
        for follower in self._followers:
            follower.end()
        self._followers.clear()

    def _has_secret(self, headers: Mapping[str, str]) -> bool:
        return secrets.compare_digest(headers.get("authorization", "").encode(), f"Bearer {self._secret}".encode())

    def _answer(self, request: Request, reply: Reply) -> None:
        if not self._has_secret(request.headers):
            reply.send(401, b'{"detail": "this port wants the run\'s secret as a bearer token"}')
            return
        match request.verb, request.path:
            case "GET", "/rank":
                if request.headers.get("upgrade") != PROTOCOL:
                    reply.send(426, b'{"detail": "ranks connect here, with an upgrade"}')
                    return
                reply.spawn(self._accept(*reply.upgrade(PROTOCOL)))
            case "GET", "/status":
                reply.send(200, msgspec.json.encode(self._progress.status()))
            case "GET", "/metrics":
                reply.send(200, self._progress.metrics(), MEDIA_TYPE)
            case "GET", "/timeline":
                reply.send(200, msgspec.json.encode(self._progress.last_line))
            case "GET", "/events":
                reply.start(200, "application/x-ndjson")
                self._followers.append(reply)
            case "POST", "/control":
                if self._obey(request.body.decode(errors="replace")):
                    reply.send(202, b'{"status": "accepted"}')
                else:
                    reply.send(422, msgspec.json.encode({"detail": f"say one of {COMMANDS}"}))
            case _:
                reply.send(404, b'{"detail": "there is /status, /metrics, /timeline, /events and /control"}')
