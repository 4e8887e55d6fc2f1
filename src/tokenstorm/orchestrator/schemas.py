"""What the calls about services take, and a service, a group and a recipe as they are shown."""

from typing import Literal

from msgspec.structs import asdict
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tokenstorm.api.services import (
    MODEL,
    GroupInfo,
    NodeJob,
    ParameterInfo,
    RecipeInfo,
    ReplicaInfo,
    ResourcesInfo,
    ServiceInfo,
)

from .recipe import Recipe
from .replicas import Replica
from .service import Service


class ServiceRequest(BaseModel):
    """What to start."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"recipe_name": "inference/sim-single-node"},
                {
                    "recipe_name": "inference/vllm-replicas",
                    "config": {"model": MODEL, "resources": {"nodes": 2, "time_limit": 240}},
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
        examples=[{"model": MODEL, "environment": {"HF_TOKEN": "…"}, "resources": {"gpu": 2}}],
    )


class StatusRequest(BaseModel):
    """The one change of status that a user can ask for."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["cancelled"] = Field(examples=["cancelled"])


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
        nodes=service.nodes,
        created_at=service.created_at,
        started_at=service.started_at,
        ready_at=service.ready_at,
        ended_at=service.ended_at,
    )


def group_info(service: Service, replicas: tuple[Replica, ...]) -> GroupInfo:
    """A group as it is shown: replicas that their node has not published yet are pending."""
    each = service.resources.nodes_per_engine or 1
    engines = () if service.ended else range(0, len(service.nodes), each)
    nodes_of = {service.nodes[first]: service.nodes[first : first + each] for first in engines}
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
                models=(),
                nodes=nodes_of.get(node, (node,)),
                reason="",
            )
            for name in names[: service.resources.replicas - len(found)]
        ]
    jobs = (NodeJob(job_id=service.job_id, node=node, replicas=tuple(found)) for node, found in by_node.items())
    return GroupInfo(**asdict(service_info(service, replicas)), node_jobs=tuple(jobs))


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
        parameters=tuple(
            ParameterInfo(
                name=name,
                type=parameter.kind,
                default=parameter.default,
                choices=parameter.choices,
                minimum=parameter.minimum,
                maximum=parameter.maximum,
                description=parameter.description,
            )
            for name, parameter in recipe.parameters.items()
        ),
    )


def _replica_info(replica: Replica) -> ReplicaInfo:
    return ReplicaInfo(
        id=replica.id,
        port=replica.port,
        status=replica.status,
        endpoint=replica.url,
        models=replica.models,
        nodes=replica.nodes,
        reason=replica.reason,
    )
