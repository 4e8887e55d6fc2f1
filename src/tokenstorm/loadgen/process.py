"""The process around one rank: its link to the launcher, its clock, and what it costs.

Started as `python -m tokenstorm.loadgen rank` with the launcher's address and secret in the environment, so that
neither stands on a command line.
"""

import asyncio
import gc
import os
import resource
import socket
from collections import deque
from functools import partial
from pathlib import Path
from time import monotonic_ns, process_time_ns
from typing import Any, TypeVar

from tokenstorm import __version__
from tokenstorm.errors import RunError, TokenstormError
from tokenstorm.interfaces import node_name
from tokenstorm.loadgen.arrivals import needed_ahead
from tokenstorm.loadgen.endpoint import endpoints_of
from tokenstorm.loadgen.messages import (
    Abort,
    AnyMessage,
    Ask,
    Delta,
    Done,
    Drain,
    Hello,
    Ready,
    Refused,
    Start,
    Tell,
    Welcome,
    receive,
    send,
)
from tokenstorm.loadgen.openai import Requests
from tokenstorm.loadgen.pool import Pool
from tokenstorm.loadgen.prompts import load_prompts
from tokenstorm.loadgen.rank import Rank
from tokenstorm.loadgen.replicas import Replicas
from tokenstorm.loadgen.room import Room
from tokenstorm.loadgen.sizing import allow_connections
from tokenstorm.loadgen.writer import LineWriter
from tokenstorm.program import ends

ADDRESS = "TOKENSTORM_LAUNCHER"
SECRET = "TOKENSTORM_SECRET"  # noqa: S105 - the name of a variable
PROTOCOL = "tokenstorm-rank"
FIRST_ASKS = 32
ASK_PAUSE_SECONDS = 0.01
EXCHANGES_KEPT = 32
"""Clocks drift: what was exchanged longer ago than so many seconds does not count."""
CLOSE_SECONDS = 5.0
COLLECT_SECONDS = 0.2
"""What is kept free before the start, for a last garbage collection."""
NEWS_SECONDS = 1.0
"""Who ends all processes of a job tells the launcher too, and a rank hears of it in this time."""

M = TypeVar("M", bound=AnyMessage)


def machine_clock() -> str:
    """A name for this machine's monotonic clock: two processes with the same name read the same clock."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return socket.gethostname()


class Pauses:
    """Counts and times the garbage collections of this process."""

    def __init__(self) -> None:
        self.count = 0
        self.total_ns = 0
        self.longest_ns = 0
        self._since = 0

    def __call__(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._since = monotonic_ns()
        else:
            took = monotonic_ns() - self._since
            self.count += 1
            self.total_ns += took
            self.longest_ns = max(self.longest_ns, took)

    def take_longest(self) -> int:
        """The longest pause since the last call, in nanoseconds."""
        longest, self.longest_ns = self.longest_ns, 0
        return longest


class Clock:
    """What to add to this machine's monotonic clock to get the launcher's.

    Of late exchanges the fastest way there and the fastest way back tell, be they of one exchange or not: delays that
    vary hurt far less than in the fastest round trip.
    """

    def __init__(self, *, same_machine: bool) -> None:
        self._same_machine = same_machine
        self._heard: deque[tuple[int, int]] = deque(maxlen=EXCHANGES_KEPT)

    def learn(self, tell: Tell) -> None:
        """Take in the launcher's answer."""
        self._heard.append((tell.now - tell.sent, monotonic_ns() - tell.now))

    def read(self) -> tuple[int, int]:
        """The offset, and how long a round trip took; both 0 on the launcher's machine."""
        if self._same_machine:
            return 0, 0
        there, back = (min(ways) for ways in zip(*self._heard, strict=True))
        return (there - back) // 2, there + back


