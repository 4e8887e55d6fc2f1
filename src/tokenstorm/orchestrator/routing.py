"""Prompts and the OpenAI pass-through, round-robin over the replicas of a service that are well.

A replica that fails a request is passed over for a while. The request goes to the next replica, unless the caller has
already been sent a part of the answer.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Annotated, Any

import httpx
import msgspec
from fastapi import APIRouter, Path, Request, Response
from msgspec import structs
from pydantic import BaseModel, ConfigDict, Field

from tokenstorm.api.services import EngineService, EngineServices, ModelsAnswer, PromptAnswer
from tokenstorm.errors import NOT_JSON, ClusterError, TokenstormError, Unknown
from tokenstorm.loadgen.events import Choice, counts_of, refusal_in, text_of
from tokenstorm.loadgen.models import not_among
from tokenstorm.models import Documented
from tokenstorm.proxy import Call, Passed, call_of, send, unless_left
from tokenstorm.web import ErrorForm, Problem, problems

from .replicas import Replica
from .service import Service

REST_SECONDS = 5.0
"""How long a replica that failed a request is passed over, while there is another one."""

LOOK_SECONDS = 1.0
"""How often a replica's health is looked at while a caller waits for its answer."""
TAKEN_AT_MOST = 2
"""How many replicas may fail with one request after they took it."""

_FAILING = frozenset((502, 503, 504))
_TOLD = frozenset((400, 401, 404, 413, 422, 429, 500, 503))
"""Statuses of an engine that a prompt's caller gets as they are; others become 502."""
_CODES = {
    400: "invalid_path",
    401: "invalid_api_key",
    403: "forbidden",
    404: "service_not_found",
    413: "request_too_large",
    502: "orchestrator_unreachable",
    503: "no_healthy_replica",
}
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_JSON = {"content-type": "application/json"}
_SOON = {"retry-after": "2"}
_PASS_THROUGH = re.compile(r".*?/vllm/[^/]+/(v1/|version$)")
_AT_THE_ENGINE = re.compile(rb".*?/vllm/[^/]+(/v1/.*|/version(\?.*)?)", re.DOTALL)


@dataclass(frozen=True)
class Sent:
    """An answer, and the replica that gave it; its body is still to be read, unless the whole was asked for."""

    replica: Replica
    answer: httpx.Response


class NoReplica(TokenstormError):
    """No replica of a service answers at the moment."""


class _Unwell(Exception):
    """A replica was found unwell while a caller waited for its answer."""


class Router:
    """Chooses a replica for each request, and sends it there."""

    def __init__(self, replicas: Callable[[str], Sequence[Replica]], client: httpx.AsyncClient) -> None:
        self._replicas = replicas
        self._client = client
        self._turn: dict[str, int] = {}
        self._resting: dict[str, float] = {}

    def replicas(self, service_id: str) -> Sequence[Replica]:
        """All that are known. Raises Unknown."""
        return self._replicas(service_id)

    async def send(self, service_id: str, call: Call, *, whole: bool = False, first: Replica | None = None) -> Sent:
        """Send a request to the next replica (or to `first`), and to another one where that fails before it answers.

        With `whole` an answer that breaks off counts as such a failure, too. A request that a replica took before it
        failed is tried on one more only: it may be what ended it. Raises Unknown for the service, NoReplica when nobody
        answers. 502, 503 and 504 of the last one are its answer.
        """
        candidates = self._in_turn(service_id, first)
        trouble: list[str] = []
        taken = 0
        for candidate in candidates:
            try:
                answer = await self._answer(candidate, call, whole=whole)
            except httpx.LocalProtocolError as error:  # no replica would take it
                raise Problem(400, str(error)) from None
            except (httpx.TransportError, ClusterError, _Unwell) as error:
                trouble.append(f"{candidate.id}: {error or type(error).__name__}")
                self.rest(candidate)
                taken += not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | ClusterError)
                if taken == TAKEN_AT_MOST:
                    break
                continue
            if answer.status_code not in _FAILING:
                return Sent(candidate, answer)
            self.rest(candidate)
            if candidate is candidates[-1]:
                return Sent(candidate, answer)
            trouble.append(f"{candidate.id}: it answers {answer.status_code}")
            await answer.aclose()
        if not candidates:
            trouble = [f"{one.id} is {one.status}" for one in self._replicas(service_id)] or ["none is ready"]
        message = (
            f"no replica of service {service_id} answers ({'; '.join(trouble)}): wait until it is running; "
            f"GET /api/v1/services/{service_id} says how it stands"
        )
        raise NoReplica(message)

    async def _answer(self, one: Replica, call: Call, *, whole: bool) -> httpx.Response:
        """A replica's answer. Raises _Unwell when the replica is found unwell before it answers."""
        working = asyncio.create_task(_exchange(self._client, one, call, whole=whole))
        try:
            while not (await asyncio.wait((working,), timeout=LOOK_SECONDS))[0]:
                now = {_key(other): other for other in self._replicas(one.service_id)}.get(_key(one))
                if now is None or now.status != "running":
                    message = f"it had not answered when it was found unwell ({now.reason if now else 'gone'})"
                    raise _Unwell(message)
            return working.result()
        finally:
            if not working.done():
                working.cancel()
                await asyncio.wait((working,))

    def rest(self, one: Replica) -> None:
        """Pass over a replica for a while, since it failed a request."""
        now = monotonic()
        self._resting = {key: until for key, until in self._resting.items() if until > now}
        self._resting[_key(one)] = now + REST_SECONDS

    def _in_turn(self, service_id: str, first: Replica | None) -> list[Replica]:
        """The replicas that are well, the next one first; those that failed lately come last. `first` takes no turn."""
        well: list[Replica] = []
        for one in self._replicas(service_id):
            if one.status == "running" and one.url:
                well.append(one)
            else:
                self._resting.pop(_key(one), None)  # its health is looked after: once it runs again, it is well
        now = monotonic()
        resting = [one for one in well if self._resting.get(_key(one), 0.0) > now]
        fresh = [one for one in well if one not in resting]
        if not well:
            self._turn.pop(service_id, None)
            return []
        if first in well:
            return [first, *(one for one in [*fresh, *resting] if one != first)]
        turn = self._turn[service_id] = self._turn.get(service_id, -1) + 1
        start = turn % len(fresh) if fresh else 0
        return [*fresh[start:], *fresh[:start], *resting]


