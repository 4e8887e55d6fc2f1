"""One client group: what is known about it, and how that changes. Data and pure functions, no I/O."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec

from tokenstorm.api.group_answers import GroupStatus
from tokenstorm.api.groups import signal_lead
from tokenstorm.cluster.pending import why_pending
from tokenstorm.cluster.scheduler import JobState, Sent
from tokenstorm.cluster.scheduler import Outcome as JobOutcome
from tokenstorm.loadgen.live import Glance, Standing
from tokenstorm.loadgen.live import Status as LauncherStatus
from tokenstorm.metrics.reports import State
from tokenstorm.metrics.summary import Summary

Stage = Literal["waiting", "submitting", "queued", "running", "stopped"]
Ending = Literal["stop", "service died"]
SIGNALLED_EARLY_SECONDS = 60
"""How much earlier than asked Slurm may signal a job about its limit."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the run is, as its launcher says; times in seconds since the common start.

    Rates and percentiles are those of the measured window so far, and at the end those of the summary,
    which tells then how the group stood too.
    """

    elapsed_seconds: float
    fraction: float | None
    sent: int
    succeeded: int
    failed: int
    in_flight: int
    phase: str
    requested_rps: float | None = None
    achieved_rps: float | None = None
    output_tokens_per_second: float | None = None
    ttft_p99_seconds: float | None = None
    latency_p99_seconds: float | None = None
    goodput: float | None = None
    standing: Standing = Standing()

    @classmethod
    def of(cls, status: LauncherStatus, summary: Summary | None = None) -> "Progress":
        """The progress by the launcher's status, and by the summary once there is one."""
        same = ("elapsed_seconds", "fraction", "sent", "succeeded", "failed", "in_flight", "phase")
        rates = summary.rates if summary else status
        p99 = {name: _p99(status, summary, name) for name in ("ttft", "latency")}
        return cls(
            **{name: getattr(status, name) for name in same},
            requested_rps=rates.requested_rps,
            achieved_rps=rates.achieved_rps,
            output_tokens_per_second=rates.output_tokens_per_second,
            ttft_p99_seconds=p99["ttft"],
            latency_p99_seconds=p99["latency"],
            goodput=_goodput(status, summary),
            standing=Standing() if summary else status.standing,
        )


def _goodput(status: LauncherStatus, summary: Summary | None) -> float | None:
    if summary is None:
        return status.goodput
    return summary.goodput.ratio if summary.goodput else None


def _p99(status: LauncherStatus, summary: Summary | None, name: Literal["ttft", "latency"]) -> float | None:
    if summary is None:
        found: Glance = getattr(status, name)
        return found.p99
    metric = summary.metrics.get(f"{name}_seconds")
    return metric.p99 if metric else None


@dataclass(frozen=True)
class Live:
    """The latest of a running group, when its launcher said it, and when that came (monotonic seconds).

    `written` is how many bytes of result lines each rank has on disk, `attempt` counts the starts of its job.
    """

    progress: Progress
    said_at: datetime
    at: float
    written: Mapping[int, int]
    attempt: int = 0

    @property
    def age_seconds(self) -> float:
        """How old it is."""
        return time.monotonic() - self.at


class ClientGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One job with N clients. `stage` is where it stands: `submitting` means that the job may be there or not.

    `ending` says why it is being ended early, `told` that its launcher knows; `released` is when a held group may start
    (Unix time, 0 for at once), `late_seconds` how long after that it did. `purge`: its files are to go; `purged`: they went.
    """

    group_id: int
    run_id: str
    num_clients: int
    service_id: str | None
    name: str
    labels: dict[str, str]
    manual: bool
    hold_seconds: float
    drain_seconds: float
    time_limit_minutes: int
    created_at: str
    stage: Stage
    engine: str | None = None
    outcome: JobOutcome | None = None
    reason: str = ""
    job_id: str | None = None
    job_state: str | None = None
    submitted_at: str | None = None
    client_address: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    progress: Progress | None = None
    late_seconds: float = 0.0
    ending: Ending | None = None
    told: bool = False
    released: float | None = None
    has_summary: bool = False
    verdict: State | None = None
    deleted: bool = False
    purge: bool = False
    purged: bool = False
    observers: tuple[str, ...] = ()

    @property
    def status(self) -> GroupStatus:
        """What the API says."""
        match self.stage:
            case "running" | "stopped":
                return self.stage
            case _:
                return "pending"

    @property
    def job_name(self) -> str:
        """Unique, so that a job is never submitted twice."""
        return f"tokenstorm-{self.run_id}"

    @property
    def sent(self) -> Sent:
        """What tells its job from another job with the same id."""
        return Sent(self.job_name, datetime.fromisoformat(self.created_at).timestamp())

    @property
    def shown(self) -> tuple[object, ...]:
        """What observers and event streams are told about when it changes."""
        return (self.status, self.outcome, self.reason, self.deleted)


def now() -> str:
    """ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def digest(text: str) -> str:
    """Tells one request from another."""
    return hashlib.sha256(text.encode()).hexdigest()


