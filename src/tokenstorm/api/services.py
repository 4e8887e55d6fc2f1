"""Answers about services, their engines and recipes.

Fields that came later, or may be missing from another version's answer, have defaults for whoever reads them; what answers
sends them all.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType, field

from tokenstorm.api.answer import SENT, Answer

Status = Literal["pending", "configuring", "starting", "running", "completed", "failed", "cancelled", "timeout"]
ReplicaStatus = Literal["pending", "starting", "running", "failed"]
ENDED: frozenset[Status] = frozenset(("completed", "failed", "cancelled", "timeout"))
"""The statuses of a service that do not change any more."""
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
ServiceId = Annotated[str, Meta(description="The service's or group's id", examples=["s3f9a1c2e0b7"])]
Moment = datetime | None


class ServiceInfo(Answer, frozen=True, kw_only=True):
    """One service, or one group of replicas."""

    id: ServiceId
    type: Annotated[Literal["service", "replica_group"], Meta(description="A recipe with replicas makes a group")] = (
        "service"
    )
    group_id: Annotated[str | None, Meta(description="For a group its id, the same as `id`; else null")] = None
    recipe_name: Annotated[str, Meta(examples=["inference/vllm-single-node"])]
    engine: Annotated[str, Meta(description="`simulated` when no real engine answers", examples=["vllm"])] = ""
    simulated: Annotated[
        bool, Meta(description="No real engine answers: what it is measured at says nothing about hardware")
    ] = False
    model: Annotated[str, Meta(description="The name under which the model is served", examples=[MODEL])] = ""
    note: Annotated[str, Meta(description="What is unusual about it, such as that it is simulated", examples=[""])] = ""
    status: Annotated[
        Status,
        Meta(
            description="pending (in the queue), configuring (the job runs), starting (engines start), running (all "
            "replicas were ready), then completed, failed, cancelled or timeout"
        ),
    ]
    reason: Annotated[str, Meta(description="Why it has that status, where there is more to say", examples=[""])] = ""
    total_replicas: Annotated[int, Meta(description="Engines on all nodes", examples=[1])] = 1
    healthy_replicas: Annotated[int, Meta(description="Those that answer now", examples=[1])] = 0
    endpoint: Annotated[
        str | None,
        Meta(
            description="The first healthy engine, as the cluster sees it, without /v1",
            examples=["http://10.0.0.7:8001"],
        ),
    ] = None
    job_id: Annotated[str | None, Meta(description="The scheduler's job", examples=["481516"])] = None
    nodes: Annotated[tuple[str, ...], Meta(description="Where the job runs", examples=[["mel2103"]])] = ()
    created_at: Annotated[Moment, SENT] = None
    started_at: Annotated[Moment, Meta(description="When the job began to run")] = None
    ready_at: Annotated[Moment, Meta(description="When all replicas had answered")] = None
    ended_at: Moment = None


class ServiceList(Answer, frozen=True, kw_only=True):
    """All services and groups, the oldest first."""

    services: tuple[ServiceInfo, ...]
    count: Annotated[int, Meta(examples=[1])]


class StatusInfo(Answer, frozen=True, kw_only=True):
    """How a service stands."""

    status: Status
    reason: Annotated[str, Meta(description="Why, where there is more to say", examples=[""])] = ""


class LogPiece(Answer, frozen=True, kw_only=True):
    """A piece of the logs."""

    logs: Annotated[
        str, Meta(description="The text. Where several logs have news, each begins with a line `==> name <==`")
    ]
    next: Annotated[
        str,
        Meta(description="Give it as `after` to get what was written since", examples=["replica.mel2103.0.log:5120"]),
    ]


class TargetGroup(Answer, frozen=True, kw_only=True):
    """An entry of Prometheus' HTTP service discovery."""

    targets: Annotated[tuple[str, ...], Meta(examples=[["127.0.0.1:8001"]])]
    labels: Annotated[
        dict[str, str],
        Meta(examples=[{"__metrics_path__": "/api/v1/services/s3f9a1c2e0b7/metrics", "service_id": "s3f9a1c2e0b7"}]),
    ] = field(default_factory=dict)


class ReplicaInfo(Answer, frozen=True, kw_only=True):
    """One engine of a group."""

    id: Annotated[str, Meta(examples=["mel2103.0"])]
    port: Annotated[int | None, Meta(examples=[8001])] = None
    status: ReplicaStatus
    endpoint: Annotated[str | None, Meta(examples=["http://10.0.0.7:8001"])] = None
    models: Annotated[tuple[str, ...], Meta(examples=[[MODEL]])] = ()
    nodes: Annotated[
        tuple[str, ...],
        Meta(
            description="Where it runs, the node that listens first; several for an engine that spans them",
            examples=[["mel2103"]],
        ),
    ] = ()
    reason: Annotated[str, Meta(description="Why it does not answer", examples=[""])] = ""