class RankProcess:
    """Talks to the launcher for one rank. `run` returns the exit code."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._link = writer
        self._pauses = Pauses()
        self._finished = asyncio.Event()
        self._rank: Rank | None = None
        self._starting: asyncio.Task[None] | None = None
        self._drain_at: int | None = None
        self._told = self._deserted = self._terminating = False
        self._bug: BaseException | None = None
        self._second = 0
        self._cpu_mark = self._wall_mark = 0

    async def run(self) -> int:
        """Carry out what the launcher says, from hello to done."""
        for number in ends():
            asyncio.get_running_loop().add_signal_handler(number, self._terminated)
        hello = Hello(host=node_name(), pid=os.getpid(), version=__version__, clock=machine_clock())
        send(self._link, hello)
        welcome = await self._expect(Welcome)
        try:
            await self._prepare(welcome, same_machine=welcome.clock == hello.clock)
        except (TokenstormError, OSError) as error:
            send(self._link, Refused(reason=str(error)))
            await self._link.drain()
            return 1
        send(self._link, Ready())
        self._ask()
        asyncio.get_running_loop().set_exception_handler(self._broke)
        listening = asyncio.create_task(self._listen())
        await self._finished.wait()
        listening.cancel()
        if self._starting is not None:
            self._starting.cancel()
        await self._report()
        if self._bug is not None:
            raise self._bug
        return 0

    async def _prepare(self, welcome: Welcome, *, same_machine: bool) -> None:
        self._welcome = welcome
        plan = welcome.plan
        share = -(-plan.num_clients // welcome.ranks)
        room = Room(allow_connections(share, len(plan.targets)))
        self._prompts = load_prompts(plan)
        self._endpoints = endpoints_of(plan)
        self._pools = [Pool(endpoint, room=room) for endpoint in self._endpoints]
        self._writer = LineWriter(Path(welcome.results))
        self._writer.start()
        self._clock = Clock(same_machine=same_machine)
        if not same_machine:
            asking = asyncio.create_task(self._ask_often())
            for _ in range(FIRST_ASKS):
                self._clock.learn(await self._expect(Tell))
            await asking

    async def _ask_often(self) -> None:
        """Not one after the other: what is far away would take long."""
        for _ in range(FIRST_ASKS):
            send(self._link, Ask(sent=monotonic_ns()))
            await asyncio.sleep(ASK_PAUSE_SECONDS)

    def _ask(self) -> None:
        """Compare clocks every second, from the barrier on."""
        if not self._finished.is_set():
            send(self._link, Ask(sent=monotonic_ns()))
            asyncio.get_running_loop().call_later(1.0, self._ask)

    async def _expect(self, kind: type[M]) -> M:
        message = await receive(self._reader)
        if not isinstance(message, kind):
            text = f"the launcher is gone, or did not say {kind.__name__} but {message!r}"
            raise RunError(text)
        return message

    def _broke(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A bug in a callback ends this rank, with its lines, instead of leaving it half alive."""
        error = context.get("exception")
        if error is None or isinstance(error, OSError):
            loop.default_exception_handler(context)
        else:
            self._bug = self._bug or error
            self._finished.set()

    async def _listen(self) -> None:
        try:
            await self._hear()
        except Exception as error:  # noqa: BLE001 - it is raised again in `run`
            self._bug = error
        finally:
            self._finished.set()

    async def _hear(self) -> None:
        """Do what the launcher says until it is gone."""
        while True:
            message = await receive(self._reader)
            match message:
                case Tell():
                    self._clock.learn(message)
                case Start():
                    self._starting = asyncio.create_task(self._start(message))
                    self._starting.add_done_callback(self._started)
                case Drain():
                    self._told, self._drain_at = True, message.at
                    if self._rank:
                        self._rank.drain(message.at)
                case Abort() if self._rank:
                    self._told = True
                    self._rank.abort()
                case _:  # nobody is left who wants the numbers, or the run ends before it began
                    self._deserted = True
                    if self._rank:
                        self._rank.abort()
                    return

    async def _start(self, start: Start) -> None:
        plan, welcome = self._welcome.plan, self._welcome
        service = start.service
        names = [target.replica for target in plan.targets]
        rank = Rank(
            plan,
            welcome.rank,
            welcome.ranks,
            requests=Requests(plan, service.model, self._endpoints, self._prompts, service.api_key),
            replicas=Replicas(names, self._pools),
            writer=self._writer,
            on_window_over=self._window_over,
            on_finished=self._drained,
        )
        self._offset, self._round_trip = self._clock.read()
        self.start_at = start.at - self._offset
        await self._connect_ahead(needed_ahead(plan, welcome.rank, welcome.ranks))
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 1000)
        gc.callbacks.append(self._pauses)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, (self.start_at - monotonic_ns()) / 1e9 - 0.02))
        self._rank = rank
        self._cpu_start = self._cpu_mark = process_time_ns()
        self._wall_start = self._wall_mark = monotonic_ns()
        rank.start(self.start_at)
        if self._drain_at is not None:
            rank.drain(self._drain_at)
        loop.call_later(self._until_second(1), self._tell)

    def _started(self, starting: asyncio.Task[None]) -> None:
        if not starting.cancelled() and (error := starting.exception()):
            self._bug = self._bug or error
            self._finished.set()

    async def _connect_ahead(self, connections: int) -> None:
        """Open what the first second needs; what is not open by then shows in the requests."""
        each, start = -(-connections // len(self._pools)), self.start_at
        self._opening = asyncio.gather(*(pool.open(each, start) for pool in self._pools), return_exceptions=True)
        await asyncio.wait([self._opening], timeout=max(0.0, (self.start_at - monotonic_ns()) / 1e9 - COLLECT_SECONDS))

    def _until_second(self, second: int) -> float:
        return max(0.0, (self.start_at + second * 1_000_000_000 - monotonic_ns()) / 1e9)

    def _tell(self) -> None:
        if self._finished.is_set():
            return
        self._send_delta()
        asyncio.get_running_loop().call_later(self._until_second(self._second + 1), self._tell)

    def _send_delta(self) -> None:
        rank = self._rank
        assert rank is not None
        cpu, wall = process_time_ns(), monotonic_ns()
        live, tally = rank.take_live()
        delta = Delta(
            second=self._second,
            phase=rank.phase,
            scheduled=live.scheduled,
            sent=live.sent,
            succeeded=live.succeeded,
            failed=live.failed,
            unsent=live.unsent,
            output_tokens=live.output_tokens,
            in_flight=rank.in_flight,
            waiting=rank.waiting,
            peak=live.peak,
            waited=live.waited,
            cpu=(cpu - self._cpu_mark) / max(1, wall - self._wall_mark),
            loop_lag=live.loop_lag,
            gc_pause=self._pauses.take_longest() / 1e9,
            disk=self._writer.report(),
            left_out=sorted(rank.replicas.was_left_out),
            tally=tally,
        )
        self._cpu_mark, self._wall_mark = cpu, wall
        self._second += 1
        send(self._link, delta)

    def _terminated(self) -> None:
        """Somebody ends this process: drain as far as it goes, and at a second signal end at once.

        Unless the launcher ends the run, this rank is lost.
        """

        def end(*, at_once: bool) -> None:
            rank = self._rank
            if self._told:
                return
            self._deserted = self._deserted or rank is None or rank.phase in {"warmup", "measured"}
            if rank is None:
                self._finished.set()
            elif at_once:
                rank.abort()
            else:
                rank.drain(monotonic_ns() - rank.started_at)

        asyncio.get_running_loop().call_later(NEWS_SECONDS, partial(end, at_once=self._terminating))
        self._terminating = True

    def _window_over(self) -> None:
        self._cpu_sending, self._wall_sending = process_time_ns() - self._cpu_start, monotonic_ns() - self._wall_start

    def _drained(self) -> None:
        self._cpu_end, self._wall_end = process_time_ns(), monotonic_ns()
        self._finished.set()

    async def _report(self) -> None:
        rank = self._rank
        if rank is None:
            self._writer.close(CLOSE_SECONDS)
            return
        rank.flush()
        disk = await asyncio.to_thread(self._writer.close, CLOSE_SECONDS)
        if self._deserted or self._bug is not None:
            return  # the launcher counts the lines
        self._send_delta()
        done = Done(
            tally=rank.total,
            window_end=rank.window.end,
            cpu=self._cpu_sending / max(self._wall_sending, 1),
            cpu_seconds=(self._cpu_end - self._cpu_start) / 1e9,
            wall_seconds=(self._wall_end - self._wall_start) / 1e9,
            start=self.start_at,
            offset=self._offset,
            round_trip=self._round_trip,
            gc_pauses=self._pauses.count,
            gc_seconds=self._pauses.total_ns / 1e9,
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            disk=disk,
        )
        send(self._link, done)
        try:
            await self._link.drain()
            self._link.close()
            await self._link.wait_closed()
        except ConnectionError:
            pass  # the launcher is gone; the lines are on disk


async def connect(address: str, secret: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open the link to the launcher. Raises RunError."""
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.write(
            f"GET /rank HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n"
            f"authorization: Bearer {secret}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError) as error:
        message = f"cannot reach the launcher at {address}: {error}"
        raise RunError(message) from None
    if not head.startswith(b"HTTP/1.1 101"):
        message = f"the launcher at {address} refused: {head.splitlines()[0].decode(errors='replace')}"
        raise RunError(message)
    return reader, writer


async def run_rank() -> int:
    """One rank, from the environment the launcher gave it. Returns the exit code."""
    reader, writer = await connect(os.environ[ADDRESS], os.environ[SECRET])
    return await RankProcess(reader, writer).run()