async def _exchange(client: httpx.AsyncClient, one: Replica, call: Call, *, whole: bool) -> httpx.Response:
    answer = await send(client, one.url or "", call, one.api_key, again=True)
    if whole:
        await answer.aread()
    return answer


def _key(one: Replica) -> str:
    """One engine process: after a restart it listens elsewhere, and is another one."""
    return f"{one.service_id} {one.id} {one.url}"


class PromptRequest(BaseModel):
    """One question to a service."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, examples=["What is a supercomputer used for?"])
    max_tokens: int = Field(100, ge=1, le=2**31)
    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False)
    model: str | None = Field(None, description="The service's own, when not given")


class _Completion(msgspec.Struct):
    choices: list[Choice]
    model: str = ""
    usage: Any = None


ServiceId = Annotated[str, Path(description="The id of a service or of a group of replicas")]


def vllm_routes(router: Router, services: Callable[[], Sequence[Service]]) -> APIRouter:
    """The way to the engines. `services` are all there are."""
    routes = APIRouter(prefix="/vllm", tags=["prompts"], route_class=Documented)

    @routes.get("/services", summary="The services that take prompts")
    async def list_services() -> EngineServices:
        found = tuple(_engine_service(one, router) for one in services() if not one.ended)
        return EngineServices(services=found, count=len(found))

    @routes.get("/{service_id}/models", summary="Its models", responses=problems(404))
    async def models(service_id: ServiceId) -> ModelsAnswer:
        """`success` is false, with 200, while the engine loads."""
        replicas = router.replicas(service_id)
        running = [replica for replica in replicas if replica.status == "running"]
        if not running:
            why = "; ".join(f"{replica.id} is {replica.status} ({replica.reason})" for replica in replicas)
            return ModelsAnswer(success=False, error=f"no engine answers{': ' if why else ''}{why}")
        names = dict.fromkeys(name for replica in running for name in replica.models)
        return ModelsAnswer(success=True, models=tuple(names))

    @routes.post(
        "/{service_id}/prompt",
        summary="Ask it something",
        responses=problems(400, 401, 404, 413, 422, 429, 500, 502, 503),
    )
    async def prompt(service_id: ServiceId, asked: PromptRequest, request: Request) -> PromptAnswer:
        """One prompt to the next healthy replica. What the engine refuses keeps its status and its words."""
        answer = await unless_left(request, ask(router, service_id, asked))
        simulated = any(one.simulated for one in services() if one.id == service_id)
        return structs.replace(answer, simulated=True) if simulated else answer

    for method in _METHODS:
        routes.add_api_route(
            "/{service_id}/v1/{path:path}",
            partial(pass_through, router),
            methods=[method],
            name=f"openai_{method.lower()}",
            operation_id=f"openai_{method.lower()}",
            summary="OpenAI pass-through",
            description=_HOW_TO,
            responses=_AS_THE_ENGINE_SAYS,
        )

    @routes.get("/{service_id}/version", summary="What its engine is", responses=_AS_THE_ENGINE_SAYS)
    async def version(service_id: ServiceId, request: Request) -> Response:
        """What the next healthy replica reports about itself. Load generators ask here; `simulated` means that it is no real engine."""
        return await pass_through(router, service_id, "", request)

    return routes


def _engine_service(service: Service, router: Router) -> EngineService:
    return EngineService(
        id=service.id,
        recipe_name=service.recipe_name,
        engine=service.engine,
        simulated=service.simulated,
        model=service.model,
        status=service.status,
        healthy_replicas=sum(replica.status == "running" for replica in router.replicas(service.id)),
    )


_HOW_TO = """Any call of the engine's own OpenAI API, on the next healthy replica; streams come as they are made.

