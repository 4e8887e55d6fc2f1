"""The page: its files, and what it needs beside the calls that everybody has."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import PurePath
from typing import Annotated

import httpx
import msgspec
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.staticfiles import StaticFiles

import tokenstorm
from tokenstorm.api.groups import GroupRequest
from tokenstorm.client_api.history import History
from tokenstorm.client_api.results import GroupId, Groups
from tokenstorm.models import Documented
from tokenstorm.proxy import Passed, call_of, send, unless_left
from tokenstorm.strict import Option
from tokenstorm.web import Problem, problems

FILES = PurePath(tokenstorm.__file__).parent / "browser"
SERVER = "/server"
"""Below it is the Server API: a page may only call where it came from."""
RULES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": RULES, "x-content-type-options": "nosniff", "cache-control": "no-cache"}
_HANDED_ON = [(b"content-security-policy", b"sandbox"), (b"x-content-type-options", b"nosniff")]
"""Engines' answers pass here too: one that is opened as a page must not run scripts with the rights of ours."""
_METHODS = ["GET", "POST", "DELETE"]


PAGE_PATHS = r"/|/options\.json|/(charts|page|vendor)/.*"
"""What everybody may read who reaches the API: it is the same for all, and asks for the token."""


@dataclass(frozen=True)
class ServerApi:
    """Where the Server API is, with its token, and who calls it."""

    url: str
    token: str | None = field(repr=False)
    client: httpx.AsyncClient = field(repr=False)


class _Files(StaticFiles):
    """Files of the page, which a browser asks for again once they have changed."""

    def file_response(self, *args: object, **options: object) -> Response:
        found = super().file_response(*args, **options)  # type: ignore[arg-type]
        found.headers.update(_HEADERS)
        return found


def add_page(app: FastAPI) -> None:
    """`/` and the files that it loads."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(FILES / "page" / "index.html", headers=_HEADERS)

    @app.get("/options.json", include_in_schema=False)
    async def options() -> dict[str, str]:
        """How each field of a group's request is typed on the command line."""
        return options_of_fields()

    for folder in ("charts", "page", "vendor"):
        app.mount(f"/{folder}", _Files(directory=FILES / folder))


def timeline_routes(groups: Groups, history: History) -> APIRouter:
    """`/timeline` of a group."""
    routes = APIRouter(route_class=Documented)

    @routes.get(
        "/{group_id:int}/timeline",
        summary="Every second so far",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"application/x-ndjson": {}}, "description": "JSON lines"},
            **problems(404, 502),
        },
    )
    async def timeline(
        group_id: GroupId,
        first: Annotated[int, Query(alias="from", ge=0, le=2**53, description="Seconds since the start")] = 0,
    ) -> StreamingResponse:
        """The lines of its timeline without their histograms (docs/runs.md); `…/events` has those to come."""
        parts = history.lines(groups(group_id), first)
        begin = await anext(parts, b"")  # what goes wrong is answered as a problem

        async def lines() -> AsyncIterator[bytes]:
            yield begin
            async for part in parts:
                yield part

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return routes


def server_routes(server: ServerApi) -> APIRouter:
    """The Server API for the page."""
    routes = APIRouter()

    @routes.api_route(SERVER + "/{path:path}", methods=_METHODS, include_in_schema=False)
    async def forward(request: Request) -> Response:
        call = await call_of(request)
        headers = [pair for pair in call.headers if pair[0] != b"origin"]  # it was looked at here
        call = replace(call, target=call.target.removeprefix(SERVER.encode()), headers=headers)
        try:
            sending = send(server.client, server.url, call, server.token, again=call.method == "GET")
            passed = Passed(await unless_left(request, sending, lambda answer: answer.aclose()))
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise Problem(502, f"cannot reach the Server API at {server.url} ({why}): is it up?") from None
        passed.raw_headers += _HANDED_ON
        return passed

    return routes


@cache
def options_of_fields() -> dict[str, str]:
    """`num_clients`: `--num-clients`."""
    kind = msgspec.inspect.type_info(GroupRequest)
    assert isinstance(kind, msgspec.inspect.StructType)
    return {field.name: option.name for field in kind.fields if (option := _option(field.type)) is not None}


def _option(kind: msgspec.inspect.Type) -> Option | None:
    extra = kind.extra if isinstance(kind, msgspec.inspect.Metadata) else None
    found: Option | None = (extra or {}).get("option")
    return found
