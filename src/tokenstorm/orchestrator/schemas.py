"""What the calls about services take and answer. The Server API documents its own calls with them too."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .recipes import Recipe
from .replicas import Replica, ReplicaStatus
from .service import Service, Status

ServiceId = Annotated[str, Field(description="The service's or group's id", examples=["s3f9a1c2e0b7"])]
_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


class ServiceRequest(BaseModel):
    """What to start."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"recipe_name": "inference/sim-single-node"},
                {
                    "recipe_name": "inference/vllm-replicas",
                    "config": {"model": _MODEL, "resources": {"nodes": 2, "time_limit": 240}},
                },
            ]
        },
    )

    recipe_name: str = Field(description="A recipe: GET /recipes lists them", examples=["inference/vllm-single-node"])
    config: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Values for the recipe's parameters by name, and under `environment` (variables of the engine; null "
        "takes one away) and `resources` (nodes, cpu, memory, gpu, time_limit in minutes or as Slurm has it) what shall differ from the "
        "recipe. Values reach the engine as typed.",
        examples=[{"model": _MODEL, "environment": {"HF_TOKEN": "…"}, "resources": {"gpu": 2}}],
    )


class ServiceInfo(BaseModel):
    """One service, or one group of replicas."""

    id: ServiceId
    type: Literal["service", "replica_group"] = Field(description="A recipe with replicas makes a group")
    group_id: str | None = Field(description="For a group its id, the same as `id`; else null")
    recipe_name: str = Field(examples=["inference/vllm-single-node"])
    engine: str = Field(description="`simulated` when no real engine answers", examples=["vllm"])
    simulated: bool = Field(description="No real engine answers: what it is measured at says nothing about hardware")
    model: str = Field(description="The name under which the model is served", examples=[_MODEL])
    note: str = Field(description="What is unusual about it, such as that it is simulated", examples=[""])
    status: Status = Field(
        description="pending (in the queue), configuring (the job runs), starting (engines start), running (all replicas "
        "were ready), then completed, failed, cancelled or timeout"
    )
    reason: str = Field(description="Why it has that status, where there is more to say", examples=[""])
    total_replicas: int = Field(description="Engines on all nodes", examples=[1])
    healthy_replicas: int = Field(description="Those that answer now", examples=[1])
    endpoint: str | None = Field(
        description="The first healthy engine, as the cluster sees it, without /v1", examples=["http://10.0.0.7:8001"]
    )
    job_id: str | None = Field(description="The scheduler's job", examples=["481516"])
    nodes: list[str] = Field(description="Where the job runs", examples=[["mel2103"]])
    created_at: datetime
    started_at: datetime | None = Field(description="When the job began to run")
    ready_at: datetime | None = Field(description="When all replicas had answered")
    ended_at: datetime | None


class ServiceList(BaseModel):
    """All services and groups, the oldest first."""

    services: list[ServiceInfo]
    count: int = Field(examples=[1])


class StatusInfo(BaseModel):
    """How a service stands."""

    status: Status
    reason: str = Field(description="Why, where there is more to say", examples=[""])


class StatusRequest(BaseModel):
    """The one change of status that a user can ask for."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["cancelled"] = Field(examples=["cancelled"])


class LogPiece(BaseModel):
    """A piece of the logs."""

    logs: str = Field(description="The text. Where several logs have news, each begins with a line `==> name <==`")
    next: str = Field(
        description="Give it as `after` to get what was written since", examples=["replica.mel2103.0.log:5120"]
    )


class TargetGroup(BaseModel):
    """An entry of Prometheus' HTTP service discovery."""

    targets: list[str] = Field(examples=[["127.0.0.1:8001"]])
    labels: dict[str, str] = Field(
        examples=[{"__metrics_path__": "/api/v1/services/s3f9a1c2e0b7/metrics", "service_id": "s3f9a1c2e0b7"}]
    )


class ReplicaInfo(BaseModel):
    """One engine of a group."""

    id: str = Field(examples=["mel2103.0"])
    port: int | None = Field(examples=[8001])
    status: ReplicaStatus
    endpoint: str | None = Field(examples=["http://10.0.0.7:8001"])
    models: list[str] = Field(examples=[[_MODEL]])
    nodes: list[str] = Field(
        description="Where it runs, the node that listens first; several for an engine that spans them",
        examples=[["mel2103"]],
    )
    reason: str = Field(description="Why it does not answer", examples=[""])


class NodeJob(BaseModel):
    """The part of a group's job that runs on one node. An engine over several nodes stands with the one that listens."""

    job_id: str | None = Field(examples=["481516"])
    node: str = Field(examples=["mel2103"])
    replicas: list[ReplicaInfo]


class GroupInfo(ServiceInfo):
    """A group of replicas, node by node."""

    node_jobs: list[NodeJob] = Field(description="Empty until the job runs")


class GroupList(BaseModel):
    """All groups, the oldest first."""

    groups: list[GroupInfo]
    count: int = Field(examples=[1])


class ParameterInfo(BaseModel):
    """Something that `config` may give a recipe."""

    name: str = Field(examples=["max_model_len"])
    type: Literal["string", "integer", "number", "boolean", "strings"]
    default: JsonValue = Field(examples=[4096])
    choices: list[JsonValue] = Field(description="Empty: any value of the type", examples=[[]])
    minimum: float | None = Field(examples=[1])
    maximum: float | None
    description: str = Field(examples=["Longest prompt and answer together, in tokens"])


