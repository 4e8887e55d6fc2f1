"""What the APIs answer, as far as this client reads it; members that are new are ignored."""

from datetime import datetime
from typing import Any, Literal

import msgspec

GroupStatus = Literal["pending", "running", "stopped"]


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """A group that was created."""

    status: str
    group_id: int
    num_clients: int
    message: str = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is, warm-up included; `age_seconds` says how old that is when its launcher is out of reach."""

    elapsed_seconds: float = 0.0
    fraction: float | None = None
    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    in_flight: int = 0
    phase: str = ""
    age_seconds: float | None = None


class GroupInfo(msgspec.Struct, frozen=True, kw_only=True):
    """All about a group of clients."""

    num_clients: int
    status: GroupStatus
    outcome: str | None = None
    reason: str | None = None
    engine: str | None = None
    job_id: str | None = None
    job_state: str | None = None
    client_address: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: Progress | None = None
    load_config: dict[str, Any] = {}
    run_id: str = ""
    run_dir: str | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group of clients."""

    group_id: int
    info: GroupInfo


class Groups(msgspec.Struct, frozen=True, kw_only=True):
    """The groups, the oldest first."""

    groups: tuple[Group, ...]
    count: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to a group."""

    status: str
    group_id: int


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """Groups that were released together."""

    status: str
    group_ids: tuple[int, ...]
    start_at: str | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """An event: a group's new status. Nothing comes after a `final` one."""

    group_id: int
    status: GroupStatus
    outcome: str | None = None
    reason: str | None = None
    final: bool = False


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """Three percentiles, in seconds."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


class Second(msgspec.Struct, frozen=True, kw_only=True):
    """An event: one second of a run, `t` seconds after its start; counts are of that second.

    `failed_so_far` is how many requests had failed since the start.
    """

    t: int
    phase: str = ""
    scheduled: int = 0
    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    failed_so_far: int = 0
    unsent: int = 0
    output_tokens: int = 0
    in_flight: int = 0
    waiting: int = 0
    target_rps: float | None = None
    latency: Glance = Glance()
    service_time: Glance = Glance()
    ttft: Glance = Glance()
