"""The process around one rank: its link to the launcher, and how it carries out the launcher's messages.

It is started as `python -m tokenstorm.loadgen rank`. The launcher's address and secret are in the environment, so that
neither is on a command line.
"""

import asyncio
import gc
import os
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic_ns
from typing import Any, TypeVar

from msgspec.structs import replace

from tokenstorm import __version__
from tokenstorm.errors import RunError, TokenstormError
from tokenstorm.hosts import split_address
from tokenstorm.interfaces import machine_clock, node_name
from tokenstorm.loadgen.arrivals import needed_ahead
from tokenstorm.loadgen.conversations import Conversations
from tokenstorm.loadgen.costs import Meter, Pauses
from tokenstorm.loadgen.endpoint import Endpoint, endpoints_of
from tokenstorm.loadgen.messages import (
    ADDRESS,
    PROTOCOL,
    SECRET,
    Abort,
    AnyMessage,
    Ask,
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
from tokenstorm.loadgen.offset import Clock
from tokenstorm.loadgen.openai import Requests
from tokenstorm.loadgen.pool import Pool, pools_of
from tokenstorm.loadgen.prompts import PromptSource
from tokenstorm.loadgen.rank import Rank
from tokenstorm.loadgen.replicas import Replicas
from tokenstorm.loadgen.reporter import Reporter
from tokenstorm.loadgen.room import Room
from tokenstorm.loadgen.schedule import Schedule, schedule_of
from tokenstorm.loadgen.sessions import Sessions
from tokenstorm.loadgen.sizing import allow_connections
from tokenstorm.loadgen.wire import Stamps, has_stamps
from tokenstorm.loadgen.workload import read_workload
from tokenstorm.loadgen.writer import LineWriter
from tokenstorm.program import ends

FIRST_ASKS = 32
ASK_PAUSE_SECONDS = 0.01
CLOSE_SECONDS = 5.0
COLLECT_SECONDS = 0.2
"""Kept free before the start, for a last garbage collection."""
EARLY_SECONDS = 0.02
"""A rank starts this long before the common start."""
NEWS_SECONDS = 1.0
"""When all processes of a job are ended, the launcher's message reaches a rank within this time."""

M = TypeVar("M", bound=AnyMessage)


@dataclass(frozen=True)
class Gear:
    """What a rank has ready when it waits at the barrier."""

    welcome: Welcome
    prompts: PromptSource
    endpoints: list[Endpoint]
    pools: list[Pool]
    writer: LineWriter
    clock: Clock
    stamps: Stamps | None
    """The kernel's, where it gives any."""


class RankProcess:
    """Talks to the launcher for one rank. `run` returns the exit code."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._link = writer
        self._finished = asyncio.Event()
        self._rank: Rank | None = None
        """The rank and its reporter exist from shortly before the common start."""
        self._reporter: Reporter | None = None
        self._starting: asyncio.Task[None] | None = None
        self._opening: asyncio.Future[list[object]] | None = None
        self._clock_read = (0, 0)
        """The offset and the round trip at the start."""
        self._drain_at: int | None = None
        self._ends_in_order = self._deserted = self._terminating = False
        self._bug: BaseException | None = None

    async def run(self) -> int:
        """Carry out what the launcher says, from hello to done."""
        for number in ends():
            asyncio.get_running_loop().add_signal_handler(number, self._terminated)
        hello = Hello(host=node_name(), pid=os.getpid(), version=__version__, clock=machine_clock())
        self._say(hello)
        welcome = await self._expect(Welcome)
        try:
            gear = await self._prepare(welcome, same_machine=welcome.clock == hello.clock)
        except (TokenstormError, OSError) as error:
            self._say(Refused(reason=str(error)))
            await self._link.drain()
            return 1
        self._say(Ready())
        self._ask()
        asyncio.get_running_loop().set_exception_handler(self._broke)
        listening = asyncio.create_task(self._listen(gear))
        await self._finished.wait()
        listening.cancel()
        if self._starting is not None:
            self._starting.cancel()
        await self._report(gear.writer)
        if self._bug is not None:
            raise self._bug
        return 0

    async def _prepare(self, welcome: Welcome, *, same_machine: bool) -> Gear:
        plan = welcome.plan
        share = -(-plan.num_clients // welcome.ranks)
        room = Room(allow_connections(share, len(plan.targets)))
        prompts = read_workload(plan, welcome.workload, welcome.rank, welcome.ranks)
        endpoints = endpoints_of((target.url for target in plan.targets), plan.endpoint)
        stamps = Stamps() if plan.stream and has_stamps() else None  # an answer in one piece gains too little
        pools = pools_of(endpoints, room, stamps)
        writer = LineWriter(Path(welcome.results))
        writer.start()
        clock = Clock(same_machine=same_machine)
        if not same_machine:
            asking = asyncio.create_task(self._ask_often())
            for _ in range(FIRST_ASKS):
                clock.learn(await self._expect(Tell))
            await asking
        return Gear(welcome, prompts, endpoints, pools, writer, clock, stamps)

    async def _ask_often(self) -> None:
        """Send all at once: one after the other would take long over a slow link."""
        for _ in range(FIRST_ASKS):
            self._say(Ask(sent=monotonic_ns()))
            await asyncio.sleep(ASK_PAUSE_SECONDS)

    def _ask(self) -> None:
        """Compare clocks every second, from the barrier on."""
        if not self._finished.is_set():
            self._say(Ask(sent=monotonic_ns()))
            asyncio.get_running_loop().call_later(1.0, self._ask)

    def _say(self, message: AnyMessage) -> None:
        send(self._link, message)

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

    async def _listen(self, gear: Gear) -> None:
        try:
            await self._obey(gear)
        except Exception as error:  # noqa: BLE001 - it is raised again in `run`
            self._bug = error
        finally:
            self._finished.set()

    async def _obey(self, gear: Gear) -> None:
        """Do what the launcher says until it is gone."""
        while True:
            message = await receive(self._reader)
            rank = self._rank
            match message:
                case Tell():
                    gear.clock.learn(message)
                case Start():
                    self._starting = asyncio.create_task(self._start(gear, message))
                    self._starting.add_done_callback(self._started)
                case Drain():
                    self._ends_in_order, self._drain_at = True, message.at
                    if rank is not None:
                        rank.drain(message.at)
                case Abort() if rank is not None:
                    self._ends_in_order = True
                    rank.abort()
                case _:  # nobody is left who wants the numbers, or the run ends before it began
                    self._deserted = True
                    if rank is not None:
                        rank.abort()
                    return

    async def _start(self, gear: Gear, start: Start) -> None:
        welcome, service = gear.welcome, start.service
        plan = replace(welcome.plan, ignore_eos=service.ignore_eos)
        meter, pauses = Meter(), Pauses()
        offset, _ = self._clock_read = gear.clock.read()
        start_at = start.at - offset
        if service.vocabulary:
            gear.prompts.speak(service.vocabulary, service.template_tokens)
        requests = Requests(plan, service.model, gear.endpoints, gear.prompts, service.api_key)
        schedule = _schedule(welcome, gear.prompts, requests, service.context)
        requests.compose_until((monotonic_ns() + start_at) // 2)  # connections want their time, too
        rank = Rank(
            plan,
            welcome.rank,
            welcome.ranks,
            started_at=start_at,
            schedule=schedule,
            requests=requests,
            replicas=Replicas([target.replica for target in plan.targets], gear.pools),
            writer=gear.writer,
            on_window_over=meter.stop_sending,
            on_finished=partial(self._drained, meter),
        )
        await self._connect_ahead(gear.pools, needed_ahead(plan, welcome.rank, welcome.ranks), start_at)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 1000)
        gc.callbacks.append(pauses)
        await asyncio.sleep(max(0.0, (start_at - monotonic_ns()) / 1e9 - EARLY_SECONDS))
        disk, finished = gear.writer.report, self._finished
        say, stamps = self._say, gear.stamps
        self._reporter = Reporter(
            rank, meter=meter, pauses=pauses, disk=disk, stamps=stamps, say=say, finished=finished
        )
        self._rank = rank
        meter.start()
        rank.start()
        if self._drain_at is not None:
            rank.drain(self._drain_at)
        self._reporter.begin()

    def _started(self, starting: asyncio.Task[None]) -> None:
        if not starting.cancelled() and (error := starting.exception()):
            self._bug = self._bug or error
            self._finished.set()

    async def _connect_ahead(self, pools: list[Pool], connections: int, start_at: int) -> None:
        """Open the connections that the first second needs. Those not open by then delay their requests, which shows."""
        each = -(-connections // len(pools))
        self._opening = asyncio.gather(*(pool.open(each, start_at) for pool in pools), return_exceptions=True)
        await asyncio.wait([self._opening], timeout=max(0.0, (start_at - monotonic_ns()) / 1e9 - COLLECT_SECONDS))

    def _terminated(self) -> None:
        """Handle a signal to end: drain, and at a second signal end at once.

        Unless the launcher ends the run, this rank is lost.
        """

        def end(*, at_once: bool) -> None:
            rank = self._rank
            if self._ends_in_order:
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

    def _drained(self, meter: Meter) -> None:
        meter.stop()
        self._finished.set()

    async def _report(self, writer: LineWriter) -> None:
        if self._reporter is None:
            writer.close(CLOSE_SECONDS)
            return
        self._reporter.rank.flush()
        disk = await asyncio.to_thread(writer.close, CLOSE_SECONDS)
        if self._deserted or self._bug is not None:
            return  # the launcher counts the lines
        offset, round_trip = self._clock_read
        self._reporter.send_done(disk, offset=offset, round_trip=round_trip)
        try:
            await self._link.drain()
            self._link.close()
            await self._link.wait_closed()
        except ConnectionError:
            pass  # the launcher is gone; the lines are on disk


def _schedule(welcome: Welcome, prompts: PromptSource, requests: Requests, context: int | None) -> Schedule:
    """What the rank sends when; what it sends is composed ahead where it is known."""
    plan, rank, ranks, times = welcome.plan, welcome.rank, welcome.ranks, prompts.times
    if isinstance(prompts, Conversations):
        return Sessions(plan, rank, ranks, prompts, context=context)
    requests.expect(count(rank, ranks) if times is None else iter(range(rank, len(times), ranks)))
    return schedule_of(plan, rank, ranks, times)


async def connect(address: str, secret: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open the link to the launcher. Raises RunError."""
    try:
        reader, writer = await asyncio.open_connection(*split_address(address))
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
