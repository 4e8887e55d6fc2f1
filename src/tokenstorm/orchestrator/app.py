"""The orchestrator's API: services, groups, recipes, and the way to the engines."""

from collections import Counter
from typing import Annotated, cast

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import PlainTextResponse

from tokenstorm.api.dry_run import DryRun
from tokenstorm.api.services import (
    AccessEndpoint,
    AccessInfo,
    EndpointInfo,
    GroupInfo,
    GroupList,
    LogPiece,
    RecipeInfo,
    RecipeList,
    ServiceInfo,
    ServiceList,
    Status,
    StatusInfo,
    TargetGroup,
)
from tokenstorm.errors import Unreachable
from tokenstorm.idempotency import IdempotencyKey
from tokenstorm.models import Documented
from tokenstorm.prometheus import MEDIA_TYPE, family
from tokenstorm.web import Problem, new_app, problems

from .logs import LEAST_BYTES, PLACES, UnknownSource
from .routing import Router, error_form, vllm_routes
from .schemas import ServiceRequest, StatusRequest, group_info, recipe_info, service_info
from .service import STATUSES, Service
from .services import ServiceOrchestrator

PREFIX = "/api/v1"
_DESCRIPTION = """Starts inference engines as jobs from recipes, and leads prompts to those that are well.

1. `GET /api/v1/recipes` shows what can be started.
2. `POST /api/v1/services` starts one; its `id` is used from then on.
3. `GET /api/v1/services/{id}/status` is `running` once all its replicas answer.
4. `POST /api/v1/vllm/{id}/prompt` asks it something; any OpenAI client can use `/api/v1/vllm/{id}/v1` as its base URL.
5. `DELETE /api/v1/services/{id}` ends it.
"""


def create_app(
    orchestrator: ServiceOrchestrator, router: Router, *, token: str | None = None, near: bool = True
) -> FastAPI:
    """The API over an orchestrator. The caller starts and closes the orchestrator.

    `near`: the site's nodes reach this API at the address that the caller used.
    """
    app = new_app(
        "tokenstorm orchestrator",
        _DESCRIPTION,
        ready=lambda: orchestrator.trouble,
        metrics=lambda: _own_metrics(orchestrator),
        token=token,
        form=error_form,
    )
    app.include_router(service_routes(orchestrator), prefix=PREFIX)
    app.include_router(state_routes(orchestrator), prefix=PREFIX)
    app.include_router(engine_routes(orchestrator), prefix=PREFIX)
    app.include_router(group_routes(orchestrator), prefix=PREFIX)
    app.include_router(recipe_routes(orchestrator, token, near=near), prefix=PREFIX)
    app.include_router(vllm_routes(router, lambda: orchestrator.list()), prefix=PREFIX)  # noqa: PLW0108 - asked when it is started
    return app


def described(*, token: str | None = None) -> FastAPI:
    """The API with no orchestrator behind it: for its documents alone."""
    return create_app(cast("ServiceOrchestrator", None), cast("Router", None), token=token)


def service_routes(orchestrator: ServiceOrchestrator) -> APIRouter:
    """Start and list services; a group is a service too."""
    routes = APIRouter(route_class=Documented, tags=["services"])

    def info(service: Service) -> ServiceInfo:
        return service_info(service, orchestrator.replicas(service.id))

    @routes.post(
        "/services",
        status_code=201,
        summary="Start a service from a recipe",
        responses=problems(400, 404, 422),
    )
    async def create(request: ServiceRequest, idempotency_key: IdempotencyKey = None) -> ServiceInfo:
        """It begins as `pending`, and its `reason` says what it waits for; it is `running` once all its replicas answer.

        A replica recipe makes a group. 404 lists the recipes there are; 422 names what is wrong in `config`, or says that the
        key was used for another request. What Slurm refuses later ends the service as `failed`, in Slurm's words.
        """
        return info(await orchestrator.create(request.recipe_name, request.config, idempotency_key))

    @routes.post(
        "/services/dry-run",
        summary="Show what a service would submit, and submit nothing",
        responses=problems(400, 404, 422),
    )
    async def dry_run(request: ServiceRequest) -> DryRun:
        """The job's script, the command of sbatch and of the engine, and the files, without secrets.

        Nothing is kept, and the cluster is not asked.
        """
        return orchestrator.dry_run(request.recipe_name, request.config)

    @routes.get("/services", summary="All services")
    async def list_services(
        status: Annotated[Status | None, Query(description="Only those with this status")] = None,
    ) -> ServiceList:
        found = tuple(info(service) for service in orchestrator.list() if status in (None, service.status))
        return ServiceList(services=found, count=len(found))

    @routes.get("/services/targets", summary="Prometheus HTTP service discovery", tags=["metrics"])
    async def targets(request: Request) -> list[TargetGroup]:
        """A target for each running service: this API, which hands on the engine's metrics."""
        return [
            TargetGroup(
                targets=(request.headers.get("x-forwarded-host") or request.url.netloc,), labels=_labels(service)
            )
            for service in orchestrator.list()
            if service.status == "running"
        ]

    @routes.get("/services/{service_id}", summary="One service", responses=problems(404))
    async def one(service_id: str) -> ServiceInfo:
        return info(orchestrator.get(service_id))

    return routes


