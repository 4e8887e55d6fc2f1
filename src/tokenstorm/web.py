"""What the three APIs have in common: problem documents, docs that work offline, and who is let in.

Errors are RFC 9457 problem documents with a `detail` that says what to do. A request that a browser made for another
site is refused by its Host or Origin. With a bearer token, every caller must send it; without
one, only the user who runs the API, and root, may call.
"""

import asyncio
import ipaddress
import re
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_swagger import patch_fastapi
from pydantic import BaseModel, Field
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.routing import Match, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tokenstorm import __version__
from tokenstorm.config.reasons import reason_in_json
from tokenstorm.errors import CommandFailed, RefusedJob, RunError, Unconfirmed, Unknown, Unreachable, UsageError
from tokenstorm.hosts import in_url
from tokenstorm.models import field_name
from tokenstorm.peers import find_peer
from tokenstorm.printable import printable_line
from tokenstorm.prometheus import MEDIA_TYPE

PROBLEM = "application/problem+json"
_STATUS_OF = {
    UsageError: 422,
    Unknown: 404,
    RefusedJob: 422,
    Unreachable: 502,
    Unconfirmed: 504,
    CommandFailed: 502,
    RunError: 507,
}
_PEER = "tokenstorm.peer"
_DOCS = r"/docs|/openapi\.json|/swagger/.*"  # the same for all; and a link in a browser cannot send a token
"""The key in a request's state for the user at the other end of its connection."""
_STRANGER = (
    "this API is for the user who runs it, and you are another user of this machine: run your own with `tokenstorm up`, "
    "or let them start it with a token ($TOKENSTORM_TOKEN), and send that"
)
_UNKNOWN = (
    "this API is for the user who runs it, and it cannot be told who you are: start it with a token ($TOKENSTORM_TOKEN), "
    "and send that as `Authorization: Bearer …`"
)

Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[None]]
ErrorForm: TypeAlias = Callable[[int, str, Mapping[str, str] | None], Response]
FormOf: TypeAlias = Callable[[str], ErrorForm | None]


class FieldError(BaseModel):
    """One field of a request that is wrong."""

    field: str = Field(examples=["num_clients"])
    message: str = Field(examples=["must be at least 1"])


class ProblemDocument(BaseModel):
    """What every error looks like (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no service 'abc': GET /api/v1/services lists them"])
    errors: list[FieldError] | None = None


class Problem(Exception):
    """Ends a request with a problem document; `more` are further members of it."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object) -> JSONResponse:
    """The response that a `Problem` becomes."""
    title = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return JSONResponse(content, status, dict(headers or {}), PROBLEM)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: the problems it may answer with."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in statuses
    }


def new_app(
    title: str,
    description: str,
    *,
    lifespan: Lifespan | None = None,
    ready: Callable[[], str | None] | Callable[[], Awaitable[str | None]],
    metrics: Callable[[], str] | None = None,
    token: str | None = None,
    hosts: Sequence[str] = (),
    open_paths: str = "",
    form: FormOf = lambda _path: None,
) -> FastAPI:
    """An API with `/health`, `/ready`, `/metrics`, `/docs` and problem documents.

    `ready` tells why the API cannot work now, or None; `metrics` is the Prometheus text of `/metrics`. With a `token`
    every call but `/health`, `/ready`, the documentation and `open_paths` (a pattern) needs it; `hosts` are names beside loopback's that a Host header may have.
    `form` gives the paths where a refusal has another form than a problem document.
    """
    app = FastAPI(
        title=title,
        description=description,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        responses=problems(401, 403, 422, 507),
    )
    patch_fastapi(app, redirect_from_root_to_docs=False, swagger_ui_parameters={"tryItOutEnabled": True})
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    for kind in _STATUS_OF:
        app.add_exception_handler(kind, _on_known)
    app.add_exception_handler(Exception, _on_bug)
    opened = f"{open_paths}|{_DOCS}" if token else open_paths
    app.add_middleware(Guard, token=token, hosts=hosts, open_paths=opened, form=form)
    app.add_middleware(HeadAsGet)

    @app.get("/health", summary="Is it alive?", tags=["state"])
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.get("/ready", summary="Is it able to work?", tags=["state"], responses=problems(503))
    async def is_ready() -> dict[str, str]:
        reason = ready()
        reason = await reason if isinstance(reason, Awaitable) else reason
        if reason:
            raise Problem(503, reason)
        return {"status": "ready"}

    @app.get("/metrics", summary="Prometheus text", tags=["state"], response_class=PlainTextResponse)
    async def own_metrics() -> Response:
        return PlainTextResponse(metrics() if metrics else "", media_type=MEDIA_TYPE)

    _complete(app, wants_token=token is not None)
    return app


