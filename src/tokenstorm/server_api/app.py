"""The Server API: the orchestrator's resources, documented as there, and handed on as they are."""

from typing import Any, cast

import httpx
from fastapi import FastAPI, Request, Response

from tokenstorm.orchestrator import app as orchestrator_app
from tokenstorm.orchestrator.routing import Router, openai_error
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.proxy import Passed, body_of, path_of, upward
from tokenstorm.web import Problem, new_app, problems

PREFIX = orchestrator_app.PREFIX
TIMEOUT = httpx.Timeout(None, connect=5.0)
READY_SECONDS = 5.0
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_OURS = frozenset((b"origin", b"x-forwarded-host"))
"""Headers that are for this hop: Origin was looked at here."""
_DESCRIPTION = """Inference services on the cluster, from this machine. Everything here is answered by the orchestrator.

"""


def create_app(
    orchestrator_url: str, client: httpx.AsyncClient, *, token: str | None = None, orchestrator_token: str | None = None
) -> FastAPI:
    """The gateway to the orchestrator at a base URL, which `client` can reach."""
    base = orchestrator_url.rstrip("/")
    absent = (
        f"cannot reach the orchestrator at {base}: start it with `tokenstorm orchestrator`, or all with `tokenstorm up`"
    )

    async def ready() -> str | None:
        try:
            answer = await client.get(f"{base}/ready", timeout=READY_SECONDS)
        except httpx.TransportError:
            return absent
        return None if answer.is_success else f"the orchestrator is not ready: {answer.text}"

    app = new_app("tokenstorm Server API", "", ready=ready, token=token)

    @app.api_route(PREFIX + "/{path:path}", methods=_METHODS, include_in_schema=False)
    async def forward(path: str, request: Request) -> Response:
        """Hand on anything; what there is, the orchestrator knows."""
        try:
            url, body = base + path_of(request), await body_of(request)
            headers = [pair for pair in upward(request.headers.raw, orchestrator_token) if pair[0] not in _OURS]
            headers.append((b"x-forwarded-host", request.headers.get("host", "").encode("latin-1")))
            asked = client.build_request(request.method, url, headers=headers, content=body, timeout=TIMEOUT)
            return Passed(await client.send(asked, stream=True))
        except httpx.TransportError as error:
            failure = Problem(502, f"{absent} ({error or type(error).__name__})")
        except Problem as error:
            failure = error
        if "/v1/" in path:
            return openai_error(failure.status, failure.detail)
        raise failure

    _document(app)
    return app


def _document(app: FastAPI) -> None:
    """Describe what is handed on as the orchestrator does."""
    nobody = cast("ServiceOrchestrator", None)  # its routes are only described here
    described = orchestrator_app.create_app(nobody, cast("Router", None))
    app.description = _DESCRIPTION + described.description
    own = app.openapi

    def openapi() -> dict[str, Any]:
        document = own()
        theirs = described.openapi()
        for path, calls in theirs["paths"].items():
            if path.startswith(PREFIX) and path not in document["paths"]:
                document["paths"][path] = calls
                for call in calls.values():
                    call["responses"].update({str(code): text for code, text in problems(502).items()})
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(theirs["components"]["schemas"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]
