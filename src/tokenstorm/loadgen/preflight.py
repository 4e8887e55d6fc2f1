"""What the launcher asks the service before the run: its model, its version, and one request per replica."""

import asyncio

import msgspec

from tokenstorm.errors import NOT_JSON, PreflightError
from tokenstorm.load_parts import GENERATING, PAIRING
from tokenstorm.loadgen.answers import Answer, Whole
from tokenstorm.loadgen.document import OK, Asked, ask
from tokenstorm.loadgen.endpoint import Endpoint, endpoints_of
from tokenstorm.loadgen.http import Connection, Receive
from tokenstorm.loadgen.messages import Service
from tokenstorm.loadgen.models import Models, not_among, read_models
from tokenstorm.loadgen.openai import Requests, body_request, explain, in_one_piece, service_head, target_of
from tokenstorm.loadgen.operations import MakeAnswer, answers_of
from tokenstorm.loadgen.pool import Pool, pools_of
from tokenstorm.loadgen.prompts import PromptSource
from tokenstorm.loadgen.vocabulary import NoVocabulary, find_vocabulary, template_tokens, tokens_in
from tokenstorm.plan import Plan
from tokenstorm.result import Failure
from tokenstorm.targets import Target

ASK_SECONDS = 10.0
_MODELS = "/models"
TOLERATED = frozenset((408, 425, 429))
"""Statuses that refuse for now, and not because of the request."""

TAKES_IGNORE_EOS = frozenset(("vllm", "sglang", "llamacpp", "tokenstorm"))
"""Engines that go on after the end of a text where `ignore_eos` asks for it, by the owner that their lists of models name."""
_ENDINGS = frozenset(("ignore_eos", "min_tokens", "stop", "stop_token_ids", "max_tokens", "max_completion_tokens"))
"""Fields that say themselves when an answer ends."""

EngineFacts = dict[str, object]


class _Fetch(Asked):
    """One request of the launcher: for a document, or (if `answers` reads them) for an answer, up to its first token if it streams."""

    def __init__(self, request: bytes, answers: MakeAnswer | None = None) -> None:
        super().__init__(request)
        self._answers = answers
        self._answer: Answer | None = None

    def began(self, status: int) -> Receive:
        carrier = self.carrier if isinstance(self.carrier, Connection) else None
        answer = self._answer = self._answers(status, carrier) if self._answers else Whole()

        def receive(piece: bytes, at: int) -> None:
            answer.receive(piece, at)
            if answer.first_token is not None:
                self.finish()

        return receive

    def ended(self) -> None:
        is_document = self._answers is None and self.status == OK
        if self._answer is not None and self.failure is None and not is_document:
            self._answer.finish(self.status or 0)
        super().ended()

    @property
    def body(self) -> bytes:
        """What came, where it came in one piece."""
        return self._answer.body if isinstance(self._answer, Whole) else b""

    @property
    def prompt_tokens(self) -> int | None:
        """How many tokens the prompt had, by the usage of an answer that came."""
        return None if self._answer is None or self.trouble else self._answer.prompt_tokens

    @property
    def trouble(self) -> Failure | None:
        """What went wrong."""
        failure = (self._answer.failure if self._answer else None) or self.failure
        return failure and explain(failure, self)


async def try_service(plan: Plan, prompts: PromptSource, api_key: str | None) -> tuple[Service, EngineFacts, list[str]]:
    """Try the service. Returns its model and key, each replica's version, and notes about what is not quite right.

    Raises `PreflightError` with the engine's own message when no replica answers, or one refuses the request.
    """
    endpoints = endpoints_of((target.url for target in plan.targets), plan.endpoint)
    pools = pools_of(endpoints)
    try:
        facts = await _versions(plan, pools, api_key)
        needs_model = plan.custom is None or plan.custom.needs_model
        model = (
            plan.model
            or (plan.models[0].name if plan.models else "")
            or (await _first_model(plan, pools, api_key) if needs_model else "")
        )
        requests = Requests(plan, model, endpoints, prompts, api_key)
        ignore_eos, unsure = await _settle_ends(plan, pools, api_key)
        context = None if plan.conversation is None else await context_of(plan, api_key)
        known = Service(model, api_key, ignore_eos=ignore_eos, context=context)
        service, unmeasured = await _learn_tokens(plan, pools[0], requests, known)
        if service.vocabulary:  # else a first request may be too long for the model, where words are several tokens
            prompts.speak(service.vocabulary, service.template_tokens)
        others = [one.name for one in plan.models[1:]]
        tries = [
            _try(plan, target, pool, requests.preflight(n), api_key, where=target_of(plan, endpoints[n], model))
            for n, (target, pool) in enumerate(_pairs(plan, pools))
        ]
        tries += [
            _try(plan, target, pool, requests.preflight(n, name), api_key, where=target_of(plan, endpoints[n], name))
            for name in others
            for n, (target, pool) in enumerate(_pairs(plan, pools))
        ]
        tried = await asyncio.gather(*tries)
    except PreflightError as error:
        there = await _others(plan, pools, api_key) if plan.model else ""
        raise PreflightError(_redacted(str(error), api_key) + there) from None
    finally:
        for pool in pools:
            pool.close()
    notes = [_redacted(note, api_key) for note in (*(attempt.note for attempt in tried), unmeasured, unsure) if note]
    if not any(attempt.answered for attempt in tried):
        raise PreflightError("; ".join(notes))
    return service, facts, notes


