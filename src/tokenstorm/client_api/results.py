"""The calls that give what a run left: summary, rows, report, logs."""

import importlib.util
import re
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from tokenstorm.api.group_answers import Logs
from tokenstorm.client_api.archive import Archive
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.client_api.refusals import NotNow
from tokenstorm.errors import OtherVersion, Unknown
from tokenstorm.models import Documented
from tokenstorm.web import Problem, problems
from tokenstorm.written import refuse_other_version

Format = Literal["jsonl", "csv", "parquet"]
TYPES: dict[Format, str] = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
_PAGE_RULES = "sandbox allow-scripts allow-downloads"
"""The page has rules of its own, which name its scripts. Here it is kept away from the API that it comes from."""
GroupId = Annotated[int, Path(ge=1, le=2**62, description="As POST /client-groups gave it", examples=[1])]

Groups = Callable[[int], ClientGroup]
"""A group by its number. Raises `Unknown`."""


def results_routes(groups: Groups, archive: Archive) -> APIRouter:
    """`/results`, `/series`, `/requests`, `/report` and `/logs` of a group."""
    routes = APIRouter()
    for some in (
        _summary_routes(groups, archive),
        _series_routes(groups, archive),
        _request_routes(groups, archive),
        _log_routes(groups, archive),
    ):
        routes.include_router(some)
    return routes


def _summary_routes(groups: Groups, archive: Archive) -> APIRouter:
    routes = APIRouter(route_class=Documented)

    @routes.get(
        "/{group_id:int}/results",
        summary="The summary",
        response_class=Response,
        responses={
            200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "summary.json"},
            **problems(404, 409, 502),
        },
    )
    async def results(group_id: GroupId) -> Response:
        """Counts, rates, percentiles and the verdict, as docs/runs.md tells; 409 before the end."""
        return Response(await _summary(archive, groups(group_id)), media_type="application/json")

    @routes.get(
        "/{group_id:int}/report",
        summary="The report",
        response_class=HTMLResponse,
        responses=problems(404, 409, 502),
    )
    async def report(group_id: GroupId) -> Response:
        """One HTML page that needs nothing else, to keep or pass on; 409 before the end."""
        group = groups(group_id)
        await _summary(archive, group)
        page = await archive.page(group.run_id)
        if page is None:
            raise Problem(502, f"the report of group {group_id} could not be made: the Client API's own log says why")
        return Response(page, media_type="text/html; charset=utf-8", headers={"content-security-policy": _PAGE_RULES})

    return routes


def _series_routes(groups: Groups, archive: Archive) -> APIRouter:
    routes = APIRouter(route_class=Documented)

    @routes.get(
        "/{group_id:int}/series",
        summary="The runs of a series, and what they come to",
        response_class=Response,
        responses={
            200: {
                "content": {"application/json": {"schema": {"type": "object"}}},
                "description": "series_summary.json",
            },
            **problems(404, 409, 502),
        },
    )
    async def series(group_id: GroupId) -> Response:
        """Its points as they come, and of a search what is known of the capacity, as docs/experiments.md tells; 409 before the first."""
        group = groups(group_id)
        found = await archive.series(group.run_id, is_over=group.status == "stopped")
        if found is None and group.status != "stopped":
            message = f"group {group_id} has no run of a series yet: it has one soon if its request has a `series`"
            raise NotNow(message)
        if found is None:
            message = f"group {group_id} was no series, or has no run that came to its end: see its results"
            raise Unknown(message)
        return Response(found, media_type="application/json")

    return routes


def _request_routes(groups: Groups, archive: Archive) -> APIRouter:
    routes = APIRouter(route_class=Documented)

    @routes.get(
        "/{group_id:int}/requests",
        summary="Every request",
        response_class=StreamingResponse,
        responses={
            200: {"content": {kind.partition(";")[0]: {} for kind in TYPES.values()}, "description": "A row for each"},
            **problems(404, 406, 409, 502),
        },
    )
    async def requests(
        group_id: GroupId,
        form: Annotated[Format | None, Query(alias="format", description="Instead of the Accept header")] = None,
        accept: Annotated[str | None, Header(include_in_schema=False)] = None,
    ) -> Response:
        """JSON lines, CSV or Parquet, by `format` or by the Accept header; 409 before the end."""
        wanted = form or _accepted(accept or "*/*")
        if wanted is None:
            raise Problem(406, f"there is {', '.join(kind.partition(';')[0] for kind in TYPES.values())}")
        if wanted == "parquet" and not importlib.util.find_spec("pyarrow"):
            raise Problem(
                406,
                "Parquet needs the package pyarrow where the Client API runs: pip install 'tokenstorm[parquet]', or ask for csv",
            )
        group = groups(group_id)
        if group.status != "stopped":
            raise _not_over(group)
        files = await archive.result_files(group.run_id)
        rows = {"jsonl": archive.lines, "csv": archive.csv, "parquet": archive.parquet}[wanted](files)
        return StreamingResponse(rows, media_type=TYPES[wanted])

    return routes


def _log_routes(groups: Groups, archive: Archive) -> APIRouter:
    routes = APIRouter(route_class=Documented)

    @routes.get("/{group_id:int}/logs", summary="The job's logs", responses=problems(404, 502))
    async def logs(
        group_id: GroupId,
        after: Annotated[
            str, Query(pattern=r"^(\d{1,15}-\d{1,15})?$", description="The `next` of the answer before")
        ] = "",
    ) -> Logs:
        """What the load generator wrote to its standard output and standard error, a part at a time."""
        group = groups(group_id)
        text, cursor = await archive.logs(group.run_id, after, is_over=group.status == "stopped")
        return Logs(logs=text, next=cursor)

    return routes


def _not_over(group: ClientGroup) -> NotNow:
    why = f" ({group.reason})" if group.reason else ""
    return NotNow(f"group {group.group_id} is {group.status}{why}: there are results once it has stopped")


async def _summary(archive: Archive, group: ClientGroup) -> bytes:
    """Raises `NotNow` before the end, `Unknown` when there is none, `Problem` for one of another version."""
    if group.status != "stopped":
        raise _not_over(group)
    if group.has_summary:
        await archive.at_home(group.run_id)
    summary = archive.summary(group.run_id) if group.has_summary else None
    if summary is None:
        why = group.reason or "its files were removed"
        message = f"group {group.group_id} has no results, it {group.outcome or 'ended'}: {why}"
        raise Unknown(message)
    try:
        refuse_other_version(summary, f"the summary of group {group.group_id}")
    except OtherVersion as error:
        raise Problem(409, str(error)) from None
    return summary


def _accepted(accept: str) -> Format | None:
    """The first format that the Accept header allows, by its weights."""
    wanted = []
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        written = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        weight = float(written) if re.fullmatch(r"[01](\.\d{0,3})?", written) else 0.0
        if weight:
            wanted.append((weight, kind))
    for _, kind in sorted(wanted, key=lambda found: -found[0]):
        for form, media in TYPES.items():
            name = media.partition(";")[0]
            if kind in {name, "*/*", f"{name.partition('/')[0]}/*"}:
                return form
    return None
