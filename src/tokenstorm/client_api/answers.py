"""What the Client API answers."""

from typing import Any, Literal

from msgspec.structs import asdict
from pydantic import BaseModel, Field

from tokenstorm.client_api.group import ClientGroup, GroupStatus
from tokenstorm.client_api.manager import Live
from tokenstorm.cluster.scheduler import Outcome


class Created(BaseModel):
    """A group that was created."""

    status: Literal["created"] = "created"
    group_id: int = Field(examples=[1])
    num_clients: int = Field(examples=[10])
    message: str = Field(examples=["group 1 was submitted as job 4711"])


class ProgressAnswer(BaseModel):
    """How far the run is; the counts include the warm-up."""

    elapsed_seconds: float = Field(description="Since the common start of the clients")
    fraction: float | None = Field(description="How much of the run is over, 0 to 1")
    sent: int
    succeeded: int
    failed: int
    in_flight: int
    phase: str = Field(examples=["measured"])
    age_seconds: float | None = Field(
        description="How old this is, when its launcher cannot be reached; null at the end"
    )


class Info(BaseModel):
    """All about a group."""

    num_clients: int
    status: GroupStatus
    outcome: Outcome | None = Field(description="How it went, once stopped")
    reason: str = Field(description="Why it waits, or how it ended, in words")
    engine: str | None = Field(description="The service's engine; `simulated` is no real one", examples=["vllm"])
    job_id: str | None
    job_state: str | None = Field(description="What the scheduler says of the job")
    client_address: str | None = Field(description="Where the launcher listens, as the cluster sees it")
    created_at: str
    started_at: str | None
    ended_at: str | None
    progress: ProgressAnswer | None
    load_config: dict[str, Any] = Field(description="What was asked for, with what was chosen for it; no API key")
    run_id: str
    run_dir: str = Field(description="Where the run's files are, on the cluster")
    observers: list[str]


class GroupAnswer(BaseModel):
    """One group."""

    group_id: int = Field(examples=[1])
    info: Info


class GroupList(BaseModel):
    """The groups, oldest first; whole with `detail`."""

    groups: list[int] | list[GroupAnswer] = Field(examples=[[1, 2]])
    count: int = Field(examples=[2])


class Done(BaseModel):
    """What was done to a group."""

    status: str = Field(examples=["stopping"])
    group_id: int


class DoneToAll(BaseModel):
    """What was done to several groups."""

    status: str = Field(examples=["released"])
    group_ids: list[int]
    start_at: str = Field(description="The common start, UTC")


class Observing(BaseModel):
    """Who is told."""

    status: Literal["observing"] = "observing"
    group_id: int
    url: str


class Logs(BaseModel):
    """A part of the job's logs, and the cursor for what comes after it."""

    logs: str
    next: str = Field(examples=["2048-0"])


class ScrapeTarget(BaseModel):
    """As Prometheus's HTTP service discovery wants it."""

    targets: list[str] = Field(examples=[["127.0.0.1:8003"]])
    labels: dict[str, str] = Field(examples=[{"__metrics_path__": "/api/v1/client-groups/1/metrics", "group_id": "1"}])


def answer_of(group: ClientGroup, request: dict[str, Any], live: Live | None, run_dir: str) -> GroupAnswer:
    """A group as the API shows it."""
    progress = group.progress if live is None else live.progress
    age = None if live is None or live.age_seconds < 1 else round(live.age_seconds, 1)
    info = Info(
        num_clients=group.num_clients,
        status=group.status,
        outcome=group.outcome,
        reason=group.reason,
        engine=group.engine,
        job_id=group.job_id,
        job_state=group.job_state,
        client_address=group.client_address,
        created_at=group.created_at,
        started_at=group.started_at,
        ended_at=group.ended_at,
        progress=None if progress is None else ProgressAnswer(**asdict(progress), age_seconds=age),
        load_config=request,
        run_id=group.run_id,
        run_dir=run_dir,
        observers=list(group.observers),
    )
    return GroupAnswer(group_id=group.group_id, info=info)