class NodeJob(Answer, frozen=True, kw_only=True):
    """The part of a group's job that runs on one node. An engine over several nodes stands with the one that listens."""

    job_id: Annotated[str | None, Meta(examples=["481516"])] = None
    node: Annotated[str, Meta(examples=["mel2103"])]
    replicas: tuple[ReplicaInfo, ...] = ()


class GroupInfo(ServiceInfo, frozen=True, kw_only=True):
    """A group of replicas, node by node."""

    node_jobs: Annotated[tuple[NodeJob, ...], Meta(description="Empty until the job runs")] = ()


class GroupList(Answer, frozen=True, kw_only=True):
    """All groups, the oldest first."""

    groups: tuple[GroupInfo, ...]
    count: Annotated[int, Meta(examples=[1])]


class ParameterInfo(Answer, frozen=True, kw_only=True):
    """Something that `config` may give a recipe."""

    name: Annotated[str, Meta(examples=["max_model_len"])]
    type: Literal["string", "integer", "number", "boolean", "strings"]
    default: Annotated[Any, Meta(examples=[4096])] = None
    choices: Annotated[tuple[Any, ...], Meta(description="Empty: any value of the type", examples=[[]])] = ()
    minimum: Annotated[float | None, Meta(examples=[1])] = None
    maximum: float | None = None
    description: Annotated[str, Meta(examples=["Longest prompt and answer together, in tokens"])] = ""


class ResourcesInfo(Answer, frozen=True, kw_only=True):
    """What a recipe asks for on each node."""

    nodes: Annotated[int, Meta(examples=[1])] = 1
    cpu: Annotated[int, Meta(examples=[16])] = 1
    memory_mb: Annotated[int | None, Meta(examples=[65536])] = None
    gpu: Annotated[int, Meta(examples=[4])] = 0
    time_limit: Annotated[int, Meta(description="Minutes", examples=[120])] = 60
    gpu_per_replica: Annotated[int | None, Meta(examples=[1])] = None
    replicas_per_node: Annotated[int, Meta(examples=[4])] = 1
    nodes_per_replica: Annotated[
        int | None,
        Meta(description="On how many nodes one engine runs; null for engines within a node", examples=[None]),
    ] = None


class RecipeInfo(Answer, frozen=True, kw_only=True):
    """A recipe, and what can be changed about it."""

    name: Annotated[str, Meta(examples=["inference/vllm-replicas"])]
    description: str = ""
    engine: Annotated[str, Meta(examples=["vllm"])] = ""
    resources: ResourcesInfo = ResourcesInfo()
    environment: Annotated[dict[str, str], Meta(description="Variables it sets; `{…}` is filled in")] = field(
        default_factory=dict
    )
    parameters: tuple[ParameterInfo, ...] = ()


class RecipeList(Answer, frozen=True, kw_only=True):
    """All recipes, by name."""

    recipes: tuple[RecipeInfo, ...]
    count: Annotated[int, Meta(examples=[7])]


class AccessEndpoint(Answer, frozen=True, kw_only=True):
    """Where one replica listens, as the cluster sees it."""

    replica: Annotated[str, Meta(examples=["mel2103.0"])]
    url: Annotated[str, Meta(description="Without /v1", examples=["http://10.0.0.7:8001"])]
    nodes: Annotated[
        tuple[str, ...], Meta(description="Where it runs, the node that listens first", examples=[["mel2103"]])
    ] = ()


class AccessInfo(Answer, frozen=True, kw_only=True):
    """What a client on the cluster needs to talk to the engine itself. The key is a secret."""

    endpoints: tuple[AccessEndpoint, ...]
    api_key: Annotated[str | None, SENT] = None

    def __repr__(self) -> str:
        return f"AccessInfo(endpoints={self.endpoints!r}, api_key=***)"


class EndpointInfo(Answer, frozen=True, kw_only=True):
    """Where the orchestrator is."""

    endpoint: Annotated[
        str | None,
        Meta(description="As the cluster's nodes see it; null where they do not", examples=["http://127.0.0.1:8000"]),
    ]
    api_key: Annotated[str | None, Meta(description="The token that it wants there, if it does")] = None
    local_url: Annotated[str, Meta(description="One that can be used from here", examples=["http://127.0.0.1:8000"])]


class PromptAnswer(Answer, frozen=True, kw_only=True):
    """What it answered, and which replica did."""

    success: bool = True
    response: str = ""
    usage: dict[str, int] | None = None
    model: str = ""
    routed_to: Annotated[str, Meta(examples=["node1.0"])] = ""
    service_id: str = ""
    simulated: Annotated[bool | UnsetType, Meta(description="There, and true, when no real engine answered")] = UNSET


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
    simulated: Annotated[bool, Meta(description="No real engine answers")] = False
    model: str = ""
    status: str
    healthy_replicas: int = 0


class EngineServices(Answer, frozen=True, kw_only=True):
    """All of them."""

    services: tuple[EngineService, ...]
    count: int
