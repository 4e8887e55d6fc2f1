"""How far a group is: the launcher's own phase and clock, and what its ranks reported."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic_ns

from tokenstorm.loadgen.arrivals import needed_ahead, rate_at
from tokenstorm.loadgen.group import Group
from tokenstorm.loadgen.live import NOTHING_SAMPLED, Glance, Sampled, Standing, Status, TimelineLine
from tokenstorm.loadgen.recent import LastMinute
from tokenstorm.metrics.counts import Outcomes
from tokenstorm.metrics.exposition import render
from tokenstorm.metrics.reports import Environment
from tokenstorm.metrics.verdict import clients_needed
from tokenstorm.plan import Plan

SECOND_NS = 10**9
SETTLE_SECONDS = 0.1
"""A second's line is written this long after its end: by then the deltas of all ranks have come."""

Judge = Callable[[Group, Mapping[int, bool], int, Environment], Standing]
"""From a group, which of its ranks are there, how far their deltas are (nanoseconds from the start) and what it runs with."""


class Progress:
    """What the launcher answers about its run at any moment.

    `phase` is the launcher's; while it is "running", the phases of the ranks count. `start_at` is the common start on
    this machine's monotonic clock and `window_end` the window's end counted from it, both in nanoseconds; None while
    nobody knows. `second` is the first second that has no line yet. `ranks_up` returns which ranks are there, `judge` how the group stands by what is
    known so far. `late_seconds` and `environment` are as in `Status`.
    """

    def __init__(self, plan: Plan, group: Group, ranks_up: Callable[[], dict[int, bool]], judge: Judge) -> None:
        self.phase = "starting"
        self.start_at: int | None = None
        self.window_end = plan.window_end_ns
        self.second = 0
        self.late_seconds = 0.0
        self.environment: Environment | None = None
        self.plan = plan
        self._group = group
        self._ranks_up, self._judge = ranks_up, judge
        self._standing = Standing()
        self._minute = LastMinute()

    @property
    def group_phase(self) -> str:
        """The phase of the group. A lost rank does not count."""
        if self.phase != "running":
            return self.phase
        if not self._group.last:
            return "warmup" if self.plan.warmup_seconds else "measured"
        up = self._ranks_up()
        phases = {delta.phase for rank, delta in self._group.last.items() if up[rank]}
        return next((phase for phase in ("warmup", "measured", "draining") if phase in phases), "draining")

    @property
    def last_line(self) -> TimelineLine | None:
        """The last second that was closed."""
        return self._group.line

    def has_open_second(self) -> bool:
        """Whether a second still needs its line at the end of the run: it began, or news of it came late."""
        return self.start_at is not None and (self._group.pending or self.second <= self._elapsed_ns() // SECOND_NS)

    def second_is_over(self) -> bool:
        """Whether the second that is next to be closed is over."""
        return self._elapsed_ns() > (self.second + 1) * SECOND_NS

    def seconds_to_next_line(self) -> float:
        """How long to wait until the next second can be closed; before the start, until the next look."""
        if self.start_at is None:
            return 1.0
        return max(0.0, (self.start_at - monotonic_ns()) / 1e9 + self.second + 1 + SETTLE_SECONDS)

    def close_second(self, sampled: Sampled = NOTHING_SAMPLED) -> TimelineLine:
        """Make the line of the next second, with what was said beside the load."""
        second, end = self.second, self.window_end
        self.second += 1
        group = self._group
        line = group.close(second, group.phase_of(second, end), group.target_of(second, end), sampled)
        known = (second + 1) * SECOND_NS if end is None else min((second + 1) * SECOND_NS, end)
        self._standing = self._judge(group, self._ranks_up(), known, self.environment or Environment())
        self._minute.add(line)
        return line

    def status(self, reason: str | None = None) -> Status:
        """How far the group is; `reason` says why it failed."""
        group, plan = self._group, self.plan
        tally, line, elapsed = group.tally, group.line, self._elapsed_ns()
        known = min(elapsed, self.second * SECOND_NS)  # the deltas of later seconds are not in yet
        known = known if self.window_end is None else min(known, self.window_end)
        seconds = max((known - plan.window_start_ns) / 1e9, 1e-9)
        measuring = known > plan.window_start_ns
        return Status(
            at=datetime.now(UTC),
            run_id=plan.run_id,
            attempt=group.attempt,
            phase=self.group_phase,
            reason=reason,
            elapsed_seconds=elapsed / 1e9,
            fraction=self._fraction(elapsed),
            window_end_seconds=None if self.window_end is None else self.window_end / 1e9,
            **{name: getattr(group.total, name) for name in Outcomes.__struct_fields__},
            in_flight=line.in_flight if line else 0,
            waiting=line.waiting if line else 0,
            requested_rps=self._target_rps(),
            achieved_rps=tally.done_in_window / seconds if measuring else 0.0,
            output_tokens_per_second=tally.output_tokens_in_window / seconds if measuring else 0.0,
            goodput=self._goodput(),
            latency=Glance.of(tally.histograms["latency"]),
            service_time=Glance.of(tally.histograms["service_time"]),
            ttft=Glance.of(tally.histograms["ttft"]),
            ranks=plan.ranks,
            ranks_up=sum(self._ranks_up().values()),
            late_seconds=self.late_seconds,
            opening=self._connections_opening(),
            standing=self._standing,
            num_clients=plan.num_clients,
            failed_by_kind=dict(self._minute.failed_by_kind),
            newest_failure=group.newest_failure,
            unsent_by_generator=tally.overslept,
            recent=self._minute.recent(),
            minute=self._minute.minute(),
            advice=self._advice(),
            environment=self.environment,
        )

    def metrics(self) -> bytes:
        """The Prometheus text of the group."""
        plan = self.plan
        group_id = plan.run_id if plan.group_id is None else str(plan.group_id)
        gauges = self._group.gauges(self.group_phase, self._ranks_up(), self._target_rps())
        return render(group_id, self._group.tally, gauges, has_slo=plan.slo is not None)

    def _elapsed_ns(self) -> int:
        return 0 if self.start_at is None else max(0, monotonic_ns() - self.start_at)

    def _target_rps(self) -> float | None:
        if self.phase != "running":
            return None
        now = self._elapsed_ns()
        is_over = self.window_end is not None and now >= self.window_end
        return 0.0 if is_over and self.plan.has_request_rate else rate_at(self.plan, now)

    def _advice(self) -> str:
        """The number of clients that could carry the rate, as soon as answers show that these cannot."""
        tally, line = self._group.tally, self._group.line
        answers = tally.warmup.succeeded + tally.counts.succeeded
        if not line or not line.waiting or not answers:
            return ""
        return clients_needed(line.target_rps, tally.service_ns / answers / 1e9, self.plan.num_clients)

    def _goodput(self) -> float | None:
        tally = self._group.tally
        if self.plan.slo is None or not tally.counts.judged:
            return None
        return tally.good.count / tally.counts.judged

    def _connections_opening(self) -> int:
        """How many connections are being opened, between the barrier and the start."""
        if self.start_at is None or monotonic_ns() >= self.start_at:
            return 0
        return sum(needed_ahead(self.plan, rank, self.plan.ranks) for rank in range(self.plan.ranks))

    def _fraction(self, elapsed: int) -> float | None:
        """How much of the run is over, by time or by count, whichever is further."""
        end, count = self.plan.window_end_ns, self.plan.arriving.request_count
        parts = [elapsed / end] if end else []
        parts += [self._group.tally.arrived / count] if count else []
        return min(1.0, max(parts))
