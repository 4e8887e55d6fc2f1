"""One rank: sends its stripe of the schedule and turns every answer into a `Result`."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic_ns
from typing import Literal

import msgspec

from tokenstorm.loadgen.ahead import Ahead
from tokenstorm.loadgen.answers import Answer
from tokenstorm.loadgen.arrivals import clients_of
from tokenstorm.loadgen.clock import Alarm
from tokenstorm.loadgen.flight import Flight, Folds, judged
from tokenstorm.loadgen.impatience import Impatience
from tokenstorm.loadgen.messages import Live
from tokenstorm.loadgen.openai import Requests, explain
from tokenstorm.loadgen.operations import answers_of
from tokenstorm.loadgen.replicas import Replicas
from tokenstorm.loadgen.schedule import Schedule
from tokenstorm.loadgen.standstills import STALL_NS, Standstills
from tokenstorm.loadgen.unsent import unsent_lines
from tokenstorm.loadgen.writer import LineWriter
from tokenstorm.metrics.tally import WAIT_NS, Tally, Window
from tokenstorm.plan import Plan
from tokenstorm.result import CENSORED, Result

TICK_SECONDS = 0.02
TICK_NS = round(TICK_SECONDS * 1e9)
FLUSH_TICKS = 10
"""After this many ticks lines go to the writer, and connections that were idle too long are closed."""

BATCH = 64
GAPS_AT_ONCE = 1000
RECORD_NS = 2_000_000
"""Unsent arrivals are recorded for this long at a time; answers are read in between."""
GRACE_NS = 50_000_000
"""An arrival that is due just before the window ends may leave this much later. After that it counts as unsent."""

Phase = Literal["warmup", "measured", "draining", "finished"]

_encode_lines = msgspec.json.Encoder().encode_lines


class Rank:
    """Drives one rank from the common start to the end of its drain.

    `started_at` is the common start, in nanoseconds of this machine's monotonic clock; call `start` shortly before it.
    `on_window_over` is called once, when nothing is sent any more; `on_finished` once, at the end.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        ranks: int,
        *,
        started_at: int,
        schedule: Schedule,
        requests: Requests,
        replicas: Replicas,
        writer: LineWriter,
        on_window_over: Callable[[], None],
        on_finished: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.rank = rank
        self.started_at = started_at
        self.clients = clients_of(plan, rank, ranks)
        self.window = Window.of(plan, plan.window_end_ns)
        self.phase: Phase = "warmup"
        self.total = Tally()
        self.replicas = replicas
        self._requests = requests
        self.answer_for = answers_of(plan)
        self._impatience = Impatience(plan.cancel, plan.seed) if plan.cancel else None
        self._writer = writer
        self._on_window_over = on_window_over
        self._on_finished = on_finished
        self._schedule = schedule
        self._free = deque([0] * self.clients)
        """When each free client became free, in order. At the start all are free."""
        self._in_flight: dict[int, Flight] = {}
        self._finished: list[Result] = []
        self._gaps: list[int] = []
        self._tally = Tally()
        self._live = Live()
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._pump)
        self._ahead = Ahead(requests.compose_next, schedule, started_at)
        self._standstills = Standstills(0)
        self._folds = Folds()
        self._next_tick = started_at
        self._ticks = 0
        self._timeout_ns = round(plan.request_timeout_seconds * 1e9)
        self._close_timer: asyncio.TimerHandle | None = None
        self._drain_until: int | None = None
        self._unsent: Iterator[Result] = iter(())
        self._counted = 0
        self._slept_through = 0
        """How many of the waiting arrivals fell due while the loop stood still."""
        self._all_recorded = False

    def start(self) -> None:
        """Begin: from now on the loop must turn."""
        self._set_close_timer()
        self._standstills.forget(self._now())
        self._set_tick(monotonic_ns())
        self._pump()

    def drain(self, at: int) -> None:
        """End the window at `at` (nanoseconds from the common start) instead of when the plan says; now, if `at` is past."""
        if self.phase in {"warmup", "measured"}:
            at = max(at, self._now())  # what was sent since then counts
            if self.window.end is None or at < self.window.end:
                self.window = Window.of(self.plan, at)
                self._set_close_timer()

    def abort(self) -> None:
        """End now; what is in flight is censored."""
        if self.phase in {"warmup", "measured"}:
            now, end, due = self._now(), self.window.end, self._schedule.next_at
            # what the rank was just about to send is nobody's fault, and no part of the window
            at = min(now, due) if due is not None and now - due < GRACE_NS else now
            self.window = Window.of(self.plan, at if end is None else min(at, end))
            self._close_window(now)
        self._censor("aborted")

    def ended(self, flight: Flight) -> None:
        """Record how a request ended, and give its client the next one."""
        self._in_flight.pop(flight.seq, None)
        result = self._schedule.ended(self._result(flight), flight.said)
        self._finished.append(result)
        failed = result.error is not None
        if failed:
            self._failed(flight, result)
        else:
            self._live.succeeded += 1
            self.replicas.answered(flight.replica)
            answer = flight.answer
            if answer is not None and result.phase == "measured":
                self._add_gaps(answer)
        self._live.output_tokens += result.output_tokens or 0
        if len(self._finished) >= BATCH:
            self.flush()
        self._client_free(result.done or 0, failed=failed and result.outcome != "cancelled")

    def take_live(self) -> tuple[Live, Tally]:
        """What happened since the last call; the tally goes into the total."""
        self.flush()
        self._record_gaps()
        live, tally = self._live, self._tally
        self._live, self._tally = Live(peak=len(self._in_flight)), Tally()
        self.total.merge(tally)
        return live, tally

    def flush(self) -> None:
        """Hand every request that has ended to the writer and the tally."""
        finished = self._finished
        if finished:
            self._finished = []
            self._writer.put(_encode_lines(finished), len(finished))
            self._tally.add(finished, self.window)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        return self._schedule.waiting

    def _now(self) -> int:
        return monotonic_ns() - self.started_at

    def _pump(self) -> None:
        """Send what is due, as far as clients are free, and set the alarm for the next.

        After a batch the alarm rings at once, so that a rank that is behind still reads answers.
        """
        schedule, now = self._schedule, self._now()
        self._notice_standstill(now)
        for _ in range(BATCH):
            if not self._is_due(now):
                break
            at = schedule.fall_due()
            self._live.scheduled += 1
            if self._free and not self._is_late(now):
                freed = self._free.popleft()
                seq, scheduled = schedule.take()
                self._send(seq, scheduled, max(scheduled, freed))
                now = self._now()
            else:
                self._slept_through += self._standstills.hold(at)
        if self.phase in {"draining", "finished"}:
            return
        self._alarm.set(None if schedule.next_at is None else self.started_at + schedule.next_at)
        self._ahead.begin()
        if schedule.exhausted and self.plan.ends_by_count and not schedule.waiting:
            self._close_window(now)

    def _is_due(self, now: int) -> bool:
        at, end = self._schedule.next_at, self.window.end
        return at is not None and at <= now and (end is None or at < end)

    def _is_late(self, now: int) -> bool:
        return self.window.end is not None and now > self.window.end + GRACE_NS

    def _send(self, seq: int, scheduled: int, slot_free: int) -> None:
        now = monotonic_ns()
        replica = self.replicas.pick(self._schedule.lane(seq), now)
        flight = Flight(self, seq, scheduled, slot_free, replica)
        flight.request, prompt = self._requests.build(seq, replica)
        flight.prompt, flight.model = prompt.index, self._requests.model_of(seq)
        flight.asked, flight.prompt_asked = self._requests.asked(prompt), prompt.asked
        self._in_flight[seq] = flight
        live = self._live
        live.sent += 1
        live.peak = max(live.peak, len(self._in_flight))
        live.waited += slot_free - scheduled > WAIT_NS and scheduled >= self.window.start
        flight.sent = now = monotonic_ns()
        flight.deadline = now + self._timeout_ns
        if self._impatience is not None:
            self._impatience.meet(flight)
        self.replicas.pools[replica].send(flight)

    def _client_free(self, done: int, *, failed: bool) -> None:
        """Give the next arrival to a client that is free since `done`, its answer's end. From the window's end on, none can use it."""
        schedule, end = self._schedule, self.window.end
        if self.phase in {"draining", "finished"}:
            self._finish_if_over()
        elif end is not None and done >= end:
            return
        elif schedule.waiting:
            seq, scheduled = schedule.take()
            self._slept_through -= self._standstills.hold(scheduled)
            self._send(seq, scheduled, max(scheduled, done))
            if schedule.follows_answers or (schedule.exhausted and not schedule.waiting):
                self._pump()
        else:
            self._free.append(done)
            schedule.answered(done, failed=failed)
            if schedule.follows_answers:
                self._pump()

    def _set_close_timer(self) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
        if self.window.end is not None:
            delay = (self.started_at + self.window.end - monotonic_ns()) / 1e9
            self._close_timer = self._loop.call_later(max(0.0, delay), self._window_over)

    def _window_over(self) -> None:
        end = self.window.end
        if end is not None and self._now() < end:  # timers fire early
            self._close_timer = self._loop.call_later(0.001, self._window_over)
        else:
            self._pump()
            now = self._now()
            if self._is_due(now) and not self._is_late(now):
                self._loop.call_soon(self._window_over)
            else:
                self._close_window(now)

    def _close_window(self, now: int) -> None:
        """Stop sending. Arrivals that wait for a client are unsent."""
        if self.phase in {"draining", "finished"}:
            return
        self.phase = "draining"
        self._notice_standstill(now)
        self._alarm.close()
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._drain_until = now + round(self.plan.drain_seconds * 1e9)
        self._counted = self._schedule.waiting
        self._live.waited += 0 if self._free else self._counted - self._slept_through
        self._on_window_over()
        self._unsent = unsent_lines(
            self._schedule,
            self._standstills,
            self.window,
            rank=self.rank,
            replicas=self.replicas.names,
            idle_since=self._free[0] if self._free and now - self._free[0] > GRACE_NS else None,
        )
        self._record_unsent()

    def _record_unsent(self) -> None:
        """Record unsent arrivals for a moment at a time."""
        until = monotonic_ns() + RECORD_NS
        for result in self._unsent:
            self._finished.append(result)
            known = min(self._counted, result.count)  # that fell due in time was counted then
            self._counted -= known
            self._live.scheduled += result.count - known
            self._live.unsent += result.count
            if monotonic_ns() > until:
                self._loop.call_soon(self._record_unsent)
                break
        else:
            self._all_recorded = True
        self.flush()
        self._finish_if_over()

    def _censor(self, why: str) -> None:
        for flight in list(self._in_flight.values()):
            flight.fail(CENSORED, why)

    def _finish_if_over(self) -> None:
        if self.phase == "draining" and self._all_recorded and not self._in_flight:
            self.flush()
            self.phase = "finished"
            for pool in self.replicas.pools:
                pool.close()
            self._on_finished()

    def _tick(self) -> None:
        lag = (now := monotonic_ns()) - self._next_tick
        self._notice_standstill(now - self.started_at)
        self._live.loop_lag = max(self._live.loop_lag, lag / 1e9)
        if self.phase == "warmup" and now - self.started_at >= self.window.start:
            self.phase = "measured"
        if lag > STALL_NS:  # the rank stood still: its requests had so much less of its attention
            for flight in self._in_flight.values():
                flight.deadline += lag
        # only after a whole turn of the loop: by then it has read what lay in the sockets
        self._loop.call_soon(self._loop.call_soon, self._end_what_is_late, now)
        self._folds.fold_some(self._in_flight)
        self._ticks += 1
        if self._ticks % FLUSH_TICKS == 0:
            self.flush()
            for pool in self.replicas.pools:
                pool.retire()
        if self.phase != "finished":
            self._set_tick(now)

    def _set_tick(self, now: int) -> None:
        self._next_tick = now + TICK_NS
        self._loop.call_later(TICK_SECONDS, self._tick)

    def _notice_standstill(self, now: int) -> None:
        """Notice whether the loop stood still: the next tick, or the next arrival, was due long ago."""
        due, arrival = self._next_tick - self.started_at, self._schedule.next_at
        self._standstills.look(now, due if arrival is None else min(due, arrival))

    def _end_what_is_late(self, now: int) -> None:
        """Fail requests whose time was up at `now`, and censor what outlasted the drain. Everything that had come was read first."""
        late = []
        for flight in self._in_flight.values():  # in the order of sending, which is that of their deadlines
            if now < flight.deadline:
                break
            late.append(flight)
        for flight in late:
            flight.fail("timeout", f"no complete answer in {self.plan.request_timeout_seconds:g} s")
        if self._drain_until is not None and now - self.started_at > self._drain_until:
            self._censor("still in flight when the drain ended")

    def _add_gaps(self, answer: Answer) -> None:
        """Record gaps in batches: many at a time are cheaper, too many would hold up the loop."""
        self._gaps += answer.gaps
        if answer.older_gaps is not None:
            self._tally.histograms["inter_chunk"].merge(answer.older_gaps)
        if len(self._gaps) > GAPS_AT_ONCE:
            self._record_gaps()

    def _record_gaps(self) -> None:
        self._tally.histograms["inter_chunk"].record_many(self._gaps)
        self._gaps.clear()

    def _failed(self, flight: Flight, result: Result) -> None:
        self._live.failed += result.outcome == "failed"
        if result.error is not None and result.error.kind in {"refused", "unreachable", "tls", "dns"}:
            self.replicas.refused(flight.replica, monotonic_ns())
        elif flight.status is not None:
            self.replicas.answered(flight.replica)

    def _result(self, flight: Flight) -> Result:
        answer = flight.answer
        failure = flight.failure
        if failure is None:
            if answer is None:
                answer = self.answer_for(flight.status or 0, None)
            answer.finish(flight.status or 0)
            failure = answer.failure
        elif answer is not None:
            answer.cut()
            failure = answer.failure or failure  # what the server said before it broke off tells more
        line = flight.line(
            answer or Answer(),
            failure and self._requests.redacted(explain(failure, flight)),
            ignore_eos=bool(self.plan.ignore_eos),
            rank=self.rank,
            replica=self.replicas.names[flight.replica],
            phase=self.window.phase_of(flight.scheduled),
            start=self.started_at,
        )
        return line if self.plan.slo is None else judged(line, self.plan.slo, answer)
