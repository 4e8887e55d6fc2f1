"""The Client API's calls."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse

from tokenstorm.api.dry_run import DryRun
from tokenstorm.api.group_answers import (
    Created,
    Done,
    DoneToAll,
    GroupAnswer,
    GroupList,
    GroupStatus,
    Observing,
    ScrapeTarget,
)
from tokenstorm.client_api.answers import answer_of
from tokenstorm.client_api.benchruns import bench_routes
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.client_api.history import History
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.page import PAGE_PATHS, ServerApi, add_page, server_routes, timeline_routes
from tokenstorm.client_api.refusals import NotNow, SubmissionUnconfirmed
from tokenstorm.client_api.results import GroupId, results_routes
from tokenstorm.client_api.schemas import ObserverRequest, RunGroupsRequest, RunRequest, TakenGroup
from tokenstorm.idempotency import IdempotencyKey
from tokenstorm.models import Documented
from tokenstorm.prometheus import MEDIA_TYPE, family
from tokenstorm.web import Problem, new_app, problem, problems

COMMON_START_SECONDS = 5.0
"""How far ahead the common start of several groups is, when nobody says."""
DISCOVERED_SECONDS = 300.0
"""How long a group that is over stays among the targets of Prometheus, so that its last figures are read."""
PREFIX = "/api/v1/client-groups"
ABOUT = """
Groups of clients that send load to a service and measure what comes back.

1. `POST /api/v1/client-groups` with a service's id, the number of clients, a rate and prompts. A service that is not
   ready yet is waited for.
2. `GET /api/v1/client-groups/{id}` tells how far it is; `…/events` streams it; `…/metrics` is for Prometheus.
3. Once its `status` is `stopped`, `…/results` has the numbers and the verdict, `…/report` the page to pass on.
"""


def create_app(manager: ClientManager, *, token: str | None = None, server: ServerApi | None = None) -> FastAPI:
    """The API over a manager, which it starts and closes. The page shows the services of `server`."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await manager.start()
        try:
            yield
        finally:
            await manager.close()

    app = new_app(
        "tokenstorm Client API",
        ABOUT,
        lifespan=lifespan,
        ready=manager.ready,
        metrics=lambda: _own_metrics(manager),
        token=token,
        open_paths=PAGE_PATHS,
    )
    app.add_exception_handler(NotNow, _on_not_now)
    app.add_exception_handler(SubmissionUnconfirmed, _on_unconfirmed)
    for routes in (_all_routes(manager), _start_routes(manager), _group_routes(manager), _preview_routes(manager)):
        app.include_router(routes, prefix=PREFIX, tags=["client groups"])
    app.include_router(_live_routes(manager), prefix=PREFIX, tags=["live"])
    history = History(manager.site.shell, manager.archive, manager.book.attempt)
    app.include_router(timeline_routes(manager.get, history), prefix=PREFIX, tags=["live"])
    app.include_router(results_routes(manager.get, manager.archive), prefix=PREFIX, tags=["results"])
    if server:
        app.include_router(server_routes(server))
    app.include_router(bench_routes(manager.archive.home), prefix="/api/v1/runs", tags=["results"])
    add_page(app)
    return app


def _all_routes(manager: ClientManager) -> APIRouter:
    """The list: a new group, those there are, and where Prometheus finds their metrics."""
    routes = APIRouter(route_class=Documented)

    @routes.post("", status_code=201, summary="Create a group", responses=problems(400, 404, 409, 502, 504))
    async def create(request: TakenGroup, idempotency_key: IdempotencyKey = None) -> Created:
        """Checked as a whole before anything is done; submitted, or waiting for its service, when this answers."""
        group = await manager.create(request, idempotency_key)
        said = group.reason if group.job_id is None else f"submitted as job {group.job_id}"
        simulated = "; its engine is SIMULATED" if group.engine == "simulated" else ""
        return Created(
            group_id=group.group_id,
            num_clients=group.num_clients,
            message=f"group {group.group_id}: {said}{simulated}",
        )

    @routes.get("", summary="List the groups")
    async def list_groups(
        status: Annotated[GroupStatus | None, Query(description="Only those")] = None,
        *,
        detail: Annotated[bool, Query(description="The groups with their infos instead of ids")] = False,
    ) -> GroupList[list[int] | list[GroupAnswer[str]]]:
        """Oldest first. With `detail`, `load_config` comes without `prompts`, and `progress` without `failures` and `replicas`."""
        found: list[int] | list[GroupAnswer[str]] = manager.ids(status)
        if detail:
            found = [
                _answer(manager, group, request, listed=True) for group, request in manager.book.store.groups(status)
            ]
        return GroupList(groups=found, count=len(found))

    @routes.get("/targets", summary="Prometheus HTTP service discovery")
    async def targets(request: Request) -> list[ScrapeTarget]:
        """A bare array, as Prometheus wants it: each group's metrics behind this API's address."""
        groups = [manager.get(group_id) for group_id in manager.ids("running")]
        groups += [group for group in map(manager.get, manager.ids("stopped")[-100:]) if _ended_lately(group)]
        return [
            ScrapeTarget(
                targets=(request.url.netloc,),
                labels={
                    "__metrics_path__": f"/api/v1/client-groups/{group.group_id}/metrics",
                    "group_id": str(group.group_id),
                    "group_name": group.name,
                },
            )
            for group in groups
        ]

    return routes


