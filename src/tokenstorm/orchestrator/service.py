"""A service as data, and how it goes from state to state: pure, with the time as an argument."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import get_args

from tokenstorm.api.services import ENDED, Status
from tokenstorm.cluster.pending import why_pending
from tokenstorm.cluster.scheduler import JobState, Outcome, Sent

from .recipe import SIMULATED, Probe, Resources
from .replicas import Replica

STATUSES: tuple[Status, ...] = get_args(Status)
"""The engine of a service that no real one answers for."""

LEAVE_SECONDS = 30
"""How long before the time limit a service's job is told to end: engines have nothing to write then."""
SIGNALLED_EARLY_SECONDS = 60
"""How much earlier than asked Slurm may signal a job about its limit."""
WRAPPER_SAYS_SECONDS = 20.0
"""A wrapper began later than its job, and knows better why its engine is not ready in time: so long it may say it first."""

_SUSPENDED = "Slurm has suspended the job: its engines go on when the site lets it"
_TERMINATED = 128 + 15
_SAYS_NOTHING = "NonZeroExitCode"
"""Slurm's reason; it is left out where a replica says more."""
_STATUS_OF: dict[Outcome, Status] = {"completed": "completed", "cancelled": "cancelled"}
_WORDS: dict[Outcome, str] = {
    "cancelled": "the job was cancelled",
    "node_fail": "a node failed",
    "preempted": "the scheduler preempted the job",
    "out_of_memory": "the job ran out of memory",
    "lost": "the scheduler knows nothing of the job any more",
}


@dataclass(frozen=True, kw_only=True)
class Service:
    """One engine, or a group of replicas, that runs as one job. It is the row of the store too.

    `started_at` is when its job was first seen running, `ready_at` when all replicas had answered. `stopping` means
    that its end is decided and its job has still to be cancelled. `config` is what was asked for, until its job is known;
    `fingerprint` tells that from another request with the same `idempotency_key`.
    """

    id: str
    recipe_name: str
    engine: str
    model: str
    folder: str
    resources: Resources
    probe: Probe
    created_at: datetime
    api_key: str = field(repr=False)
    note: str = ""
    status: Status = "pending"
    reason: str = ""
    job_id: str | None = None
    nodes: tuple[str, ...] = ()
    started_at: datetime | None = None
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    stopping: bool = False
    config: dict[str, object] = field(default_factory=dict, repr=False)
    idempotency_key: str | None = None
    fingerprint: str = ""

    @property
    def unsettled(self) -> bool:
        """Whether its job is still to be submitted, or to be ruled out."""
        return self.job_id is None and (self.stopping or not self.ended)

    @property
    def simulated(self) -> bool:
        """Whether no real engine answers."""
        return self.engine == SIMULATED

    @property
    def is_group(self) -> bool:
        """Whether its recipe is one for replicas."""
        return self.resources.is_group

    @property
    def total_replicas(self) -> int:
        """Engines on all its nodes."""
        return self.resources.total_replicas

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    @property
    def job_name(self) -> str:
        """Unique, so that its job is found, and never submitted twice."""
        return f"tokenstorm-{self.id}"

    @property
    def sent(self) -> Sent:
        """What tells its job from another job with the same id."""
        return Sent(self.job_name, self.created_at.timestamp())

    @property
    def path(self) -> PurePosixPath:
        """Its folder on the cluster."""
        return PurePosixPath(self.folder)


def as_stored(service: Service) -> JobState | None:
    """The job's state when the service was stored, as far as it is known."""
    return JobState("running", nodes=service.nodes) if service.started_at else None


def advance(
    service: Service,
    job: JobState,
    replicas: Sequence[Replica],
    *,
    now: datetime,
    ran_seconds: float,
    silence: str = "",
) -> Service:
    """The service after a look at its job and its replicas; `ran_seconds` is how long the job has been running.

    `silence` says for how long the scheduler has not answered; `job` is then its last answer.
    """
    if service.ended:
        return service
    moved = _advance(service, job, replicas, now, ran_seconds)
    if not silence or moved.ended:
        return moved
    if len(replicas) == service.total_replicas and all(one.over and one.stopped_after is None for one in replicas):
        return _give_up(moved, f"{moved.reason}; {silence}", now)  # their wrappers have ended, and so has the job
    return replace(moved, reason="; ".join(filter(None, (moved.reason, silence))))


