"""Answers about services, their engines and recipes.

Fields that came later, or may be missing from another version's answer, have defaults for whoever reads them; what answers
sends them all.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, UnsetType, field

from tokenstorm.api.answer import SENT, Answer, said

Status = Literal["pending", "configuring", "starting", "running", "completed", "failed", "cancelled", "timeout"]
ReplicaStatus = Literal["pending", "starting", "running", "failed"]
ENDED: frozenset[Status] = frozenset(("completed", "failed", "cancelled", "timeout"))
"""The statuses of a service that do not change any more."""
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
ServiceId = Annotated[str, said("The service's or group's id", "s3f9a1c2e0b7")]
Moment = datetime | None


class ServiceInfo(Answer, frozen=True, kw_only=True):
    """One service, or one group of replicas."""

    id: ServiceId
    type: Annotated[Literal["service", "replica_group"], said("A recipe with replicas makes a group")] = "service"
    group_id: Annotated[str | None, said("For a group its id, the same as `id`; else null")] = None
    recipe_name: Annotated[str, said(None, "inference/vllm-single-node")]
    engine: Annotated[str, said("`simulated` when no real engine answers", "vllm")] = ""
    simulated: Annotated[bool, said("No real engine answers: what it is measured at says nothing about hardware")] = (
        False
    )
    model: Annotated[str, said("The name under which the model is served", MODEL)] = ""
    note: Annotated[str, said("What is unusual about it, such as that it is simulated", "")] = ""
    status: Annotated[
        Status,
        said(
            "pending (in the queue), configuring (the job runs), starting (engines start), running (all "
            "replicas were ready), then completed, failed, cancelled or timeout"
        ),
    ]
    reason: Annotated[str, said("Why it has that status, where there is more to say", "")] = ""
    total_replicas: Annotated[int, said("Engines on all nodes", 1)] = 1
    healthy_replicas: Annotated[int, said("Those that answer now", 1)] = 0
    endpoint: Annotated[
        str | None, said("The first healthy engine, as the cluster sees it, without /v1", "http://10.0.0.7:8001")
    ] = None
    job_id: Annotated[str | None, said("The scheduler's job", "481516")] = None
    nodes: Annotated[tuple[str, ...], said("Where the job runs", ["mel2103"])] = ()
    created_at: Annotated[Moment, SENT] = None
    started_at: Annotated[Moment, said("When the job began to run")] = None
    ready_at: Annotated[Moment, said("When all replicas had answered")] = None
    ended_at: Moment = None


class ServiceList(Answer, frozen=True, kw_only=True):
    """All services and groups, the oldest first."""

    services: tuple[ServiceInfo, ...]
    count: Annotated[int, said(None, 1)]


class StatusInfo(Answer, frozen=True, kw_only=True):
    """How a service stands."""

    status: Status
    reason: Annotated[str, said("Why, where there is more to say", "")] = ""


class LogPiece(Answer, frozen=True, kw_only=True):
    """A piece of the logs."""

    logs: Annotated[str, said("The text. Where several logs have news, each begins with a line `==> name <==`")]
    next: Annotated[str, said("Give it as `after` to get what was written since", "replica.mel2103.0.log:5120")]


class TargetGroup(Answer, frozen=True, kw_only=True):
    """An entry of Prometheus' HTTP service discovery."""

    targets: Annotated[tuple[str, ...], said(None, ["127.0.0.1:8001"])]
    labels: Annotated[
        dict[str, str],
        said(None, {"__metrics_path__": "/api/v1/services/s3f9a1c2e0b7/metrics", "service_id": "s3f9a1c2e0b7"}),
    ] = field(default_factory=dict)


class ReplicaInfo(Answer, frozen=True, kw_only=True):
    """One engine of a group."""

    id: Annotated[str, said(None, "mel2103.0")]
    port: Annotated[int | None, said(None, 8001)] = None
    status: ReplicaStatus
    endpoint: Annotated[str | None, said(None, "http://10.0.0.7:8001")] = None
    models: Annotated[tuple[str, ...], said(None, [MODEL])] = ()
    nodes: Annotated[
        tuple[str, ...],
        said("Where it runs, the node that listens first; several for an engine that spans them", ["mel2103"]),
    ] = ()
    reason: Annotated[str, said("Why it does not answer", "")] = ""


class NodeJob(Answer, frozen=True, kw_only=True):
    """The part of a group's job that runs on one node. An engine over several nodes stands with the one that listens."""

    job_id: Annotated[str | None, said(None, "481516")] = None
    node: Annotated[str, said(None, "mel2103")]
    replicas: tuple[ReplicaInfo, ...] = ()


class GroupInfo(ServiceInfo, frozen=True, kw_only=True):
    """A group of replicas, node by node."""

    node_jobs: Annotated[tuple[NodeJob, ...], said("Empty until the job runs")] = ()


