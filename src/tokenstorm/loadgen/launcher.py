"""One group: starts the ranks, holds them at a barrier, watches them, and writes what came of it."""

import asyncio
import os
import platform
import re
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic, monotonic_ns, time

import msgspec

from tokenstorm import __version__
from tokenstorm.errors import RunError
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.interfaces import in_url, local_address, node_name
from tokenstorm.loadgen import process
from tokenstorm.loadgen.arrivals import mean_rate, needed_ahead, rate_at
from tokenstorm.loadgen.disk import beside
from tokenstorm.loadgen.live import Event, Glance, Group, Status, TimelineLine
from tokenstorm.loadgen.merge import merge_ranks
from tokenstorm.loadgen.messages import Abort, Drain, Service, Start
from tokenstorm.loadgen.preflight import EngineFacts, look
from tokenstorm.loadgen.prompts import PromptSource, load_prompts
from tokenstorm.loadgen.ranks import Member, Ranks
from tokenstorm.loadgen.sizing import too_little_room
from tokenstorm.metrics.exposition import render
from tokenstorm.metrics.summary import Environment, PromptStock, Run, Summary, summarize
from tokenstorm.plan import Plan, encode_plan
from tokenstorm.program import ends
from tokenstorm.runs import RunPaths, append, make_private, write_atomically

NOTICE_SECONDS = 0.5
CONNECT_SECONDS = 0.0005
"""What a rank takes for a connection, on a machine that does other things too: five times the CPU that it costs."""
SILENCE_SECONDS = 1.0
"""A start that is further away than this is told of."""
DRAIN_NOTICE_NS = 100_000_000
"""How far ahead an early end is announced, so that all ranks end their window at the same moment."""
END_SLACK_SECONDS = 10.0
"""What a rank may take beyond the drain's deadline to write its lines and report."""
FILES_EVERY = 2
HOLD_CHECK_SECONDS = 0.2
LATE_SECONDS = 0.1
"""A group that starts so long after the moment for which it was released did not start with the others."""
WORDS = "`run`, `run <unix time>` (within hold_seconds), `stop` and `abort`"
WRITE_SECONDS = 10.0
"""What the disk may take for the last files of a run."""
UNWRITTEN_BYTES = 64_000_000
"""What of the timeline may wait for a disk that hangs; beyond that, lines are left out."""


class NotWritten(RunError):
    """The summary was made, and could not be written: here it is."""

    def __init__(self, message: str, summary: Summary) -> None:
        super().__init__(message)
        self.summary = summary