Point any OpenAI client's `base_url` at `/api/v1/vllm/{service_id}/v1`. The engine's key is added here."""
_AS_THE_ENGINE_SAYS: dict[int | str, dict[str, Any]] = {
    200: {"description": "What the engine answers", "content": {"application/json": {}, "text/event-stream": {}}},
    "default": {"description": "An error object as OpenAI's; 404 also: no such service, 503: no healthy replica"},
}


async def pass_through(
    router: Router,
    service_id: Annotated[str, Path(description="The id of a service or of a group of replicas")],
    path: Annotated[str, Path(description="What comes after /v1/", examples=["chat/completions"])],  # noqa: ARG001
    request: Request,
) -> Response:
    """Hand on a call to an engine, as it is."""
    try:
        call = at_the_engine(await call_of(request))
        sent = await unless_left(request, router.send(service_id, call), lambda sent: sent.answer.aclose())
    except Problem as error:
        return openai_error(error.status, error.detail)
    except Unknown as error:
        return openai_error(404, str(error))
    except NoReplica as error:
        return openai_error(503, str(error), _SOON)
    return Passed(sent.answer, broke=partial(router.rest, sent.replica))


def at_the_engine(call: Call) -> Call:
    """A call of the pass-through, with the path that it has at the engine. Raises Problem 400."""
    found = _AT_THE_ENGINE.fullmatch(call.target)
    if not found:
        raise Problem(
            400, "write `vllm/`, the service's id and what follows in the path as they are, not percent-encoded"
        )
    return replace(call, target=found[1])


async def ask(router: Router, service_id: str, asked: PromptRequest) -> PromptAnswer:
    """One prompt, as a chat where the model knows how, else as a completion. Raises Problem, Unknown."""
    running = [replica for replica in router.replicas(service_id) if replica.status == "running"]
    model = asked.model or (running[0].models[0] if running and running[0].models else "")
    common = {"max_tokens": asked.max_tokens, "temperature": asked.temperature, **({"model": model} if model else {})}
    chat = {**common, "messages": [{"role": "user", "content": asked.prompt}]}
    sent, body = await _whole(router, service_id, "/v1/chat/completions", chat)
    if sent.answer.status_code in {400, 404, 405} and _has_no_chat(sent.answer.status_code, body):
        plain = {**common, "prompt": asked.prompt}
        sent, body = await _whole(router, service_id, "/v1/completions", plain, first=sent.replica)
    if not sent.answer.is_success:
        status = sent.answer.status_code
        there = not_among(model, sent.replica.models)
        words = "; ".join(filter(None, (refusal_in(body) or f"the engine answers {status}", there)))
        raise Problem(status if status in _TOLD else 502, words)
    try:
        said = msgspec.json.decode(body, type=_Completion)
        choice = said.choices[0]
    except (*NOT_JSON, IndexError):
        raise Problem(502, f"replica {sent.replica.id} gave no answer in OpenAI's form: {body[:200]!r}") from None
    return PromptAnswer(
        success=True,
        response=text_of(choice),
        usage=None if said.usage is None else counts_of(said.usage),
        model=said.model or model,
        routed_to=sent.replica.id,
        service_id=service_id,
    )


async def _whole(
    router: Router, service_id: str, path: str, content: dict[str, object], first: Replica | None = None
) -> tuple[Sent, bytes]:
    headers = [(name.encode(), value.encode()) for name, value in _JSON.items()]
    call = Call("POST", path.encode(), headers, json.dumps(content).encode())
    try:
        sent = await router.send(service_id, call, whole=True, first=first)
    except NoReplica as error:
        raise Problem(503, str(error), _SOON) from None
    return sent, sent.answer.content


def _has_no_chat(status: int, body: bytes) -> bool:
    """A model without a chat template says so with 400; an engine without the call, with 404 or 405 and no error object."""
    return b"chat template" in body.lower() if status == HTTPStatus.BAD_REQUEST else not refusal_in(body)


def error_form(path: str) -> ErrorForm | None:
    """OpenAI's error objects on the pass-through, where its clients read them; elsewhere the usual form."""
    return openai_error if _PASS_THROUGH.match(path) else None


def openai_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as OpenAI's clients know it."""
    kind = "invalid_request_error" if status < 500 else "service_unavailable"  # noqa: PLR2004 - the caller's fault or not
    code = _CODES.get(status, str(status))
    content = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Response(json.dumps(content), status, {**_JSON, **(headers or {})})
