"""The ranks of a group as the launcher sees them: processes to start, links to talk over, and how each of them ends."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import BinaryIO

import msgspec

from tokenstorm import __version__
from tokenstorm.errors import RunError
from tokenstorm.interfaces import machine_clock
from tokenstorm.loadgen.messages import (
    ADDRESS,
    SECRET,
    AnyMessage,
    Ask,
    Delta,
    Done,
    Hello,
    Ready,
    Refused,
    Tell,
    Welcome,
    receive,
    send,
)
from tokenstorm.loadgen.prepared import Workload
from tokenstorm.metrics.tally import Tally
from tokenstorm.metrics.verdict import RANKS_LOST_INVALID
from tokenstorm.plan import Plan
from tokenstorm.runs import RunPaths

SILENT_SECONDS = 30.0
"""A rank that is silent for this long during the run is lost."""
LOOK_SECONDS = 0.2
TAIL_BYTES = 2000
LEAVE_SECONDS = 5.0
"""Processes have this long to leave by themselves, and again after a TERM."""


_TAKEN = Tally()
"""Replaces the tally of a report once that is part of the total."""


class Member:
    """One rank: its link, and how far it got."""

    def __init__(self, rank: int, hello: Hello, link: asyncio.StreamWriter) -> None:
        self.rank = rank
        self.hello = hello
        self.link = link
        self.ready = False
        self.done: Done | None = None
        self.lost: str | None = None
        self.heard = monotonic()

    @property
    def over(self) -> bool:
        """Whether nothing more will come from it."""
        return self.done is not None or self.lost is not None


class Ranks:
    """Starts the ranks and keeps in touch with them. `on_delta` is called with each rank's news of a second.

    `total` is the sum of the tallies of all ranks that reported. Each is added when it comes: a thousand would take much room.
    """

    def __init__(
        self, plan: Plan, paths: RunPaths, secret: str, on_delta: Callable[[int, Delta], None], attempt: int = 0
    ) -> None:
        self.members: dict[int, Member] = {}
        self.total = Tally()
        self.workload: Workload | None = None
        """What was prepared for the ranks, before they start."""
        self.plan = plan
        self._paths = paths
        self._secret = secret
        self._on_delta = on_delta
        self.attempt = attempt
        self._processes: list[subprocess.Popen[bytes]] = []
        self._changed = asyncio.Event()
        self._refused: str | None = None
        self._closed = False
        self._stderr: BinaryIO | None = None

    async def start(self, address: str) -> None:
        """Start the processes; they connect to `address`, where `accept` gets them."""
        self.attempt = max(self.attempt, 1 + max((attempt for _, attempt in self._paths.all_results()), default=-1))
        environment = {**os.environ, ADDRESS: address, SECRET: self._secret}
        self._stderr = self._paths.stderr.open("ab")
        command = [*self.plan.launch, sys.executable, "-m", "tokenstorm.loadgen", "rank"]
        for _ in range(1 if self.plan.launch else self.plan.ranks):
            try:
                process = subprocess.Popen(  # noqa: S603, ASYNC220 - an argv from the plan; it starts in a millisecond
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=self._stderr, stderr=self._stderr
                )
            except OSError as error:
                message = f"cannot start the ranks with {command[0]!r}: {error.strerror}"
                raise RunError(message) from None
            self._processes.append(process)

    def up(self) -> dict[int, bool]:
        """Which of the ranks that came are still there."""
        return {rank: not member.lost for rank, member in self.members.items()}

    def results_of(self, rank: int) -> Path:
        """Where a rank writes its result lines."""
        return self._paths.results(rank, self.attempt)

    async def accept(self, reader: asyncio.StreamReader, link: asyncio.StreamWriter) -> None:
        """Talk to one rank until it is gone."""
        hello = await receive(reader)
        rank = len(self.members)
        if not isinstance(hello, Hello) or self._closed or rank >= self.plan.ranks or hello.version != __version__:
            link.close()
            return
        member = self.members[rank] = Member(rank, hello, link)
        results = str(self.results_of(rank).absolute())
        send(
            link,
            Welcome(
                rank=rank,
                ranks=self.plan.ranks,
                plan=self.plan,
                results=results,
                clock=machine_clock(),
                workload=self.workload,
            ),
        )
        try:
            while (message := await receive(reader)) is not None:
                self.handle(member, message)
        except ValueError as error:
            member.lost = f"it sent what is no message: {error}"
        if member.done is None and member.lost is None:
            member.lost = "its process ended"
        link.close()
        self._changed.set()

    def handle(self, member: Member, message: AnyMessage) -> None:
        """Handle a message of a rank."""
        now = monotonic_ns()
        member.heard = monotonic()
        match message:
            case Ask():
                send(member.link, Tell(sent=message.sent, now=now))
            case Delta():
                self._on_delta(member.rank, message)
            case Ready():
                member.ready = True
                self._changed.set()
            case Refused():
                self._refused = message.reason
                self._changed.set()
            case Done():
                if member.done is None:
                    self.total.merge(message.tally)
                    member.done = msgspec.structs.replace(message, tally=_TAKEN)
                self._changed.set()
            case _:
                member.lost = f"it said {type(message).__name__}, which is not for it to say"

    async def ready(self, seconds: float) -> None:
        """Wait at the barrier. Raises `RunError` when a rank refuses, or too few come.

        Of ranks that one command started, those that came and were lost are gone; all are when the command ends.
        """
        looked = monotonic()
        deadline = looked + seconds
        ranks = self.plan.ranks
        while (there := sum(member.ready and not member.lost for member in self.members.values())) < ranks:
            if self._refused:
                raise RunError(self._refused)
            gone = sum(process.poll() is not None for process in self._processes)
            if ended := bool(self.plan.launch and gone):
                gone = ranks
            elif self.plan.launch:
                gone = sum(member.lost is not None for member in self.members.values())
            now = monotonic()
            deadline += max(0.0, now - looked - LOOK_SECONDS)  # it was this process that did not listen
            looked = now
            late = now > deadline
            missing = ranks - there if late or ended else gone  # who lives may still come
            if ended or missing > RANKS_LOST_INVALID * ranks:
                why = f"they did not come in {seconds:g} s" if late else "their processes ended"
                message = f"{missing} of {ranks} ranks are missing at the start: {why}{self._last_words()}"
                raise RunError(message)
            if late or there == ranks - gone:
                break
            await self._change(LOOK_SECONDS)

    def check(self) -> None:
        """Raise `RunError` if too few of the ranks that were ready are still there. Called while the group is held."""
        lost = [member for member in self.members.values() if member.lost]
        if len(lost) > RANKS_LOST_INVALID * self.plan.ranks:
            message = f"rank {lost[0].rank} was lost before the start: {lost[0].lost}{self._last_words()}"
            raise RunError(message)

    async def done(self, left: Callable[[], float | None]) -> None:
        """Wait until every rank has reported or is lost. `left` returns the seconds until silent ranks are lost, None for no limit."""
        looked, slept = monotonic(), 0.0
        for member in self.members.values():
            member.heard = looked
        while not all(member.over for member in self.members.values()):
            seconds, now = left(), monotonic()
            stopped = max(0.0, now - looked - LOOK_SECONDS)  # it was this process that did not listen
            looked = now
            slept += stopped
            for member in self.members.values():
                if member.over:
                    continue
                member.heard += stopped
                if seconds is not None and seconds + slept <= 0:
                    self._lose(member, "it did not report by the end of the drain")
                elif now - member.heard > SILENT_SECONDS:
                    self._lose(member, f"it said nothing for {SILENT_SECONDS:g} s")
            await self._change(LOOK_SECONDS)

    def send(self, message: AnyMessage) -> None:
        """Send a message to every rank that is still there."""
        for member in self.members.values():
            if not member.over:
                send(member.link, message)

    async def close(self) -> None:
        """Leave no process behind."""
        self._closed = True
        for member in self.members.values():
            member.link.close()
        await asyncio.to_thread(self._reap)
        if self._stderr is not None:
            self._stderr.close()

    def _reap(self) -> None:
        """End processes that do not leave. TERM comes first: a launch command like srun then ends what it started elsewhere."""
        term = (subprocess.Popen.terminate,) if self.plan.launch else ()
        for end in (None, *term, subprocess.Popen.kill):
            deadline = monotonic() + LEAVE_SECONDS
            for process in self._processes:
                if end is not None and process.poll() is None:
                    end(process)
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - monotonic()))

    def _lose(self, member: Member, why: str) -> None:
        member.lost = why
        member.link.close()
        for process in self._processes:
            if process.pid == member.hello.pid and not self.plan.launch:
                process.send_signal(signal.SIGKILL)

    async def _change(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()

    def _last_words(self) -> str:
        try:
            words = self._paths.stderr.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""
        return f"; the last they said: {words.splitlines()[-1]}" if words else ""