class Launcher:
    """Runs one plan in one run directory. `run` may be called once; `stop` at any time, from a signal handler."""

    def __init__(
        self,
        plan: Plan,
        paths: RunPaths,
        *,
        api_key: str | None = None,
        secret: str | None = None,
        on_second: Callable[[Status], None] | None = None,
    ) -> None:
        self.plan = plan
        self.paths = paths
        self._api_key = api_key
        self._secret = secret or secrets.token_urlsafe(32)
        self._on_second = on_second
        self._group = Group(plan)
        self._ranks = Ranks(plan, paths, self._secret, self._group)
        self._phase = "starting"
        self._stops = 0
        self._aborted_at = 0
        self._released = asyncio.Event()
        self._start_no_earlier = self._late = 0.0
        self._over = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._followers: list[Reply] = []
        self._starting: asyncio.Task[Environment] | None = None
        self._second = 0
        self._unwritten = b""
        self._trouble = ""
        self._start_at: int | None = None
        self._window_end: int | None = plan.window_end_ns
        self._started_at: str | None = None
        self._environment: Environment | None = None

    async def run(self) -> Summary:
        """Carry out the plan and write the summary. Raises `RunError`; what was finished by then is on disk."""
        plan = self.plan
        prompts = load_prompts(plan)
        _make_run_directory(self.paths, plan)
        host = local_address(plan.host)
        server = await self._listen(host)
        address = f"{in_url(host)}:{server.sockets[0].getsockname()[1]}"
        described = {"schema": 1, "url": f"http://{address}", "host": node_name(), "pid": os.getpid()}
        watching = asyncio.create_task(self._watch())
        try:
            write_atomically(self.paths.address, msgspec.json.encode(described) + b"\n")
            environment = await self._start(address, prompts)
            await self._ranks.done(self._deadline())
            await self._end(watching)
            summary = self._summary(environment)
            await self._keep(summary)
        except BaseException as error:
            self._phase = "failed"
            await self._end(watching)
            with suppress(OSError):
                await self._write(self._files(str(error) or type(error).__name__))
            self._dismiss_followers(str(error) or type(error).__name__)
            if isinstance(error, OSError):
                raise RunError(self._cannot_write(error)) from None
            raise
        else:
            self._dismiss_followers(None)
            watching.result()  # a bug in it shows, now that nothing can be lost
            return summary
        finally:
            server.close()
            await self._ranks.close()

    def stop(self) -> None:
        """The first call ends the window and drains, a second one ends the run at once; what finished is kept."""
        self._stops += 1
        if self._start_at is None or self._starting is None or not self._starting.done():
            if self._starting is not None:
                self._starting.cancel()
        elif self._stops == 1:
            at = max(0, monotonic_ns() + DRAIN_NOTICE_NS - self._start_at)
            if self._window_end is None or at < self._window_end:
                self._window_end = at
            self._ranks.send(
                Drain(at)
            )  # also in the drain: who got a TERM of its own learns that the run ends in order
        else:
            self._aborted_at = self._aborted_at or monotonic_ns()
            self._ranks.send(Abort())

    def interrupt(self) -> None:
        """Somebody at the terminal pressed Ctrl-C: as `stop`, but in the drain the first one ends the run at once."""
        for _ in range(2 if self._phase_now() == "draining" and not self._stops else 1):
            self.stop()

    async def _keep(self, summary: Summary) -> None:
        """Write the summary and the last of the other files. Raises `NotWritten`."""
        data = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
        try:
            await beside(lambda: write_atomically(self.paths.summary, data), WRITE_SECONDS)
            self._phase = "finished"
            await self._write(self._files(None))
        except OSError as error:
            raise NotWritten(self._cannot_write(error), summary) from None

    def _cannot_write(self, error: OSError) -> str:
        return (
            f"cannot write to {self.paths.root}: {error.strerror or 'it hangs'}; make room there, "
            "then `tokenstorm report` shows what was kept"
        )

    async def _listen(self, host: str) -> asyncio.Server:
        try:
            return await serve(self._answer, host, 0, keep_alive=60.0, has_key=self._is_told)
        except OSError as error:
            message = f"cannot listen on `host` {host!r}: it must be an address of this machine ({error})"
            raise RunError(message) from None

    async def _start(self, address: str, prompts: PromptSource) -> Environment:
        """Everything before the common start; `stop` ends it at any point."""

        async def start() -> Environment:
            await self._ranks.start(address)
            service, facts, notes = await look(self.plan, prompts, self._api_key)
            await self._ranks.ready(self.plan.barrier_seconds)
            await self._hold()
            if self._stops:
                raise asyncio.CancelledError  # of the timeouts above, one may have swallowed it
            count, distinct = prompts.count()
            stock = PromptStock(count, distinct) if count else None
            self._environment = _environment(service, facts, notes, self._ranks.members, stock)
            await self._count_down(self._begin(service))
            return self._environment

        self._starting = asyncio.create_task(start())
        if self._stops:
            self._starting.cancel()
        try:
            return await self._starting
        except asyncio.CancelledError:
            if not self._stops:
                raise
            self._start_at = None  # nothing was sent, and no second of it is told
            message = "stopped before the start"
            raise RunError(message) from None

    async def _hold(self) -> None:
        """Until `run` is said, and then until just before the start that it names."""
        if self.plan.start == "auto":
            return
        self._phase = "holding"
        deadline = monotonic() + self.plan.hold_seconds
        while not self._released.is_set():
            if monotonic() > deadline:
                message = f"nobody released the group in the {self.plan.hold_seconds:g} s of hold_seconds"
                raise RunError(message)
            self._ranks.check()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), HOLD_CHECK_SECONDS)
        while (left := self._start_no_earlier - time() - self._notice_seconds()) > 0:
            self._ranks.check()
            await asyncio.sleep(min(left, HOLD_CHECK_SECONDS))

    def _notice_seconds(self) -> float:
        """How long before the common start the ranks must know of it: they open their connections."""
        return NOTICE_SECONDS + needed_ahead(self.plan, 0, self.plan.ranks) * CONNECT_SECONDS

    def _begin(self, service: Service) -> int:
        """Name the common start to the ranks. Returns it."""
        left = self._start_no_earlier - time()
        ahead = max(self._notice_seconds(), left)
        self._late = ahead - left if self._start_no_earlier and ahead - left > LATE_SECONDS else 0.0
        self._start_at = monotonic_ns() + round(ahead * 1e9)
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._phase = "running"
        self._ranks.send(Start(at=self._start_at, service=service))
        if ahead > SILENCE_SECONDS:
            self._show()
        return self._start_at

    async def _count_down(self, start_at: int) -> None:
        """Until so shortly before the start that no news of a stop would reach the ranks in time."""
        await asyncio.sleep(max(0.0, (start_at - DRAIN_NOTICE_NS - monotonic_ns()) / 1e9))
        for path in (self.paths.timeline, self.paths.summary):  # of an earlier attempt, when the job starts anew
            path.unlink(missing_ok=True)

    def _deadline(self) -> Callable[[], float | None]:
        """Seconds from now until the ranks must be done; None while there is no end to count from."""

        def left() -> float | None:
            if self._stops > 1:
                return (self._aborted_at - monotonic_ns()) / 1e9 + END_SLACK_SECONDS
            if self._start_at is None or self._window_end is None:
                return None
            drained = self._start_at + self._window_end + round(self.plan.drain_seconds * 1e9)
            end = max(drained, self._group.recorded_at)  # millions of lines take long, and a rank at it is well
            return (end - monotonic_ns()) / 1e9 + END_SLACK_SECONDS

        return left

    async def _watch(self) -> None:
        """Each second: the timeline, who follows it, the live line, the files for those who cannot reach the port."""
        for turn in count():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._until_next_turn())
                return
            if self._elapsed_ns() > (self._second + 1) * 10**9:
                self._close_second()
                self._show()
            if self._writing is None or self._writing.done():  # a disk that hangs holds up the files, nothing else
                self._writing = asyncio.create_task(self._write_turn(with_files=turn % FILES_EVERY == 0))

    async def _write_turn(self, *, with_files: bool) -> None:
        try:
            await self._write(self._files(None) if with_files else {}, seconds=None)
            words = await beside(lambda: _take_control(self.paths.control), None)
            if words and not self._obey(words):
                self._trouble = f"the control file said {words[:80]!r}, which is none of {WORDS}"
        except OSError as error:
            self._trouble = f"the run directory could not be written to for some time: {error.strerror}"

    def _show(self) -> None:
        if self._on_second is not None:
            try:
                self._on_second(self._status(None))
            except OSError:  # the terminal is gone
                self._on_second = None

    def _tell_followers(self, status: Status, line: TimelineLine | None) -> None:
        line = line and msgspec.structs.replace(line, histograms={})
        event = msgspec.json.encode(Event(status, line)) + b"\n"
        self._followers = [follower for follower in self._followers if not follower.closed]
        for follower in self._followers:
            if not follower.paused:  # who reads too slowly misses a second
                follower.write(event)

    def _dismiss_followers(self, reason: str | None) -> None:
        self._tell_followers(self._status(reason), None)
        for follower in self._followers:
            follower.end()
        self._followers.clear()

    async def _end(self, watching: asyncio.Task[None]) -> None:
        """The last of the timeline, when nobody else writes any more."""
        self._over.set()
        await asyncio.wait([watching])
        if self._writing is not None:
            _, hanging = await asyncio.wait([self._writing], timeout=WRITE_SECONDS)
            for task in hanging:
                task.cancel()
        while self._start_at is not None and (self._group.pending or self._second <= self._elapsed_ns() // 10**9):
            self._close_second()

    def _until_next_turn(self) -> float:
        """Once it runs, a little after each second, when the deltas of all ranks are here."""
        if self._start_at is None:
            return 1.0
        return max(0.0, (self._start_at - monotonic_ns()) / 1e9 + self._second + 1.1)

    def _close_second(self) -> None:
        second, end = self._second, self._window_end
        line = self._group.close(second, self._group.phase_of(second, end), self._group.target_of(second, end))
        if len(self._unwritten) < UNWRITTEN_BYTES:
            self._unwritten += msgspec.json.encode(line) + b"\n"
        else:
            self._trouble = "the run directory hung for so long that seconds of the timeline are missing"
        self._second += 1
        self._tell_followers(self._status(None), line)

    def _files(self, reason: str | None) -> dict[Path, bytes]:
        return {
            self.paths.status: msgspec.json.encode(self._status(reason)) + b"\n",
            self.paths.metrics: self._metrics(),
        }

    async def _write(self, files: dict[Path, bytes], seconds: float | None = WRITE_SECONDS) -> None:
        """Bring the timeline and these files to disk. Raises OSError."""
        lines = self._unwritten
        await beside(lambda: append(self.paths.timeline, lines), seconds)
        self._unwritten = self._unwritten[len(lines) :]  # at once: what comes next may fail
        for path, data in files.items():
            await beside(partial(write_atomically, path, data), seconds)

    def _phase_now(self) -> str:
        """The phase of the group: that of its ranks, once they run; what a lost one said last counts no more."""
        if self._phase != "running":
            return self._phase
        if not self._group.last:
            return "warmup" if self.plan.warmup_seconds else "measured"
        up = self._ranks_up()
        phases = {delta.phase for rank, delta in self._group.last.items() if up[rank]}
        return next((phase for phase in ("warmup", "measured", "draining") if phase in phases), "draining")

    def _elapsed_ns(self) -> int:
        return 0 if self._start_at is None else max(0, monotonic_ns() - self._start_at)

    def _target_rps(self) -> float | None:
        if self._phase != "running":
            return None
        now = self._elapsed_ns()
        is_over = self._window_end is not None and now >= self._window_end
        return 0.0 if is_over and not self.plan.closed_loop else rate_at(self.plan, now)

    def _status(self, reason: str | None) -> Status:
        group, plan = self._group, self.plan
        tally, line, elapsed = group.tally, group.line, self._elapsed_ns()
        known = min(elapsed, self._second * 1_000_000_000)  # the deltas of later seconds are not in yet
        known = known if self._window_end is None else min(known, self._window_end)
        seconds = max((known - plan.window_start_ns) / 1e9, 1e-9)
        running = known > plan.window_start_ns
        return Status(
            at=datetime.now(UTC),
            run_id=plan.run_id,
            phase=self._phase_now(),
            reason=reason,
            elapsed_seconds=elapsed / 1e9,
            fraction=self._fraction(elapsed),
            window_end_seconds=None if self._window_end is None else self._window_end / 1e9,
            scheduled=group.scheduled,
            sent=group.sent,
            succeeded=group.succeeded,
            failed=group.failed,
            unsent=group.unsent,
            in_flight=line.in_flight if line else 0,
            waiting=line.waiting if line else 0,
            requested_rps=self._target_rps(),
            achieved_rps=tally.done_in_window / seconds if running else 0.0,
            output_tokens_per_second=tally.output_tokens_in_window / seconds if running else 0.0,
            latency=Glance.of(tally.histograms["latency"]),
            service_time=Glance.of(tally.histograms["service_time"]),
            ttft=Glance.of(tally.histograms["ttft"]),
            ranks=plan.ranks,
            ranks_up=sum(self._ranks_up().values()),
            late_seconds=self._late,
            opening=self._opening(),
            environment=self._environment,
        )

    def _opening(self) -> int:
        """How many connections are being opened, between the barrier and the start."""
        if self._start_at is None or monotonic_ns() >= self._start_at:
            return 0
        return sum(needed_ahead(self.plan, rank, self.plan.ranks) for rank in range(self.plan.ranks))

    def _fraction(self, elapsed: int) -> float | None:
        """How much of the run is over, by time or by count, whichever is further."""
        end, count = self.plan.window_end_ns, self.plan.request_count
        parts = [elapsed / end] if end else []
        parts += [self._group.tally.counts.scheduled / count] if count else []
        return min(1.0, max(parts))

    def _ranks_up(self) -> dict[int, bool]:
        return {rank: not member.lost for rank, member in self._ranks.members.items()}

    def _metrics(self) -> bytes:
        group_id = self.plan.run_id if self.plan.group_id is None else str(self.plan.group_id)
        gauges = self._group.gauges(self._phase_now(), self._ranks_up(), self._target_rps())
        return render(group_id, self._group.tally, gauges)

    def _obey(self, words: str) -> bool:
        """Do what was said: `run`, `run <unix time>`, `stop` or `abort`."""
        match words.split():
            case ["run"] | ["run", _] if self._start_at is not None and self.plan.start == "manual":
                pass  # said twice, by who did not hear the answer
            case ["run"] if self._start_at is None:
                self._released.set()
            case ["run", moment] if (
                self._start_at is None and re.fullmatch(r"\d{1,12}(\.\d*)?", moment) and self._is_near(float(moment))
            ):
                self._start_no_earlier = float(moment)
                self._released.set()
            case ["stop"]:  # said twice, by who did not hear the answer, it is no `abort`
                if not self._stops:
                    self.stop()
            case ["abort"]:
                for _ in range(1 if self._stops else 2):
                    self.stop()
            case _:
                return False
        return True

    def _is_near(self, moment: float) -> bool:
        return moment - time() <= self.plan.hold_seconds

    def _is_told(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the run's secret."""
        return secrets.compare_digest(headers.get("authorization", "").encode(), f"Bearer {self._secret}".encode())

    def _answer(self, request: Request, reply: Reply) -> None:
        """The launcher's port: for the ranks, and for whoever holds the secret."""
        if not self._is_told(request.headers):
            reply.send(401, b'{"detail": "this port wants the run\'s secret as a bearer token"}')
            return
        match request.verb, request.path:
            case "GET", "/rank":
                if request.headers.get("upgrade") != process.PROTOCOL:
                    reply.send(426, b'{"detail": "ranks connect here, with an upgrade"}')
                    return
                reply.spawn(self._ranks.accept(*reply.upgrade(process.PROTOCOL)))
            case "GET", "/status":
                reply.send(200, msgspec.json.encode(self._status(None)))
            case "GET", "/metrics":
                reply.send(200, self._metrics(), "text/plain; version=0.0.4; charset=utf-8")
            case "GET", "/timeline":
                reply.send(200, msgspec.json.encode(self._group.line))
            case "GET", "/events":
                reply.start(200, "application/x-ndjson")
                self._followers.append(reply)
            case "POST", "/control":
                if self._obey(request.body.decode(errors="replace")):
                    reply.send(202, b'{"status": "accepted"}')
                else:
                    reply.send(422, msgspec.json.encode({"detail": f"say one of {WORDS}"}))
            case _:
                reply.send(404, b'{"detail": "there is /status, /metrics, /timeline, /events and /control"}')

    def _summary(self, environment: Environment) -> Summary:
        plan, group = self.plan, self._group
        merged = merge_ranks(plan, self._ranks, group, self._window_end)
        notes = environment.notes + [self._trouble] * bool(self._trouble)
        if self._late:
            notes.append(f"it started {self._late:.1f} s after the moment for which it was released")
        run = Run(
            plan=plan,
            outcome="cancelled" if merged.cut_short or self._stops > 1 else "completed",
            window_end=merged.window_end,
            requested_rps=mean_rate(plan, merged.window_end),
            started_at=self._started_at,
            ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            ranks=merged.reports,
            waited_below_cap=group.waited_below_cap,
            unsent_by_lost_ranks=merged.unsent,
            left_out=sorted(group.left_out),
            environment=msgspec.structs.replace(environment, notes=notes),
            missing=merged.missing,
        )
        return summarize(run, merged.tally)


@contextmanager
def handle_signals(launcher: Launcher) -> Iterator[None]:
    """SIGTERM, SIGHUP and SIGINT drain the run and still write everything; a second one ends it at once."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGINT: launcher.interrupt, **dict.fromkeys(ends(), launcher.stop)}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _take_control(path: Path) -> str:
    """Where nothing reaches the port, a file `control` does; one that is still empty is left to its writer."""
    try:
        words = path.read_bytes().decode(errors="replace").strip()
        if words:
            path.unlink()
    except FileNotFoundError:
        return ""
    return words


def _make_run_directory(paths: RunPaths, plan: Plan) -> None:
    try:
        make_private(paths.root)
        if reason := too_little_room(paths.root, plan):
            raise RunError(reason)
        write_atomically(paths.plan, encode_plan(plan))
    except OSError as error:
        message = f"cannot use the run directory {paths.root}: {error.strerror}; choose another with --run-dir"
        raise RunError(message) from None


def _environment(
    service: Service, facts: EngineFacts, notes: list[str], ranks: dict[int, Member], prompts: PromptStock | None
) -> Environment:
    return Environment(
        tokenstorm=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        hosts=sorted({member.hello.host for member in ranks.values()}),
        job_id=os.environ.get("SLURM_JOB_ID"),
        model=service.model,
        simulated=any(isinstance(answer, dict) and answer.get("simulated") is True for answer in facts.values()),
        engine=facts,
        prompts=prompts,
        notes=notes,
    )