def state_routes(orchestrator: ServiceOrchestrator) -> APIRouter:
    """The state of a service, and how to end it."""
    routes = APIRouter(route_class=Documented, tags=["services"])

    @routes.get("/services/{service_id}/status", summary="Its status", responses=problems(404))
    async def status_of(service_id: str) -> StatusInfo:
        service = orchestrator.get(service_id)
        return StatusInfo(status=service.status, reason=service.reason)

    @routes.post("/services/{service_id}/status", summary="Cancel it", responses=problems(400, 404, 422, 502, 504))
    async def set_status(service_id: str, request: StatusRequest) -> StatusInfo:  # noqa: ARG001 - it has one value
        """One that has ended already stays as it is."""
        service = await orchestrator.cancel(service_id)
        return StatusInfo(status=service.status, reason=service.reason)

    @routes.delete("/services/{service_id}", summary="Cancel it", responses=problems(404, 422, 502, 504))
    async def delete(service_id: str) -> StatusInfo:
        """The same as cancelling: it stays in the list, with its logs."""
        service = await orchestrator.cancel(service_id)
        return StatusInfo(status=service.status, reason=service.reason)

    return routes


def engine_routes(orchestrator: ServiceOrchestrator) -> APIRouter:
    """Logs and metrics of a service's engines, and how clients reach them."""
    routes = APIRouter(route_class=Documented, tags=["services"])

    @routes.get("/services/{service_id}/logs", summary="Its logs", responses=problems(404, 422, 502, 504))
    async def logs(
        service_id: str,
        source: Annotated[str | None, Query(description="A replica's id, or `job`; all when not given")] = None,
        after: Annotated[str | None, Query(description="The `next` of the last answer", pattern=PLACES)] = None,
        limit: Annotated[int, Query(ge=LEAST_BYTES, le=2**20, description="Bytes of each log at most")] = 65_536,
    ) -> LogPiece:
        """The job's own output and the engine's, from the beginning or from where the last piece ended.

        404 for a `source` that it has not, which lists those it has.
        """
        try:
            text, following = await orchestrator.logs(service_id, source=source, after=after, limit=limit)
        except UnknownSource as error:
            raise Problem(404, str(error), errors=[{"field": "source", "message": str(error)}]) from None
        return LogPiece(logs=text, next=following)

    @routes.get(
        "/services/{service_id}/metrics",
        summary="The engine's own metrics",
        tags=["metrics"],
        response_class=PlainTextResponse,
        responses=problems(404, 502, 503, 504),
    )
    async def metrics(service_id: str) -> Response:
        """Prometheus text; in that of a group each sample has the label `replica`. 503 while no engine answers."""
        try:
            text = await orchestrator.engine_metrics(service_id)
        except Unreachable as error:
            raise Problem(503, str(error)) from None
        return PlainTextResponse(text, media_type=MEDIA_TYPE)

    @routes.get(
        "/services/{service_id}/access", summary="What a client needs to use the engine", responses=problems(404, 409)
    )
    async def access(service_id: str) -> AccessInfo:
        """Addresses are those of the cluster. 409 with its `service_status` while no engine answers."""
        service = orchestrator.get(service_id)
        running = [replica for replica in orchestrator.replicas(service_id) if replica.status == "running"]
        endpoints = tuple(
            AccessEndpoint(replica=replica.id, url=replica.url, nodes=replica.nodes)
            for replica in running
            if replica.url
        )
        if not endpoints:
            why = f": {service.reason}" if service.reason else ""
            detail = f"no engine of service {service_id} answers: it is {service.status}{why}"
            raise Problem(409, detail, service_status=service.status)
        samplers = await orchestrator.gpu_samplers(service_id)
        return AccessInfo(endpoints=endpoints, gpu_samplers=samplers, api_key=service.api_key)

    return routes