class GroupList(Answer, frozen=True, kw_only=True):
    """All groups, the oldest first."""

    groups: tuple[GroupInfo, ...]
    count: Annotated[int, said(None, 1)]


class ParameterInfo(Answer, frozen=True, kw_only=True):
    """Something that `config` may give a recipe."""

    name: Annotated[str, said(None, "max_model_len")]
    type: Literal["string", "integer", "number", "boolean", "strings"]
    default: Annotated[Any, said(None, 4096)] = None
    choices: Annotated[tuple[Any, ...], said("Empty: any value of the type", [])] = ()
    minimum: Annotated[float | None, said(None, 1)] = None
    maximum: float | None = None
    description: Annotated[str, said(None, "Longest prompt and answer together, in tokens")] = ""


class ResourcesInfo(Answer, frozen=True, kw_only=True):
    """What a recipe asks for on each node."""

    nodes: Annotated[int, said(None, 1)] = 1
    cpu: Annotated[int, said(None, 16)] = 1
    memory_mb: Annotated[int | None, said(None, 65536)] = None
    gpu: Annotated[int, said(None, 4)] = 0
    time_limit: Annotated[int, said("Minutes", 120)] = 60
    gpu_per_replica: Annotated[int | None, said(None, 1)] = None
    replicas_per_node: Annotated[int, said(None, 4)] = 1
    nodes_per_replica: Annotated[
        int | None, said("On how many nodes one engine runs; null for engines within a node", None)
    ] = None


class RecipeInfo(Answer, frozen=True, kw_only=True):
    """A recipe, and what can be changed about it."""

    name: Annotated[str, said(None, "inference/vllm-replicas")]
    description: str = ""
    engine: Annotated[str, said(None, "vllm")] = ""
    resources: ResourcesInfo = ResourcesInfo()
    environment: Annotated[dict[str, str], said("Variables it sets; `{…}` is filled in")] = field(default_factory=dict)
    parameters: tuple[ParameterInfo, ...] = ()


class RecipeList(Answer, frozen=True, kw_only=True):
    """All recipes, by name."""

    recipes: tuple[RecipeInfo, ...]
    count: Annotated[int, said(None, 7)]


class AccessEndpoint(Answer, frozen=True, kw_only=True):
    """Where one replica listens, as the cluster sees it."""

    replica: Annotated[str, said(None, "mel2103.0")]
    url: Annotated[str, said("Without /v1", "http://10.0.0.7:8001")]
    nodes: Annotated[tuple[str, ...], said("Where it runs, the node that listens first", ["mel2103"])] = ()


class GpuSamplerInfo(Answer, frozen=True, kw_only=True):
    """Where the GPUs of one of its nodes can be read, with the service's key: Prometheus text in DCGM's names."""

    node: Annotated[str, said(None, "mel2103")]
    url: Annotated[str, said("As the cluster sees it", "http://10.0.0.7:40123/metrics")]
    gpus: Annotated[int, said("How many the service has there", 4)]


class AccessInfo(Answer, frozen=True, kw_only=True):
    """What a client on the cluster needs to talk to the engine itself. The key is a secret."""

    endpoints: tuple[AccessEndpoint, ...]
    gpu_samplers: tuple[GpuSamplerInfo, ...] = ()
    api_key: Annotated[str | None, SENT] = None

    def __repr__(self) -> str:
        return f"AccessInfo(endpoints={self.endpoints!r}, api_key=***)"


class EndpointInfo(Answer, frozen=True, kw_only=True):
    """Where the orchestrator is."""

    endpoint: Annotated[
        str | None, said("As the cluster's nodes see it; null where they do not", "http://127.0.0.1:8000")
    ]
    api_key: Annotated[str | None, said("The token that it wants there, if it does")] = None
    local_url: Annotated[str, said("One that can be used from here", "http://127.0.0.1:8000")]


class PromptAnswer(Answer, frozen=True, kw_only=True):
    """What it answered, and which replica did."""

    success: bool = True
    response: str = ""
    usage: dict[str, int] | None = None
    model: str = ""
    routed_to: Annotated[str, said(None, "node1.0")] = ""
    service_id: str = ""
    simulated: Annotated[bool | UnsetType, said("There, and true, when no real engine answered")] = UNSET


class ModelsAnswer(Answer, frozen=True, kw_only=True):
    """The names of the models; while the engine loads, why there are none."""

    success: bool
    models: tuple[str, ...] | None = None
    error: str | None = None


class EngineService(Answer, frozen=True, kw_only=True):
    """A service that takes prompts."""

    id: str
    recipe_name: str = ""
    engine: str = ""
    simulated: Annotated[bool, said("No real engine answers")] = False
    model: str = ""
    status: str
    healthy_replicas: int = 0


class EngineServices(Answer, frozen=True, kw_only=True):
    """All of them."""

    services: tuple[EngineService, ...]
    count: int