def _advance(
    service: Service, job: JobState, replicas: Sequence[Replica], now: datetime, ran_seconds: float
) -> Service:
    if job.phase == "ended":
        return _end(service, job, replicas, now)
    if job.phase == "pending":  # the first time, or again after it was put back into the queue
        reason = why_pending(job, (now - service.created_at).total_seconds())
        return replace(
            service, status="pending", reason=reason, nodes=(), started_at=None, ready_at=None, stopping=False
        )
    runs = replace(service, nodes=job.nodes, started_at=service.started_at or now)
    if job.suspended:  # no engine answers, and none has failed
        return replace(runs, status="running" if runs.ready_at else "starting", reason=_SUSPENDED)
    return _run(runs, replicas, now, ran_seconds)


def _run(service: Service, replicas: Sequence[Replica], now: datetime, ran_seconds: float) -> Service:
    healthy = sum(replica.status == "running" for replica in replicas)
    all_healthy = healthy == service.total_replicas
    if service.ready_at or all_healthy:
        reason = _notes(replicas) if all_healthy else _unwell(service, replicas, healthy)
        return replace(
            service, status="running", reason=reason, ready_at=service.ready_at or now, model=_model(service, replicas)
        )
    failed = [replica for replica in replicas if replica.status == "failed" and replica.stopped_after is None]
    if failed:
        return _give_up(service, "; ".join(_last_words(failed)) or _unwell(service, replicas, healthy), now)
    if ran_seconds > service.probe.timeout_seconds + (WRAPPER_SAYS_SECONDS if replicas else 0.0):
        reason = f"not ready after {service.probe.timeout_seconds:g} s: {_unwell(service, replicas, healthy)}"
        return _give_up(service, reason, now)
    if not replicas:
        return replace(service, status="configuring", reason="the job runs and has started no engine yet")
    return replace(service, status="starting", reason=_unwell(service, replicas, healthy))


def _end(service: Service, job: JobState, replicas: Sequence[Replica], now: datetime) -> Service:
    outcome = job.outcome or "lost"
    if outcome == "timeout" or (outcome == "failed" and _reached_its_limit(service, job, replicas, now)):
        reason = f"the job reached its time limit of {service.resources.time_limit} min"
        return replace(service, status="timeout", reason=reason, ended_at=now, stopping=False)
    tell = _last_words([one for one in replicas if one.stopped_after is None or outcome == "failed"])
    told = [_WORDS.get(outcome, ""), "" if tell and job.reason == _SAYS_NOTHING else job.reason]
    words = [f"{told[0]} ({told[1]})" if all(told) and outcome != "lost" else told[1] or told[0], *tell]
    if job.exit_code and outcome == "failed" and not tell:
        words.append(f"the job ended with exit code {job.exit_code}: its log says why")
    status = _STATUS_OF.get(outcome, "failed")
    return replace(service, status=status, reason="; ".join(filter(None, words)), ended_at=now, stopping=False)


def _reached_its_limit(service: Service, job: JobState, replicas: Sequence[Replica], now: datetime) -> bool:
    """Whether the job was told to end, and had run so long that this was the signal ahead of its limit."""
    stopped = [replica.stopped_after for replica in replicas if replica.stopped_after is not None]
    if not stopped and (job.exit_code != _TERMINATED or any(replica.over for replica in replicas)):
        return False
    seen = (now - service.started_at).total_seconds() if service.started_at else 0.0
    return max([seen, *stopped]) >= service.resources.time_limit * 60 - LEAVE_SECONDS - SIGNALLED_EARLY_SECONDS


def _give_up(service: Service, reason: str, now: datetime) -> Service:
    return replace(service, status="failed", reason=reason, ended_at=now, stopping=True)


def _last_words(replicas: Sequence[Replica]) -> list[str]:
    return [f"replica {one.id}: {one.reason}" for one in replicas if one.reason]


def _notes(replicas: Sequence[Replica]) -> str:
    """Notes about engines that are well, such as that only their health call could be tried."""
    return "; ".join(dict.fromkeys(replica.reason for replica in replicas if replica.reason))


def _model(service: Service, replicas: Sequence[Replica]) -> str:
    """The model name that clients ask for, where all healthy replicas agree on it."""
    names = {replica.models[0] for replica in replicas if replica.status == "running" and replica.models}
    return names.pop() if len(names) == 1 else service.model


def _unwell(service: Service, replicas: Sequence[Replica], healthy: int) -> str:
    """Who does not answer, and why."""
    words = [
        f"{replica.id}: {replica.reason}" for replica in replicas if replica.status != "running" and replica.reason
    ]
    counted = (
        f"{healthy} of {service.total_replicas} replicas answer" if service.is_group else "the engine does not answer"
    )
    return "; ".join((f"{counted} yet" if service.ready_at is None else counted, *words))