def group_routes(orchestrator: ServiceOrchestrator) -> APIRouter:
    """Groups of replicas, node by node."""
    routes = APIRouter(route_class=Documented, tags=["groups"])

    def group(group_id: str) -> Service:
        service = orchestrator.get(group_id)
        if not service.is_group:
            detail = f"{group_id} is one service, not a group: see GET {PREFIX}/services/{group_id}"
            raise Problem(404, detail)
        return service

    @routes.get("/service-groups", summary="All groups")
    async def list_groups() -> GroupList:
        found = tuple(
            group_info(service, orchestrator.replicas(service.id))
            for service in orchestrator.list()
            if service.is_group
        )
        return GroupList(groups=found, count=len(found))

    @routes.get("/service-groups/{group_id}", summary="One group, with its replicas", responses=problems(404))
    async def one(group_id: str) -> GroupInfo:
        return group_info(group(group_id), orchestrator.replicas(group_id))

    @routes.get("/service-groups/{group_id}/status", summary="Its status", responses=problems(404))
    async def status_of(group_id: str) -> StatusInfo:
        return StatusInfo(status=group(group_id).status, reason=group(group_id).reason)

    @routes.post("/service-groups/{group_id}/status", summary="Cancel it", responses=problems(400, 404, 422, 502, 504))
    async def set_status(group_id: str, request: StatusRequest) -> StatusInfo:  # noqa: ARG001 - it has one value
        """One that has ended already stays as it is."""
        service = await orchestrator.cancel(group(group_id).id)
        return StatusInfo(status=service.status, reason=service.reason)

    @routes.delete("/service-groups/{group_id}", summary="Cancel it", responses=problems(404, 422, 502, 504))
    async def delete(group_id: str) -> StatusInfo:
        """The same as cancelling."""
        service = await orchestrator.cancel(group(group_id).id)
        return StatusInfo(status=service.status, reason=service.reason)

    return routes


def recipe_routes(orchestrator: ServiceOrchestrator, token: str | None, *, near: bool) -> APIRouter:
    """What can be started, and where this API is."""
    routes = APIRouter(route_class=Documented, tags=["recipes"])

    @routes.get("/recipes", summary="All recipes")
    async def list_recipes() -> RecipeList:
        found = tuple(recipe_info(recipe) for recipe in orchestrator.recipes.by_name.values())
        return RecipeList(recipes=found, count=len(found))

    @routes.get("/recipes/{category}/{name}", summary="One recipe", responses=problems(404))
    async def one(category: str, name: str) -> RecipeInfo:
        return recipe_info(orchestrator.recipes.get(f"{category}/{name}"))

    @routes.get("/orchestrator/endpoint", summary="Where the orchestrator is", tags=["state"])
    async def where(request: Request) -> EndpointInfo:
        url = f"{request.url.scheme}://{request.url.netloc}"
        gateway = request.headers.get("x-forwarded-host")  # it has all of this API's calls, and is reached from there
        local_url = f"http://{gateway}" if gateway else url
        return EndpointInfo(endpoint=url if near else None, local_url=local_url, api_key=token if near else None)

    return routes


def _labels(service: Service) -> dict[str, str]:
    return {
        "__metrics_path__": f"{PREFIX}/services/{service.id}/metrics",
        "service_id": service.id,
        "recipe": service.recipe_name,
        "engine": service.engine,
        "model": service.model,
    }


def _own_metrics(orchestrator: ServiceOrchestrator) -> str:
    services = orchestrator.list()
    counts = Counter(service.status for service in services)
    replicas = [replica for service in services if not service.ended for replica in orchestrator.replicas(service.id)]
    by_health = Counter("running" if replica.status == "running" else "not_running" for replica in replicas)
    return family(
        "tokenstorm_services",
        "gauge",
        "Services by status",
        [({"status": status}, counts[status]) for status in STATUSES],
    ) + family(
        "tokenstorm_replicas",
        "gauge",
        "Replicas of services that have not ended",
        [({"state": state}, by_health[state]) for state in ("running", "not_running")],
    )
