"""One group: starts the ranks, holds them at a barrier, watches them, and writes what came of it."""

import asyncio
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from time import monotonic, monotonic_ns, time

import msgspec

from tokenstorm.errors import RunError
from tokenstorm.hosts import in_url
from tokenstorm.interfaces import local_address, node_name
from tokenstorm.loadgen.arrivals import count_end_ns, mean_rate, needed_ahead
from tokenstorm.loadgen.environment import environment_of
from tokenstorm.loadgen.group import Group
from tokenstorm.loadgen.journal import Journal
from tokenstorm.loadgen.live import Sampled, Status
from tokenstorm.loadgen.merge import merge_ranks
from tokenstorm.loadgen.messages import Abort, Drain, Service, Start
from tokenstorm.loadgen.port import Port
from tokenstorm.loadgen.power import PowerSampler
from tokenstorm.loadgen.preflight import context_of, try_service
from tokenstorm.loadgen.progress import Progress
from tokenstorm.loadgen.provision import Provided, provide
from tokenstorm.loadgen.ranks import Ranks
from tokenstorm.loadgen.reset import reset_caches
from tokenstorm.loadgen.sampling import Sampler
from tokenstorm.loadgen.sizing import too_little_room
from tokenstorm.loadgen.standing import standing_of
from tokenstorm.metrics.reports import Environment, WorkloadFacts
from tokenstorm.metrics.summarize import Run, summarize
from tokenstorm.metrics.summary import Summary
from tokenstorm.plan import Plan, TraceFile, encode_plan
from tokenstorm.runs import RunPaths, make_private, write_atomically
from tokenstorm.threads import run_in_thread

NOTICE_SECONDS = 0.5
CONNECT_SECONDS = 0.0005
"""Seconds a rank needs for each connection on a busy machine: five times the CPU time of one."""
SILENCE_SECONDS = 1.0
"""A start further away than this is announced on the live line."""
DRAIN_NOTICE_NS = 100_000_000
"""How far ahead an early end is announced, so that all ranks end their window at the same moment."""
END_SLACK_SECONDS = 10.0
"""What a rank may take beyond the drain's deadline to write its lines and report."""
FILES_EVERY = 2
HOLD_CHECK_SECONDS = 0.2
LATE_SECONDS = 0.1
"""A group that starts more than this after its agreed start did not start with the others."""