class HeadAsGet:
    """Answers HEAD as GET without the body, where no route has a HEAD of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or _is_taken(scope):
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})  # for the app, the caller has left

        await self._app({**scope, "method": "GET"}, receive, send_head)


def _is_taken(scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)


class Guard:
    """Refuses other users of this machine, foreign Host and Origin headers, and calls without the token."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str], open_paths: str, form: FormOf) -> None:
        self._app = app
        self._token = token
        self._form = form
        self._is_open = re.compile(f"/health|/ready|{open_paths}").fullmatch
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        refuse = self._form(scope["path"]) or problem
        peer = "owner" if self._token else scope.get("state", {}).get(_PEER, "owner")
        if peer == "stranger":
            return refuse(403, _STRANGER, None)
        if not self._token and not self._is_ours(host):
            return refuse(403, f"the Host header {host!r} is foreign: use the address that the API printed", None)
        if origin is not None and _netloc(origin) != host.lower():
            detail = f"the Origin header {origin!r} is foreign: a page of another site may not call this API"
            return refuse(403, detail, None)
        if self._token and not self._is_open(scope["path"]):
            given = headers.get(b"authorization", "").encode()
            if not secrets.compare_digest(given, f"Bearer {self._token}".encode()):
                detail = "send the token that was printed at the start as `Authorization: Bearer …`"
                return refuse(401, detail, {"www-authenticate": "Bearer"})
        if peer != "owner" and not self._is_open(scope["path"]):
            return refuse(401, _UNKNOWN, {"www-authenticate": "Bearer"})
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "") if host else ""
        except ValueError:
            return False
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name in self._hosts


def _netloc(url: str) -> str | None:
    """Host and port of a URL; None where it is none."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None


class _Connection(HttpToolsProtocol):
    """Finds out once who is at its other end; uvicorn copies the state to each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, _PEER: find_peer(transport.get_extra_info("socket"))}


class Server(uvicorn.Server):
    """One API on one socket, beside others in one process: the process handles signals."""

    def __init__(self, app: FastAPI, host: str, port: int, *, stop_seconds: int = 5) -> None:
        self.socket = listen(host, port)
        self.host, self.port = host, 0
        if not host.startswith("/"):
            self.host, self.port = self.socket.getsockname()[:2]
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",  # no call takes one, and the guard looks at HTTP alone
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=stop_seconds,
        )
        super().__init__(config)

    @property
    def url(self) -> str:
        """Its URL. A unix socket has none."""
        if self.host.startswith("/"):
            return self.host
        return f"http://{in_url(self.host)}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the block runs. Raises RunError when the app's own start fails."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup(sockets=[self.socket])
        if self.should_exit:
            self.socket.close()
            message = f"the API at {self.url} could not start: its log says why"
            raise RunError(message)
        serving = asyncio.create_task(self.main_loop())
        try:
            yield
        finally:
            self.should_exit = True
            await serving
            await self.shutdown(sockets=[self.socket])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; a path for `host` is that of a unix socket. Raises `RunError` when the port is in use or the address is none of this machine."""
    try:
        if host.startswith("/"):
            found = socket.socket(socket.AF_UNIX)
            found.bind(host)
            found.listen(2048)
            return found
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(2048)
    except OSError as error:
        message = f"cannot listen on {host} port {port}: {error.strerror or error}; choose another port"
        raise RunError(message) from None
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an API at that host; then it needs no token."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem(error.status, error.detail, error.headers, **error.more)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}: /docs lists the calls"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not possible at {request.url.path}: /docs lists the calls"
        return problem(error.status_code, detail, {"allow": ", ".join(sorted(_methods_at(request)))})
    return problem(error.status_code, detail, error.headers)


def _methods_at(request: Request) -> set[str]:
    """The methods documented for a path. Each is a route of its own, and Starlette reports only the first."""
    paths = request.app.openapi()["paths"]
    found = [path for path in paths if compile_path(path)[0].match(request.url.path)]
    plainest = min(found, key=lambda path: path.count("{"), default=None)
    methods = set() if plainest is None else {method.upper() for method in paths[plainest]}
    return methods | {"HEAD"} if "GET" in methods else methods


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [_field_error(found) for found in error.errors()]
    return problem(422, "; ".join(f"{found['field']}: {found['message']}" for found in errors), errors=errors)


async def _on_known(_request: Request, error: Exception) -> Response:
    status = next(status for kind, status in _STATUS_OF.items() if isinstance(error, kind))
    if isinstance(error, UsageError) and error.field:
        return problem(status, str(error), errors=[{"field": error.field, "message": error.message}])
    return problem(status, str(error))


async def _on_bug(request: Request, _error: Exception) -> Response:
    """Starlette raises it again after the answer, so that the traceback is logged."""
    sys.stderr.write(
        f"tokenstorm: a bug in {request.method} {printable_line(request.url.path)}, its traceback follows\n"
    )
    return problem(500, "this is a bug of tokenstorm: its traceback is in the log of the API")


def _field_error(found: ErrorDetails) -> dict[str, str]:
    if found["type"] == "json_invalid":
        return {"field": "body", "message": f"is not JSON from character {found['loc'][-1]} on"}
    return {"field": field_name(found["loc"]), "message": reason_in_json(found)}


def _complete(app: FastAPI, *, wants_token: bool) -> None:
    """Put into OpenAPI the schema of problem documents, also where it is only referred to, and the token that calls need."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            whole = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(whole.pop("$defs", {}))
            schemas["ProblemDocument"] = whole
            if wants_token:
                document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
