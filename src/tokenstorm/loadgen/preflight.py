"""What the launcher asks the service before anything counts: its model, its version, and one request per replica."""

import asyncio
from time import monotonic_ns

import msgspec

from tokenstorm.errors import NOT_JSON, PreflightError
from tokenstorm.loadgen.clock import wait_within
from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.loadgen.http import Exchange, Pool, Receive, connect_failure
from tokenstorm.loadgen.messages import Service
from tokenstorm.loadgen.openai import Answer, Requests, Stream, Whole, request_head
from tokenstorm.loadgen.prompts import PromptSource
from tokenstorm.plan import Plan, Target

ASK_SECONDS = 10.0
TOLERATED = frozenset((408, 425, 429))
"""Refusals of the moment, not of the request."""

EngineFacts = dict[str, object]


class _Fetch(Exchange):
    """One request of the launcher; `answer` tells what came, up to the first token if it streams."""

    def __init__(self, request: bytes, *, stream: bool = False) -> None:
        self.request = request
        self.sent = monotonic_ns()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.body = b""
        self._stream = stream
        self.answer: Answer | None = None

    def began(self, status: int) -> Receive:
        answer = self.answer = Stream() if self._stream and status == 200 else Whole()  # noqa: PLR2004

        def receive(piece: bytes, at: int) -> None:
            self.body += piece
            answer.receive(piece, at)
            if answer.first_token is not None and not self.over.done():
                self.over.set_result(None)

        return receive

    def ended(self) -> None:
        if self.answer is not None and self.failure is None:
            self.answer.finish(self.status or 0)
        if not self.over.done():
            self.over.set_result(None)

    @property
    def trouble(self) -> tuple[str, str] | None:
        """Kind and words of what went wrong."""
        failure = self.failure or (self.answer.failure if self.answer else None)
        return (failure.kind, failure.detail) if failure else None


async def look(plan: Plan, prompts: PromptSource, api_key: str | None) -> tuple[Service, EngineFacts, list[str]]:
    """Try the service: its model, each replica's version, and what is only worth a note.

    Raises `PreflightError` in the engine's own words when no replica answers, or one refuses the request.
    """
    endpoints = [Endpoint.parse(target.url) for target in plan.targets]
    pools = [Pool(endpoint) for endpoint in endpoints]
    try:
        facts = await _versions(plan, pools, api_key)
        model = plan.model or await _first_model(plan, pools, api_key)
        requests = Requests(plan, model, endpoints, prompts, api_key)
        tries = [
            _try(plan, target, pool, requests.preflight(n), api_key)
            for n, (target, pool) in enumerate(_pairs(plan, pools))
        ]
        tried = await asyncio.gather(*tries)
    except PreflightError as error:
        raise PreflightError(_redacted(str(error), api_key)) from None
    finally:
        for pool in pools:
            pool.close()
    notes = [_redacted(attempt.note, api_key) for attempt in tried if attempt.note]
    if not any(attempt.answered for attempt in tried):
        raise PreflightError("; ".join(notes))
    return Service(model, api_key), facts, notes


def _redacted(words: str, api_key: str | None) -> str:
    """Some engines repeat the key in their refusals."""
    return words.replace(api_key, "***") if api_key else words


def _pairs(plan: Plan, pools: list[Pool]) -> list[tuple[Target, Pool]]:
    return list(zip(plan.targets, pools, strict=True))


class _Attempt(msgspec.Struct, frozen=True):
    """Whether a replica answered at all, and what is to be said of it."""

    answered: bool
    note: str | None


async def _try(plan: Plan, target: Target, pool: Pool, request: bytes, api_key: str | None) -> _Attempt:
    """One request to one replica, left at its first token; a note where it was not answered well."""
    fetch = await _ask(pool, request, plan.request_timeout_seconds, stream=plan.stream)
    if fetch.trouble is None:
        return _Attempt(answered=True, note=None)
    kind, detail = fetch.trouble
    status = fetch.status or 0
    if kind.startswith("http_") and 400 <= status < 500 and status not in TOLERATED:  # noqa: PLR2004
        hint = _key_hint(status, api_key)
        message = f"{target.url} refuses the request with HTTP {status}: {detail}{hint}"
        raise PreflightError(message)
    answered = fetch.status is not None
    what = "answered a first request badly" if answered else "did not answer a first request"
    return _Attempt(answered=answered, note=f"{target.url} {what} ({kind}): {detail}")


def _key_hint(status: int | None, api_key: str | None) -> str:
    if status not in {401, 403}:
        return ""
    return " (it refuses the key)" if api_key else " (give the key with --api-key-env)"


async def _first_model(plan: Plan, pools: list[Pool], api_key: str | None) -> str:
    """The first model that a replica names at /v1/models."""
    words, unnamed = [], False
    for target, pool in _pairs(plan, pools):
        fetch = await _ask(pool, request_head("GET", pool.endpoint, "/v1/models", api_key) + b"\r\n", ASK_SECONDS)
        try:
            names = [model.id for model in msgspec.json.decode(fetch.body, type=_Models).data]
        except NOT_JSON:
            names = []
        if fetch.status == 200 and names:  # noqa: PLR2004
            return names[0]
        unnamed = unnamed or fetch.status in {200, 404, 405}
        kind, detail = fetch.trouble or ("no model", "GET /v1/models names none")
        hint = _key_hint(fetch.status, api_key)
        words.append(f"{target.url} does not tell its model ({kind}): {detail}{hint}")
    message = "; ".join(words)
    if unnamed:
        message += "; name one with --model"
    raise PreflightError(message)


async def _versions(plan: Plan, pools: list[Pool], api_key: str | None) -> EngineFacts:
    async def version(pool: Pool) -> object:
        fetch = await _ask(pool, request_head("GET", pool.endpoint, "/version", api_key) + b"\r\n", ASK_SECONDS)
        try:
            return msgspec.json.decode(fetch.body) if fetch.status == 200 else None  # noqa: PLR2004
        except NOT_JSON:
            return None

    answers = await asyncio.gather(*(version(pool) for pool in pools))
    return {target.replica: answer for target, answer in zip(plan.targets, answers, strict=True) if answer}


async def _ask(pool: Pool, request: bytes, seconds: float, *, stream: bool = False) -> _Fetch:
    fetch = _Fetch(request, stream=stream)
    try:
        await pool.resolve()
    except OSError as error:
        fetch.fail(*connect_failure(error))
        return fetch
    pool.send(fetch)
    try:
        await wait_within(seconds, fetch.over)
    except TimeoutError:
        fetch.fail("timeout", f"no answer in {seconds:g} s")
    else:
        if fetch.done is None:
            fetch.leave()
    return fetch


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]