class NotWritten(RunError):
    """The summary was made and could not be written. It is in `summary`."""

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
        attempt: int = 0,
        on_second: Callable[[Status], None] | None = None,
        on_workload: Callable[[WorkloadFacts], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.plan = plan
        self.paths = paths
        self._api_key = api_key
        self._on_second = on_second
        self._on_workload = on_workload
        self._on_note = on_note
        secret = secret or secrets.token_urlsafe(32)
        self._group = Group(plan)
        self._ranks = Ranks(plan, paths, secret, self._group.add, attempt)
        self._progress = Progress(plan, self._group, self._ranks.up, standing_of)
        self._port = Port(secret, self._progress, accept=self._ranks.accept, obey=self.obey)
        self._sampler = Sampler(plan, api_key)
        self._power = PowerSampler(plan.gpu_sources, api_key)
        self._journal = Journal(paths, self._progress, self.obey)
        self._starting: asyncio.Task[Environment] | None = None
        self._released = asyncio.Event()
        self._start_no_earlier = 0.0
        self._started_at: str | None = None
        self.stops = 0
        self._aborted_at = 0
        self.drained_at: float | None = None
        """When all ranks had reported, on this machine's clock."""
        self._over = asyncio.Event()

    async def run(self) -> Summary:
        """Carry out the plan and write the summary. Raises `RunError`; what was finished by then is on disk."""
        provided = await self._provide()
        host = local_address(self.plan.host)
        server = await self._port.listen(host)
        address = f"{in_url(host)}:{server.sockets[0].getsockname()[1]}"
        described = {"schema": 1, "url": f"http://{address}", "host": node_name(), "pid": os.getpid()}
        watching = asyncio.create_task(self._watch())
        try:
            write_atomically(self.paths.address, msgspec.json.encode(described) + b"\n")
            environment = await self._start(address, provided)
            await self._ranks.done(self._seconds_left)
            self.drained_at = monotonic()
            await self._end(watching)
            summary = self._summary(environment)
            await self._keep(summary)
        except BaseException as error:
            reason = str(error) or type(error).__name__
            self._progress.phase = "failed"
            await self._end(watching)
            with suppress(OSError):
                await self._journal.write_last(reason)
            self._port.dismiss_followers(self._progress.status(reason))
            if isinstance(error, OSError):
                raise RunError(self._cannot_write(error)) from None
            raise
        else:
            self._show()
            self._port.dismiss_followers(self._progress.status())
            watching.result()  # a bug in it shows, now that nothing can be lost
            return summary
        finally:
            server.close()
            await self._ranks.close()
            await self._sampler.close()
            await self._power.close()

    async def _provide(self) -> Provided:
        """Make the run directory, and what the ranks read there. Raises `PlanError` and `RunError`."""
        plan = self.plan
        _make_run_directory(self.paths, plan)
        try:
            context = await context_of(plan, self._api_key) if isinstance(plan.prompts, TraceFile) else None
            provided: Provided = await run_in_thread(lambda: provide(plan, self.paths, context), None)
        except OSError as error:
            raise RunError(self._cannot_write(error)) from None
        self._ranks.workload = provided.workload
        if provided.facts is not None and self._on_workload is not None:
            self._on_workload(provided.facts)
        if self._on_note is not None:
            for note in provided.notes:
                self._on_note(note)
        if provided.plan is not plan:
            self._replan(provided.plan)
        return provided

    def _replan(self, plan: Plan) -> None:
        """Go by a plan that asks for less: what it does not ask for is not missing, when the run is counted."""
        self.plan = self._group.plan = self._progress.plan = self._ranks.plan = plan
        try:
            write_atomically(self.paths.plan, encode_plan(plan))
        except OSError as error:
            raise RunError(self._cannot_write(error)) from None

    @property
    def begun_at(self) -> float | None:
        """The common start, on this machine's clock in seconds; None before it is known."""
        return None if self._progress.start_at is None else self._progress.start_at / 1e9

    def stop(self) -> None:
        """The first call ends the window and drains; a second one ends the run at once. Finished requests are kept."""
        self.stops += 1
        progress = self._progress
        if progress.start_at is None or self._starting is None or not self._starting.done():
            if self._starting is not None:
                self._starting.cancel()
        elif self.stops == 1:
            at = max(0, monotonic_ns() + DRAIN_NOTICE_NS - progress.start_at)
            if progress.window_end is None or at < progress.window_end:
                progress.window_end = at
            # also in the drain: a rank that got a TERM of its own learns that the run ends in order
            self._ranks.send(Drain(at))
        else:
            self._aborted_at = self._aborted_at or monotonic_ns()
            self._ranks.send(Abort())

    def interrupt(self) -> None:
        """Handle Ctrl-C: as `stop`, but in the drain the first one ends the run at once."""
        for _ in range(2 if self._progress.group_phase == "draining" and not self.stops else 1):
            self.stop()

    def obey(self, command: str) -> bool:
        """Carry out a command: `run`, `run <unix time>`, `stop` or `abort`. Returns False for anything else."""
        started = self._progress.start_at is not None
        match command.split():
            case ["run"] | ["run", _] if started and self.plan.start == "manual":
                pass  # a repeat from a sender who missed the answer
            case ["run"] if not started:
                self._released.set()
            case ["run", moment] if not started and self._is_near(moment):
                self._start_no_earlier = float(moment)
                self._released.set()
            case ["stop"]:
                if not self.stops:  # a repeat is no `abort`
                    self.stop()
            case ["abort"]:
                for _ in range(1 if self.stops else 2):
                    self.stop()
            case _:
                return False
        return True

    def _is_near(self, moment: str) -> bool:
        return bool(re.fullmatch(r"\d{1,12}(\.\d*)?", moment)) and float(moment) - time() <= self.plan.hold_seconds

    async def _start(self, address: str, provided: Provided) -> Environment:
        """Do everything before the common start; `stop` ends it at any point."""
        self._starting = asyncio.create_task(self._prepare(address, provided))
        if self.stops:
            self._starting.cancel()
        try:
            return await self._starting
        except asyncio.CancelledError:
            if not self.stops:
                raise
            self._progress.start_at = None  # nothing was sent, and no second of it is told
            message = "stopped before the start"
            raise RunError(message) from None

    async def _prepare(self, address: str, provided: Provided) -> Environment:
        await self._ranks.start(address)
        self._group.attempt = self._ranks.attempt
        service, facts, notes = await try_service(self.plan, provided.prompts, self._api_key)
        await self._ranks.ready(self.plan.barrier_seconds)
        await self._hold()
        await reset_caches(self.plan, self._api_key)
        if self.stops:
            raise asyncio.CancelledError  # of the timeouts above, one may have swallowed it
        hosts = {member.hello.host for member in self._ranks.members.values()}
        environment = environment_of(
            self.plan,
            service,
            facts,
            [*provided.notes, *notes],
            hosts=hosts,
            stock=provided.stock,
            workload=provided.facts,
        )
        self._progress.environment = environment
        await self._count_down(self._begin(service))
        return environment

    async def _hold(self) -> None:
        """Wait for the command `run`, and then until just before the start that it names."""
        if self.plan.start == "auto":
            return
        self._progress.phase = "holding"
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
        """How long before the common start the ranks must know it, to open their connections."""
        return NOTICE_SECONDS + needed_ahead(self.plan, 0, self.plan.ranks) * CONNECT_SECONDS

    def _begin(self, service: Service) -> int:
        """Send the common start to the ranks. Returns it."""
        left = self._start_no_earlier - time()
        ahead = max(self._notice_seconds(), left)
        start_at = monotonic_ns() + round(ahead * 1e9)
        self._started_at = _now()
        progress = self._progress
        progress.late_seconds = ahead - left if self._start_no_earlier and ahead - left > LATE_SECONDS else 0.0
        progress.start_at = start_at
        progress.phase = "running"
        self._ranks.send(Start(at=start_at, service=service))
        self._sampler.start(start_at)
        self._power.start(start_at)
        if ahead > SILENCE_SECONDS:
            self._show()
        return start_at

    async def _count_down(self, start_at: int) -> None:
        """Wait until a stop could not reach the ranks before the start any more."""
        await asyncio.sleep(max(0.0, (start_at - DRAIN_NOTICE_NS - monotonic_ns()) / 1e9))
        for path in (self.paths.timeline, self.paths.summary):  # of an earlier attempt, when the job starts anew
            path.unlink(missing_ok=True)

    def _seconds_left(self) -> float | None:
        """Seconds from now until the ranks must be done; None while there is no end to count from."""
        start_at, window_end = self._progress.start_at, self._progress.window_end
        if self.stops > 1:
            return (self._aborted_at - monotonic_ns()) / 1e9 + END_SLACK_SECONDS
        if start_at is None or window_end is None:
            return None
        drained = start_at + window_end + round(self.plan.drain_seconds * 1e9)
        end = max(drained, self._group.recorded_at)  # millions of lines take long, and a rank at it is well
        return (end - monotonic_ns()) / 1e9 + END_SLACK_SECONDS

    async def _watch(self) -> None:
        """Each second: write the timeline, inform followers, show the live line, write the files."""
        for turn in count():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._progress.seconds_to_next_line())
                return
            if self._progress.second_is_over():
                self._close_second()
                self._show()
            self._journal.begin_turn(with_files=turn % FILES_EVERY == 0)

    def _close_second(self) -> None:
        line = self._progress.close_second(Sampled(self._sampler.take(), self._power.take()))
        self._journal.add(line)
        self._port.publish(self._progress.status(), line)

    def _show(self) -> None:
        if self._on_second is not None:
            try:
                self._on_second(self._progress.status())
            except OSError:  # the terminal is gone
                self._on_second = None

    async def _end(self, watching: asyncio.Task[None]) -> None:
        """Finish the timeline, when nothing else writes any more."""
        self._over.set()
        await asyncio.wait([watching])
        await self._journal.end_turns()
        await asyncio.gather(self._sampler.finish(), self._power.finish())
        while self._progress.has_open_second():
            self._close_second()

    async def _keep(self, summary: Summary) -> None:
        """Write the summary and the last of the other files. Raises `NotWritten`."""
        try:
            await self._journal.write_summary(summary)
            self._progress.phase = "finished"
            await self._journal.write_last(None)
        except OSError as error:
            raise NotWritten(self._cannot_write(error), summary) from None

    def _cannot_write(self, error: OSError) -> str:
        return (
            f"cannot write to {self.paths.root}: {error.strerror or 'it hangs'}; make room there, "
            "then `tokenstorm report` shows what was kept"
        )

    def _summary(self, environment: Environment) -> Summary:
        plan, group, late = self.plan, self._group, self._progress.late_seconds
        merged = merge_ranks(plan, self._ranks, group, self._progress.window_end)
        notes = environment.notes + [self._journal.trouble] * bool(self._journal.trouble)
        if late:
            notes.append(f"it started {late:.1f} s after the moment for which it was released")
        run = Run(
            plan=plan,
            outcome="cancelled" if merged.cut_short or self.stops > 1 else "completed",
            window_end=merged.window_end,
            arrivals_end=count_end_ns(plan),
            requested_rps=mean_rate(plan, merged.window_end),
            started_at=self._started_at,
            ended_at=_now(),
            ranks=merged.reports,
            waited_below_cap=group.waited_below_cap,
            unsent_by_lost_ranks=merged.unsent,
            left_out=sorted(group.left_out),
            environment=msgspec.structs.replace(environment, notes=notes),
            missing=merged.missing,
            engine=group.engine.report(),
            peak=group.peak,
            energy=group.energy,
            stretches=group.stretches,
        )
        return summarize(run, merged.tally)


def _make_run_directory(paths: RunPaths, plan: Plan) -> None:
    try:
        make_private(paths.root)
        if reason := too_little_room(paths.root, plan):
            raise RunError(reason)
        write_atomically(paths.plan, encode_plan(plan))
    except OSError as error:
        message = f"cannot use the run directory {paths.root}: {error.strerror}; choose another with --run-dir"
        raise RunError(message) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