def submitting(group: ClientGroup, engine: str | None) -> ClientGroup:
    """The job is about to be submitted; written down before it is."""
    return msgspec.structs.replace(group, stage="submitting", reason="being submitted", engine=engine)


def submitted(group: ClientGroup, job_id: str) -> ClientGroup:
    """The scheduler has the job."""
    return msgspec.structs.replace(
        group, stage="queued", job_id=job_id, job_state="pending", submitted_at=now(), reason="submitted"
    )


def observed(group: ClientGroup, job: JobState) -> ClientGroup:
    """What the scheduler says of a job that is not over."""
    if job.phase == "pending":
        reason = group.reason if group.ending else why_pending(job, _seconds_since(group.submitted_at))
        return msgspec.structs.replace(group, job_state="pending", reason=reason)
    return msgspec.structs.replace(
        group,
        stage="running",
        job_state="running",
        reason=group.reason if group.ending or group.job_state == "running" else "",  # else its launcher tells
        started_at=group.started_at or now(),
    )


def heard(group: ClientGroup, address: str | None, status: LauncherStatus) -> ClientGroup:
    """What its launcher says of itself, beside its progress."""
    known = msgspec.structs.replace(group, client_address=address, late_seconds=status.late_seconds)
    if group.ending:
        return known
    return msgspec.structs.replace(known, reason=_holding(known) if status.phase == "holding" else _lateness(known))


def _holding(group: ClientGroup) -> str:
    if group.released is not None:
        at = datetime.fromtimestamp(group.released, UTC).isoformat(timespec="seconds")
        return f"it was released, and starts at {at}" if group.released else "it was released, and starts"
    which = f"{group.group_id}` or POST /api/v1/client-groups/{group.group_id}/run"
    return f"it holds until `tokenstorm group run {which} releases it, for {group.hold_seconds:g} s at most"


def _lateness(group: ClientGroup) -> str:
    if not group.late_seconds:
        return ""
    late = f"{group.late_seconds:.1f} s after the moment for which it was released"
    return f"it started {late}: it was not ready before, or its clock is ahead"


def ending(group: ClientGroup, why: Ending, reason: str) -> ClientGroup:
    """It is to end early; the first reason stays."""
    return group if group.ending else msgspec.structs.replace(group, ending=why, reason=reason)


def stopped(group: ClientGroup, outcome: JobOutcome, reason: str) -> ClientGroup:
    """It is over."""
    return msgspec.structs.replace(
        group, stage="stopped", outcome=outcome, reason=reason, ended_at=now(), client_address=None
    )


def ended(
    group: ClientGroup, job: JobState, summary: Summary | None, said: str, missing: str | None = None
) -> ClientGroup:
    """Its job is over: what to call that. `said` is the launcher's own last reason, `missing` what did not come home."""
    outcome, reason = _outcome(group, job, summary, said)
    if missing:
        reason = "; ".join(filter(None, (reason, f"not all of it could be fetched: {missing} did not come")))
    known = msgspec.structs.replace(
        group,
        job_state=job.outcome or "ended",
        has_summary=summary is not None,
        verdict=summary.verdict.state if summary else None,
    )
    return stopped(known, outcome, reason)


def _outcome(group: ClientGroup, job: JobState, summary: Summary | None, said: str) -> tuple[JobOutcome, str]:
    told = job.reason or said
    if group.ending == "service died":
        return "failed", group.reason
    nobody_is_left = summary is not None and bool(summary.ranks) and all(rank.lost for rank in summary.ranks)
    if summary is not None and summary.outcome == "completed" and not nobody_is_left:
        done = summary.counts.succeeded
        return ("completed", _lateness(group)) if done else ("failed", said or "no request succeeded")
    if job.outcome in {"timeout", "node_fail", "preempted", "out_of_memory", "lost"}:
        return job.outcome, told
    cut_short = summary is not None and summary.outcome == "cancelled"
    if cut_short and group.ending is None and _reached_its_limit(group):
        return "timeout", f"the time limit of {group.time_limit_minutes} min came before the end of the run"
    if cut_short or group.ending == "stop" or job.outcome == "cancelled":
        return "cancelled", "stopped" if group.ending == "stop" else told or "the job was told to end"
    if nobody_is_left:
        said = said or "every rank was lost before the end: the logs may say why"
    when = "before its first request" if summary is None else "in the middle of its run"
    why = f" ({job.reason})" if job.reason else ""
    return "failed", said or f"the load generator ended {when}{why}: its logs may say why"


def _reached_its_limit(group: ClientGroup) -> bool:
    """Whether the job ran so long that the signal ahead of its limit had come."""
    if group.started_at is None:
        return False
    ahead = signal_lead(group.drain_seconds) + SIGNALLED_EARLY_SECONDS
    return _seconds_since(group.started_at) >= group.time_limit_minutes * 60 - ahead


def _seconds_since(moment: str | None) -> float:
    return 0.0 if moment is None else (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