class ResourcesInfo(BaseModel):
    """What a recipe asks for on each node."""

    nodes: int = Field(examples=[1])
    cpu: int = Field(examples=[16])
    memory_mb: int | None = Field(examples=[65536])
    gpu: int = Field(examples=[4])
    time_limit: int = Field(description="Minutes", examples=[120])
    gpu_per_replica: int | None = Field(examples=[1])
    replicas_per_node: int = Field(examples=[4])
    nodes_per_replica: int | None = Field(
        description="On how many nodes one engine runs; null for engines within a node", examples=[None]
    )


class RecipeInfo(BaseModel):
    """A recipe, and what can be changed about it."""

    name: str = Field(examples=["inference/vllm-replicas"])
    description: str
    engine: str = Field(examples=["vllm"])
    resources: ResourcesInfo
    environment: dict[str, str] = Field(description="Variables it sets; `{…}` is filled in")
    parameters: list[ParameterInfo]


class RecipeList(BaseModel):
    """All recipes, by name."""

    recipes: list[RecipeInfo]
    count: int = Field(examples=[7])


class AccessEndpoint(BaseModel):
    """Where one replica listens, as the cluster sees it."""

    replica: str = Field(examples=["mel2103.0"])
    url: str = Field(description="Without /v1", examples=["http://10.0.0.7:8001"])
    nodes: list[str] = Field(description="Where it runs, the node that listens first", examples=[["mel2103"]])


class AccessInfo(BaseModel):
    """What a client on the cluster needs to talk to the engine itself. The key is a secret."""

    endpoints: list[AccessEndpoint]
    api_key: str


class EndpointInfo(BaseModel):
    """Where the orchestrator is."""

    endpoint: str | None = Field(
        description="As the cluster's nodes see it; null where they do not", examples=["http://127.0.0.1:8000"]
    )
    api_key: str | None = Field(None, description="The token that it wants there, if it does")
    local_url: str = Field(description="One that can be used from here", examples=["http://127.0.0.1:8000"])


def service_info(service: Service, replicas: tuple[Replica, ...]) -> ServiceInfo:
    """A service as it is shown."""
    healthy = [replica for replica in replicas if replica.status == "running"]
    return ServiceInfo(
        id=service.id,
        type="replica_group" if service.is_group else "service",
        group_id=service.id if service.is_group else None,
        recipe_name=service.recipe_name,
        engine=service.engine,
        simulated=service.simulated,
        model=service.model,
        note=service.note,
        status=service.status,
        reason=service.reason,
        total_replicas=service.total_replicas,
        healthy_replicas=len(healthy),
        endpoint=healthy[0].url if healthy else None,
        job_id=service.job_id,
        nodes=list(service.nodes),
        created_at=service.created_at,
        started_at=service.started_at,
        ready_at=service.ready_at,
        ended_at=service.ended_at,
    )


def group_info(service: Service, replicas: tuple[Replica, ...]) -> GroupInfo:
    """A group as it is shown: replicas that their node has not published yet are pending."""
    each = service.resources.nodes_per_engine or 1
    engines = () if service.ended else range(0, len(service.nodes), each)
    nodes_of = {service.nodes[first]: list(service.nodes[first : first + each]) for first in engines}
    by_node: dict[str, list[ReplicaInfo]] = {node: [] for node in nodes_of}
    for replica in replicas:
        by_node.setdefault(replica.node, []).append(_replica_info(replica))
    if len(by_node) > service.resources.nodes:  # the scheduler and the nodes do not agree on the nodes' names
        by_node = {node: found for node, found in by_node.items() if found}
    for node, found in by_node.items():
        known = {replica.id for replica in found}
        names = [name for index in range(service.resources.replicas) if (name := f"{node}.{index}") not in known]
        found += [
            ReplicaInfo(
                id=name,
                port=None,
                status="pending",
                endpoint=None,
                models=[],
                nodes=nodes_of.get(node, [node]),
                reason="",
            )
            for name in names[: service.resources.replicas - len(found)]
        ]
    jobs = [NodeJob(job_id=service.job_id, node=node, replicas=found) for node, found in by_node.items()]
    return GroupInfo(**service_info(service, replicas).model_dump(), node_jobs=jobs)


def recipe_info(recipe: Recipe) -> RecipeInfo:
    """A recipe as it is shown."""
    resources = recipe.resources
    return RecipeInfo(
        name=recipe.name,
        description=recipe.description,
        engine=recipe.engine,
        resources=ResourcesInfo(
            nodes=resources.nodes,
            cpu=resources.cpu,
            memory_mb=resources.memory_mb,
            gpu=resources.gpu,
            time_limit=resources.time_limit,
            gpu_per_replica=resources.gpu_per_replica,
            replicas_per_node=resources.replicas,
            nodes_per_replica=resources.nodes_per_engine,
        ),
        environment=dict(recipe.environment),
        parameters=[
            ParameterInfo(
                name=parameter.name,
                type=parameter.kind,
                default=_json(parameter.default),
                choices=[_json(choice) for choice in parameter.choices],
                minimum=parameter.minimum,
                maximum=parameter.maximum,
                description=parameter.description,
            )
            for parameter in recipe.parameters.values()
        ],
    )


def _replica_info(replica: Replica) -> ReplicaInfo:
    return ReplicaInfo(
        id=replica.id,
        port=replica.port,
        status=replica.status,
        endpoint=replica.url,
        models=list(replica.models),
        nodes=list(replica.nodes),
        reason=replica.reason,
    )


def _json(value: str | float | bool | tuple[str, ...] | None) -> JsonValue:  # noqa: FBT001 - a value of any kind
    return list(value) if isinstance(value, tuple) else value
