"""The Server API: the orchestrator's resources, documented as there, and handed on as they are."""

from collections import Counter
from dataclasses import replace
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response

from tokenstorm.errors import ClusterError
from tokenstorm.orchestrator.routing import error_form
from tokenstorm.prometheus import family
from tokenstorm.proxy import Call, Passed, call_of, send, unless_left
from tokenstorm.server_api.where import Where
from tokenstorm.web import Problem, new_app, problems

PREFIX = "/api/v1"
READY_SECONDS = 5.0
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_OURS = frozenset((b"origin", b"x-forwarded-host"))
"""Headers that end here: this API has already checked Origin."""
_ANSWERS = ("2xx", "3xx", "4xx", "5xx", "unreachable")
_DESCRIPTION = """Inference services on the cluster, from this machine. Everything here is answered by the orchestrator.

"""


def create_app(where: Where, client: httpx.AsyncClient, described: FastAPI, *, token: str | None = None) -> FastAPI:
    """The gateway to the orchestrator, which `client` can reach; `described` is its API, for the documents.

    Streams pass fastest where the client is over `tokenstorm.cluster.http.transport`.
    """

    async def ready() -> str | None:
        try:
            there = await where.address()
            headers = {"authorization": f"Bearer {there.token}"} if there.token else {}
            answer = await client.get(f"{there.url}/ready", headers=headers, timeout=READY_SECONDS)
        except (httpx.TransportError, ClusterError) as error:
            where.forget()
            return _absent(where, error)
        return None if answer.is_success else f"the orchestrator is not ready: {_detail(answer)}"

    answered: Counter[str] = Counter()
    app = new_app(
        "tokenstorm Server API", "", ready=ready, metrics=lambda: _own_metrics(answered), token=token, form=error_form
    )

    @app.api_route(PREFIX + "/{path:path}", methods=_METHODS, include_in_schema=False)
    async def forward(request: Request) -> Response:
        """Hand on every call; the orchestrator knows which exist."""
        try:
            call = await call_of(request)
            here = (b"x-forwarded-host", request.headers.get("host", "").encode("latin-1"))
            call = replace(call, headers=[*(pair for pair in call.headers if pair[0] not in _OURS), here])
            answer = await unless_left(
                request,
                _send(where, client, call, again=error_form(request.url.path) is not None),
                lambda answer: answer.aclose(),
            )
            answered[f"{answer.status_code // 100}xx"] += 1
            return Passed(answer)
        except (httpx.TransportError, ClusterError) as error:
            answered["unreachable"] += 1
            where.forget()
            failure = Problem(502, _absent(where, error))
        except Problem as error:
            failure = error
        if form := error_form(request.url.path):
            return form(failure.status, failure.detail, failure.headers)
        raise failure

    _document(app, described)
    return app


def _own_metrics(answered: Counter[str]) -> str:
    samples = [({"answer": answer}, answered[answer]) for answer in _ANSWERS]
    name, text = "tokenstorm_forwarded_requests_total", "Calls handed on, by the class of the orchestrator's answer"
    return family(name, "counter", text, samples)


async def _send(where: Where, client: httpx.AsyncClient, call: Call, *, again: bool) -> httpx.Response:
    there = await where.address()
    return await send(client, there.url, call, there.token, again=again)


def _absent(where: Where, error: Exception) -> str:
    return f"cannot reach the orchestrator ({error or type(error).__name__}): {where.hint}"


def _detail(answer: httpx.Response) -> str:
    """What a problem document says, or the answer's own words where it is none."""
    try:
        found = answer.json()
    except ValueError:
        return answer.text
    return str(found.get("detail", answer.text)) if isinstance(found, dict) else answer.text


def _document(app: FastAPI, described: FastAPI) -> None:
    """Describe what is handed on as the orchestrator does."""
    app.description = _DESCRIPTION + described.description
    own = app.openapi

    def openapi() -> dict[str, Any]:
        document = own()
        theirs = described.openapi()
        for path, calls in theirs["paths"].items():
            if path.startswith(PREFIX) and path not in document["paths"]:
                document["paths"][path] = calls
                for call in calls.values():
                    call["responses"].update({str(code): text for code, text in problems(400, 408, 413, 502).items()})
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(theirs["components"]["schemas"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]