def _start_routes(manager: ClientManager) -> APIRouter:
    """The release of groups that hold."""
    routes = APIRouter(route_class=Documented)

    @routes.post("/run", summary="Release several groups at one moment", responses=problems(400, 404, 409))
    async def run_groups(request: RunGroupsRequest) -> DoneToAll:
        """For groups created with `"start": "manual"`: all of them, or none.

        Without `start_at` each of them has to hold already. One that is not ready at a `start_at` starts once it is, and
        its `reason` says how late.
        """
        named = _moment(request)
        start_at = named or time.time() + COMMON_START_SECONDS
        manager.run(request.group_ids, start_at, at_hand=named is None)
        at = datetime.fromtimestamp(start_at, UTC).isoformat(timespec="milliseconds")
        return DoneToAll(status="released", group_ids=tuple(request.group_ids), start_at=at)

    @routes.post("/{group_id:int}/run", summary="Release a held group", responses=problems(400, 404, 409))
    async def run(group_id: GroupId, request: RunRequest | None = None) -> Done:
        """For a group created with `"start": "manual"`; at once, or at `start_at`."""
        manager.run([group_id], _moment(request) or 0.0)
        return Done(status="released", group_id=group_id)

    return routes


def _group_routes(manager: ClientManager) -> APIRouter:
    """One group: seen, stopped, deleted."""
    routes = APIRouter(route_class=Documented)

    @routes.get("/{group_id:int}", summary="One group", responses=problems(404))
    async def info(group_id: GroupId) -> GroupAnswer[str]:
        group = manager.get(group_id)
        return _answer(manager, group, manager.book.store.request(group_id))

    @routes.delete("/{group_id:int}", summary="Stop a group and take it off the list", responses=problems(404))
    async def delete(
        group_id: GroupId,
        *,
        purge: Annotated[bool, Query(description="Remove its result files too")] = False,
    ) -> Done:
        """With `purge` also for a group that was deleted before: its files go. 404 for one that never was, or is purged."""
        manager.delete(group_id, purge=purge)
        return Done(status="deleted", group_id=group_id)

    @routes.post("/{group_id:int}/stop", summary="Stop a group", responses=problems(404))
    async def stop(group_id: GroupId) -> Done:
        """No more is sent, what was sent is waited for, and everything is kept."""
        group = manager.stop(group_id)
        return Done(status="stopped" if group.status == "stopped" else "stopping", group_id=group_id)

    return routes


def _preview_routes(manager: ClientManager) -> APIRouter:
    routes = APIRouter(route_class=Documented)

    @routes.post(
        "/dry-run",
        summary="Show what a group would submit, and submit nothing",
        responses=problems(400, 404, 409, 502, 504),
    )
    async def dry_run(request: TakenGroup) -> DryRun:
        """The job's script, the command of sbatch and of the load generator, and the files, without secrets.

        Nothing is kept, and the cluster is not asked.
        """
        return await manager.dry_run(request)

    return routes


def _live_routes(manager: ClientManager) -> APIRouter:
    routes = APIRouter(route_class=Documented)

    @routes.get(
        "/{group_id:int}/metrics",
        summary="The group's metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text"}, **problems(404, 502, 503)},
    )
    async def metrics(group_id: GroupId) -> Response:
        """With an `Age` where its launcher cannot be reached: then they are what it wrote into its file."""
        group = manager.get(group_id)
        found = await manager.metrics(group)
        if found is None:
            said = f" ({group.reason})" if group.reason else ""
            raise Problem(503, f"group {group_id} is {group.status} and has no metrics{said}: ask again once it runs")
        text, age = found
        headers = {"age": str(round(age))} if age else {}
        return Response(text, media_type=MEDIA_TYPE, headers=headers)

    @routes.get(
        "/{group_id:int}/events",
        summary="Live updates",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"},
            **problems(404),
        },
    )
    async def events(group_id: GroupId) -> StreamingResponse:
        """`status` at every change, `progress` (a timeline line without its histograms) every second, `done` at the end."""
        feed = manager.feed(manager.get(group_id))
        return StreamingResponse(feed.follow(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    @routes.post("/{group_id:int}/observers", status_code=201, summary="Be told", responses=problems(400, 404))
    async def observe(group_id: GroupId, request: ObserverRequest) -> Observing:
        """The address gets a POST at every change of status, tried again until it takes it, in order."""
        manager.observe(group_id, request.url)
        return Observing(group_id=group_id, url=request.url)

    return routes


def _answer(
    manager: ClientManager, group: ClientGroup, request: bytes | str, *, listed: bool = False
) -> GroupAnswer[str]:
    latest = manager.book.current(group.group_id) or group
    run_dir = str(manager.archive.folder(group.run_id))
    return answer_of(latest, msgspec.json.decode(request), manager.live(latest), run_dir, listed=listed)


def _moment(request: RunRequest | None) -> float | None:
    """The common start as Unix time."""
    if request is None or request.start_at is None:
        return None
    start = request.start_at if request.start_at.tzinfo else request.start_at.replace(tzinfo=UTC)
    if start < datetime.now(UTC):
        message = f"{start.isoformat()} is over: give a moment to come, or none"
        raise RequestValidationError([{"loc": ("body", "start_at"), "msg": message, "type": "value_error"}])
    return start.timestamp()


def _ended_lately(group: ClientGroup) -> bool:
    if group.ended_at is None or group.progress is None:
        return False
    return (datetime.now(UTC) - datetime.fromisoformat(group.ended_at)).total_seconds() < DISCOVERED_SECONDS


def _own_metrics(manager: ClientManager) -> str:
    statuses: tuple[GroupStatus, ...] = ("pending", "running", "stopped")
    samples = [({"status": status}, len(manager.ids(status))) for status in statuses]
    return family("tokenstorm_groups", "gauge", "Client groups", samples)


async def _on_not_now(_request: Request, error: Exception) -> Response:
    return problem(409, str(error))


async def _on_unconfirmed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, SubmissionUnconfirmed)
    return problem(504, str(error), group_id=error.group_id)
