"""Answers about groups of clients, and the events of a group."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from msgspec import Raw, field

from tokenstorm.api.answer import SENT, Answer, Outcome, said

Verdict = Literal["valid", "suspect", "invalid"]
GroupStatus = Literal["pending", "running", "stopped"]
Time = TypeVar("Time")
"""How moments are held: as the text that is sent, or as what it says."""
Listed = TypeVar("Listed")


class Created(Answer, frozen=True, kw_only=True):
    """A group that was created."""

    status: Literal["created"] = "created"
    group_id: Annotated[int, said(None, 1)]
    num_clients: Annotated[int, said(None, 10)]
    message: Annotated[str, said(None, "group 1 was submitted as job 4711")] = ""


class ReasonAnswer(Answer, frozen=True, kw_only=True):
    """One thing that speaks against a run's numbers: a code for programs, a sentence for people."""

    code: Annotated[str, said(None, "failures")] = ""
    text: Annotated[str, said(None, "52 of 1000 requests failed, and have no part in the latencies")] = ""


class VerdictAnswer(Answer, frozen=True, kw_only=True):
    """Whether the numbers so far can be trusted, and the reasons why not."""

    state: Verdict
    reasons: tuple[ReasonAnswer, ...] = ()


class ReplicaAnswer(Answer, frozen=True, kw_only=True):
    """What one replica got of the measured requests that have ended so far."""

    url: str = ""
    sent: int = 0
    failed: int = 0
    left_out: Annotated[bool, said("It refused three times in a row, and was left out for some time")] = False


class ProgressAnswer(Answer, frozen=True, kw_only=True):
    """How far the run is; the counts include the warm-up."""

    elapsed_seconds: Annotated[float, said("Since the common start of the clients")] = 0.0
    fraction: Annotated[float | None, said("How much of the run is over, 0 to 1")] = None
    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    in_flight: int = 0
    phase: Annotated[str, said(None, "measured")] = ""
    requested_rps: Annotated[float | None, said("Asked for at that moment; at the end, by the plan")] = None
    achieved_rps: Annotated[float | None, said("Answered a second, in the measured window so far")] = None
    output_tokens_per_second: float | None = None
    ttft_p99_seconds: float | None = None
    latency_p99_seconds: float | None = None
    goodput: Annotated[
        float | None, said("The share of good requests among the measured ones that have ended; null without `slo`")
    ] = None
    verdict: Annotated[
        VerdictAnswer | None,
        said("The verdict so far, by the bounds of the end; null before the first answer and at the end"),
    ] = None
    failures: Annotated[dict[str, str], said("The words of one failure for each kind, while the run goes on")] = field(
        default_factory=dict
    )
    replicas: Annotated[dict[str, ReplicaAnswer], said("What each replica got, while the run goes on")] = field(
        default_factory=dict
    )
    age_seconds: Annotated[
        float | None, said("How old this is, when its launcher cannot be reached; null at the end")
    ] = None


class Info(Answer, Generic[Time], frozen=True, kw_only=True):
    """All about a group."""

    num_clients: int
    status: GroupStatus
    outcome: Annotated[Outcome | None, said("How it went, once stopped")] = None
    reason: Annotated[str | None, SENT, said("Why it waits, or how it ended, in words")] = None
    engine: Annotated[str | None, said("The service's engine; `simulated` is no real one", "vllm")] = None
    job_id: str | None = None
    job_state: Annotated[str | None, said("What the scheduler says of the job")] = None
    client_address: Annotated[str | None, said("Where the launcher listens, as the cluster sees it")] = None
    created_at: Annotated[Time | None, SENT] = None
    started_at: Time | None = None
    ended_at: Time | None = None
    verdict: Annotated[Verdict | None, said("Whether its numbers can be trusted, once there is a summary")] = None
    progress: ProgressAnswer | None = None
    load_config: Annotated[dict[str, Any], said("What was asked for, with what was chosen for it; no API key")] = field(
        default_factory=dict
    )
    run_id: str = ""
    run_dir: Annotated[str | None, SENT, said("Where the run's files are, on the cluster")] = None
    observers: tuple[str, ...] = ()


class GroupAnswer(Answer, Generic[Time], frozen=True, kw_only=True):
    """One group."""

    group_id: Annotated[int, said(None, 1)]
    info: Info[Time]


class GroupList(Answer, Generic[Listed], frozen=True, kw_only=True):
    """The groups, oldest first; whole with `detail`."""

    groups: Annotated[Listed, said(None, [1, 2])]
    count: Annotated[int, said(None, 2)]


class Group(GroupAnswer[datetime], frozen=True, kw_only=True):
    """One group, as the SDK gives it: with moments."""


Groups: TypeAlias = GroupList[tuple[Group, ...]]


class Done(Answer, frozen=True, kw_only=True):
    """What was done to a group."""

    status: Annotated[str, said(None, "stopping")]
    group_id: int


class DoneToAll(Answer, frozen=True, kw_only=True):
    """What was done to several groups."""

    status: Annotated[str, said(None, "released")]
    group_ids: tuple[int, ...]
    start_at: Annotated[str | None, SENT, said("The common start, UTC")] = None


class Observing(Answer, frozen=True, kw_only=True):
    """Who is told."""

    status: Literal["observing"] = "observing"
    group_id: int
    url: str


class Logs(Answer, frozen=True, kw_only=True):
    """A part of the job's logs, and the cursor for what comes after it."""

    logs: str
    next: Annotated[str, said(None, "2048-0")]


class ScrapeTarget(Answer, frozen=True, kw_only=True):
    """As Prometheus's HTTP service discovery wants it."""

    targets: Annotated[tuple[str, ...], said(None, ["127.0.0.1:8003"])]
    labels: Annotated[
        dict[str, str], said(None, {"__metrics_path__": "/api/v1/client-groups/1/metrics", "group_id": "1"})
    ] = field(default_factory=dict)


class StatusChange(Answer, frozen=True, kw_only=True):
    """What observers and streams of events are told of a group's new status, and when that was."""

    group_id: int
    run_id: str = ""
    name: str = ""
    status: GroupStatus
    outcome: Outcome | None = None
    reason: str | None = None
    deleted: bool = False
    at: str = ""


class Change(StatusChange, frozen=True, kw_only=True):
    """An event: a group's new status. Nothing comes after a `final` one."""

    final: bool = False


class Glance(Answer, frozen=True, kw_only=True):
    """Three percentiles, in seconds."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


class Second(Answer, frozen=True, kw_only=True):
    """An event: one second of a run, `t` seconds after its start; counts are of that second, those of `so_far` since the start.

    `status` is what the launcher said of the whole run at that moment, as its `status.json` has it but for the environment.
    """

    t: int
    phase: str = ""
    scheduled: int = 0
    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    so_far: ProgressAnswer = ProgressAnswer()
    unsent: int = 0
    output_tokens: int = 0
    in_flight: int = 0
    waiting: int = 0
    target_rps: float | None = None
    latency: Glance = Glance()
    service_time: Glance = Glance()
    ttft: Glance = Glance()
    inter_chunk: Glance = Glance()
    status: Raw = Raw(b"null")