async def _settle_ends(plan: Plan, pools: list[Pool], api_key: str | None) -> tuple[bool, str | None]:
    """Whether requests ask for answers of exactly the length: as the plan says, or where that suits its prompts and all engines.

    And a note where nobody knows whether the engines take it.
    """
    if plan.ignore_eos is not None:
        return plan.ignore_eos, None
    if not plan.output_is_asked or plan.endpoint not in GENERATING or _ENDINGS & plan.extra_body.keys():
        return False, None
    listed = await asyncio.gather(*(_models(plan, pool, api_key) for pool in pools))
    if all(models.owners and models.owners <= TAKES_IGNORE_EOS for _, models in listed):
        return True, None
    return (
        False,
        "answers may be shorter than asked: no engine is known here that takes `ignore_eos` (--ignore-eos sends it all the same)",
    )


async def context_of(plan: Plan, api_key: str | None) -> int | None:
    """How many tokens a prompt and its answer may have together, on every replica; None where no replica holds to a bound.

    What a replica lists is only believed if it refuses a prompt that is longer.
    """
    endpoints = endpoints_of((target.url for target in plan.targets), plan.endpoint)
    pools = pools_of(endpoints)
    try:
        found = await asyncio.gather(*(_context(plan, endpoints, pool, n, api_key) for n, pool in enumerate(pools)))
    finally:
        for pool in pools:
            pool.close()
    return min((tokens for tokens in found if tokens is not None), default=None)


async def _context(plan: Plan, endpoints: list[Endpoint], pool: Pool, replica: int, api_key: str | None) -> int | None:
    _, models = await _models(plan, pool, api_key)
    model = plan.model or next(iter(models.names), "")
    tokens = models.context.get(model)
    if tokens is None:
        return None
    too_long = " ".join(["the"] * (tokens + 1))  # a word is a token at least
    request = body_request(plan, model, endpoints[replica], api_key, too_long)
    fetch = await _ask(pool, request, plan.request_timeout_seconds, answers_of(in_one_piece(plan)))
    return tokens if 400 <= (fetch.status or 0) < 500 else None  # noqa: PLR2004 - a refusal


async def _learn_tokens(plan: Plan, pool: Pool, requests: Requests, service: Service) -> tuple[Service, str | None]:
    """Words that are one token each to this engine, and what its template adds; or a note that says why nobody knows."""
    if not plan.prompts_are_measured or plan.custom is not None:
        return service, None

    async def count_tokens(text: str) -> int | None:
        where = f"{pool.endpoint.path}/tokenize"
        asked = {"model": service.model, "prompt": text, "content": text, "add_special_tokens": False}
        body = msgspec.json.encode(asked)
        head = service_head(plan, "POST", pool.endpoint, where, service.api_key)
        fetch = await _ask(pool, b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body), ASK_SECONDS)
        return tokens_in(fetch.body) if fetch.status == OK else None

    async def count_prompt(text: str) -> int | None:
        fetch = await _ask(
            pool, requests.measure(0, text), plan.request_timeout_seconds, answers_of(in_one_piece(plan))
        )
        return fetch.prompt_tokens

    try:
        vocabulary = await find_vocabulary(count_tokens)
        # of a query and its documents nobody can tell whose tokens are counted
        added = 0 if plan.endpoint in PAIRING else await template_tokens(count_prompt, vocabulary)
    except NoVocabulary as error:
        return service, f"lengths are in words: {error}"
    return msgspec.structs.replace(service, vocabulary=vocabulary, template_tokens=added), None


