"""What the APIs answer, as far as this client reads it; members that are new are ignored."""

from datetime import datetime
from typing import Any, Literal

import msgspec

ServiceStatus = Literal["pending", "configuring", "starting", "running", "completed", "failed", "cancelled", "timeout"]
GroupStatus = Literal["pending", "running", "stopped"]
ENDED = frozenset(("completed", "failed", "cancelled", "timeout"))
"""The statuses of a service that do not change any more."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service, or a group of replicas: then `group_id` is its id. It is `running` when all its replicas answer."""

    id: str
    status: ServiceStatus
    recipe_name: str
    engine: str = ""
    simulated: bool = False
    model: str = ""
    type: str = "service"
    group_id: str | None = None
    note: str = ""
    reason: str = ""
    total_replicas: int = 1
    healthy_replicas: int = 0
    endpoint: str | None = None
    job_id: str | None = None
    nodes: tuple[str, ...] = ()
    created_at: datetime | None = None
    started_at: datetime | None = None
    ready_at: datetime | None = None
    ended_at: datetime | None = None


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of a group; `status` is pending, starting, running or failed. It listens on the first of its `nodes`."""

    id: str
    status: str
    port: int | None = None
    endpoint: str | None = None
    models: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    reason: str = ""


class NodeJob(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a group's job on one node."""

    node: str
    job_id: str | None = None
    replicas: tuple[Replica, ...] = ()


class ServiceGroup(Service, frozen=True, kw_only=True):
    """A group of replicas, node by node."""

    node_jobs: tuple[NodeJob, ...] = ()


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """How a service stands."""

    status: ServiceStatus
    reason: str = ""


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """All services."""

    services: tuple[Service, ...]
    count: int


class ServiceGroups(msgspec.Struct, frozen=True, kw_only=True):
    """All groups of replicas."""

    groups: tuple[ServiceGroup, ...]
    count: int


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the `config` of a service may set."""

    name: str
    type: str
    default: Any = None
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What a recipe asks for on each node; `time_limit` in minutes."""

    nodes: int = 1
    cpu: int = 1
    memory_mb: int | None = None
    gpu: int = 0
    time_limit: int = 60
    gpu_per_replica: int | None = None
    replicas_per_node: int = 1
    nodes_per_replica: int | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, and what can be changed about it."""

    name: str
    description: str = ""
    engine: str = ""
    resources: Resources = Resources()
    environment: dict[str, str] = {}
    parameters: tuple[Parameter, ...] = ()


class Recipes(msgspec.Struct, frozen=True, kw_only=True):
    """All recipes."""

    recipes: tuple[Recipe, ...]
    count: int


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of logs; `next` is the place to go on from."""

    logs: str
    next: str


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replica listens, as the cluster sees it; without /v1."""

    replica: str
    url: str
    nodes: tuple[str, ...] = ()


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What a client on the cluster needs to talk to the engine itself."""

    endpoints: tuple[Endpoint, ...]
    api_key: str | None = None

    def __repr__(self) -> str:
        return f"Access(endpoints={self.endpoints!r}, api_key=***)"


class VllmService(msgspec.Struct, frozen=True, kw_only=True):
    """A service that takes prompts."""

    id: str
    status: ServiceStatus
    recipe_name: str = ""
    engine: str = ""
    simulated: bool = False
    model: str = ""
    healthy_replicas: int = 0


class VllmServices(msgspec.Struct, frozen=True, kw_only=True):
    """The services that take prompts."""

    services: tuple[VllmService, ...]
    count: int


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """The models that a service has; `error` says why it has none yet."""

    success: bool
    models: tuple[str, ...] | None = None
    error: str | None = None


class Prompted(msgspec.Struct, frozen=True, kw_only=True):
    """What a service answered to a prompt."""

    success: bool
    response: str | None = None
    usage: dict[str, Any] | None = None
    model: str | None = None
    routed_to: str | None = None
    service_id: str | None = None
    simulated: bool = False
    error: str | None = None


class OrchestratorAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the orchestrator is: as the cluster's nodes see it (None: not at all), with what it wants for a key there;
    and one that can be used from here.
    """

    endpoint: str | None
    local_url: str
    api_key: str | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of Prometheus' HTTP service discovery."""

    targets: tuple[str, ...]
    labels: dict[str, str] = {}


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