def _redacted(words: str, api_key: str | None) -> str:
    """The same text without the API key: some engines repeat it in their refusals."""
    return words.replace(api_key, "***") if api_key else words


def _pairs(plan: Plan, pools: list[Pool]) -> list[tuple[Target, Pool]]:
    return list(zip(plan.targets, pools, strict=True))


class _Attempt(msgspec.Struct, frozen=True):
    """Whether a replica answered at all, and a note about it."""

    answered: bool
    note: str | None


async def _try(plan: Plan, target: Target, pool: Pool, request: bytes, api_key: str | None, *, where: str) -> _Attempt:
    """Send one request to one replica, and leave at the first token. A bad answer leaves a note."""
    fetch = await _ask(pool, request, plan.request_timeout_seconds, answers_of(plan))
    failure = fetch.trouble
    if failure is None:
        return _Attempt(answered=True, note=None)
    status = fetch.status or 0
    if failure.kind.startswith("http_") and 300 <= status < 500 and status not in TOLERATED:  # noqa: PLR2004
        method = "POST" if plan.custom is None else plan.custom.method
        message = (
            f"{target.url} refuses {method} {where} with HTTP {status}: {failure.detail}{_key_hint(status, api_key)}"
        )
        raise PreflightError(message)
    answered = fetch.status is not None
    what = "answered a first request badly" if answered else "did not answer a first request"
    return _Attempt(answered=answered, note=f"{target.url} {what} ({failure.kind}): {failure.detail}")


def _key_hint(status: int | None, api_key: str | None) -> str:
    if status not in {401, 403}:
        return ""
    return " (it refuses the key)" if api_key else " (give the key with --api-key-env)"


async def _first_model(plan: Plan, pools: list[Pool], api_key: str | None) -> str:
    """The first model that a replica names in its list, a base model before an adapter (a LoRA)."""
    words, unnamed = [], False
    for target, pool in _pairs(plan, pools):
        fetch, models = await _models(plan, pool, api_key)
        if models.names:
            return models.names[0]
        unnamed = unnamed or fetch.status in {OK, 404, 405}
        failure = fetch.trouble or Failure(
            "no model", "it names none: a list of objects with an `id` is expected in `data`"
        )
        hint = _key_hint(fetch.status, api_key)
        where = pool.endpoint.target(_MODELS)
        words.append(f"{target.url} does not tell its model ({failure.kind} for GET {where}): {failure.detail}{hint}")
    message = "; ".join(words)
    if unnamed:
        message += "; name one with --model"
    raise PreflightError(message)


async def _others(plan: Plan, pools: list[Pool], api_key: str | None) -> str:
    """The models there are, where the one that was asked for is not among them."""
    listed = await asyncio.gather(*(_models(plan, pool, api_key) for pool in pools))
    there = not_among(plan.model, tuple(dict.fromkeys(name for _, models in listed for name in models.names)))
    return there and f"; {there}"


async def _models(plan: Plan, pool: Pool, api_key: str | None) -> tuple[_Fetch, Models]:
    """What a replica answers for its list, and the models in it."""
    where = pool.endpoint.target(_MODELS)
    fetch = await _ask(pool, service_head(plan, "GET", pool.endpoint, where, api_key) + b"\r\n", ASK_SECONDS)
    return fetch, read_models(fetch.body) if fetch.status == OK else Models()


async def _versions(plan: Plan, pools: list[Pool], api_key: str | None) -> EngineFacts:
    async def version(pool: Pool) -> object:
        where = f"{pool.endpoint.path}/version"
        fetch = await _ask(pool, service_head(plan, "GET", pool.endpoint, where, api_key) + b"\r\n", ASK_SECONDS)
        try:
            return msgspec.json.decode(fetch.body) if fetch.status == OK else None
        except NOT_JSON:
            return None

    answers = await asyncio.gather(*(version(pool) for pool in pools))
    return {target.replica: answer for target, answer in zip(plan.targets, answers, strict=True) if answer}


async def _ask(pool: Pool, request: bytes, seconds: float, answers: MakeAnswer | None = None) -> _Fetch:
    fetch = _Fetch(request, answers)
    await ask(pool, fetch, seconds)
    return fetch
