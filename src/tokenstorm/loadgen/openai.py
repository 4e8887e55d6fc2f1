"""Requests as bytes, and the explanation of a failed one."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from time import monotonic_ns
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import msgspec

from tokenstorm.errors import UsageError
from tokenstorm.load_parts import GENERATING, OF_CHAT
from tokenstorm.loadgen.composing import Steps, finish
from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.loadgen.http import Exchange
from tokenstorm.loadgen.operations import operation_of
from tokenstorm.loadgen.operations.chat import streaming
from tokenstorm.loadgen.prompts import Prompt, PromptSource
from tokenstorm.loadgen.sharing import Sharing
from tokenstorm.plan import Plan
from tokenstorm.result import Failure

CACHED_BYTES = 32_000_000
AHEAD = 64
"""So many requests are composed before they are due, where that takes long."""
AHEAD_BYTES = 16_000_000


class Requests:
    """Builds the bytes of request `seq` to any replica."""

    def __init__(
        self, plan: Plan, model: str, endpoints: list[Endpoint], prompts: PromptSource, api_key: str | None
    ) -> None:
        self._plan = plan
        self._model = model
        self._api_key = api_key
        self._prompts = prompts
        self._heads = [
            head_of(plan, endpoint, model, api_key) + f"x-request-id: {plan.run_id}-".encode() for endpoint in endpoints
        ]
        self._sharing = Sharing(plan.models, plan.seed) if plan.models else None
        self._cache: dict[tuple[int, int], tuple[bytes, Prompt]] = {}
        self._room = CACHED_BYTES
        self._coming: Iterator[int] = iter(())
        self._composed: dict[int, tuple[bytes, Prompt]] = {}
        self._composed_bytes = 0
        self._under_way: tuple[int, Steps[Prompt]] | None = None
        """The request that is composed now, step by step."""
        self._built = -1
        """The last request that was built."""

    def build(self, seq: int, replica: int) -> tuple[bytes, Prompt]:
        """The whole request, and the prompt that is in it. Requests are built in their order."""
        self._built = seq
        if self._prompts.cacheable:
            key = self._prompts.index_of(seq), self._sharing.of(seq) if self._sharing else 0
            if (cached := self._cache.get(key)) is None:
                cached = self._compose(seq)
                if self._room > 0:
                    self._cache[key] = cached
                    self._room -= len(cached[0])
            rest, prompt = cached
        elif (composed := self._composed.pop(seq, None)) is not None:
            rest, prompt = composed
            self._composed_bytes -= len(rest)
        elif self._under_way is not None and self._under_way[0] == seq:
            rest, prompt = self._made(seq, finish(self._under_way[1]))
            self._under_way = None
        else:
            rest, prompt = self._compose(seq)
        return b"%b%d%b" % (self._heads[replica], seq, rest), prompt

    def expect(self, coming: Iterator[int]) -> None:
        """Learn which requests will be built, in order: they may be composed ahead."""
        self._coming = iter(()) if self._prompts.cacheable else coming

    def compose_next(self) -> bool:
        """Go on composing the next request that will be built; False if none is left, or enough are ready."""
        if len(self._composed) >= AHEAD or self._composed_bytes >= AHEAD_BYTES:
            return False
        # in a burst some were built before they could be composed ahead: they would never be asked for again
        if self._under_way is None:
            seq = next((seq for seq in self._coming if seq > self._built), None)
            if seq is None:
                return False
            self._under_way = seq, self._prompts.in_steps(seq)
        seq, steps = self._under_way
        try:
            next(steps)
        except StopIteration as done:
            self._under_way = None
            composed = self._composed[seq] = self._made(seq, done.value)
            self._composed_bytes += len(composed[0])
        return True

    def compose_until(self, moment: int) -> None:
        """Compose ahead before the start, until a moment of the monotonic clock at the latest: long prompts take long."""
        while monotonic_ns() < moment and self.compose_next():
            pass

    def model_of(self, seq: int) -> str | None:
        """Which of several models a request asks for; None where there is one."""
        return None if self._sharing is None else self._sharing.names[self._sharing.of(seq)]

    def preflight(self, replica: int, model: str | None = None) -> bytes:
        """A first request that tries the service, or one of its models, outside the schedule."""
        return self._heads[replica] + b"preflight" + _rest(self._plan, model or self._model, self._prompts.preflight())

    def measure(self, replica: int, text: str) -> bytes:
        """A request that wants one token and the usage, outside the schedule: how many tokens does this text have?"""
        return self._heads[replica] + b"preflight" + _one_token(self._plan, self._model, text)

    def asked(self, prompt: Prompt) -> int | None:
        """The most tokens that the request with this prompt asks for; None if `extra_body` removed that."""
        more = self._plan.extra_body if prompt.body is None else {**prompt.body, **self._plan.extra_body}
        asked = (prompt.max_tokens or self._plan.max_tokens) if prompt.body is None else None
        limits = operation_of(self._plan).limits
        if not limits:
            return None
        if more:
            asked = next((more[name] for name in limits if more.get(name)), more.get(limits[-1], asked))
            answers = more.get("n", 1)
            return asked * answers if isinstance(asked, int) and isinstance(answers, int) else None
        return asked

    def redacted(self, failure: Failure) -> Failure:
        """The same failure without the API key: some engines repeat it in their refusals."""
        if self._api_key and self._api_key in failure.detail:
            return Failure(failure.kind, failure.detail.replace(self._api_key, "***"))
        return failure

    def _compose(self, seq: int) -> tuple[bytes, Prompt]:
        return self._made(seq, self._prompts.get(seq))

    def _made(self, seq: int, prompt: Prompt) -> tuple[bytes, Prompt]:
        return _rest(self._plan, self.model_of(seq) or self._model, prompt), prompt


def target_of(plan: Plan, endpoint: Endpoint, model: str) -> str:
    """What the load's requests ask for, behind the host."""
    if plan.custom is None:
        return endpoint.target_of(plan.endpoint)
    return f"{endpoint.path}{plan.custom.path.replace('{model}', quote(model, safe=''))}{endpoint.query}"


def head_of(plan: Plan, endpoint: Endpoint, model: str, api_key: str | None) -> bytes:
    """Request line and headers of the load's requests."""
    method = "POST" if plan.custom is None else plan.custom.method
    target = target_of(plan, endpoint, model)
    return service_head(plan, method, endpoint, target, api_key, headers=operation_of(plan).headers)


def service_head(
    plan: Plan,
    method: str,
    endpoint: Endpoint,
    target: str,
    api_key: str | None,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Those of anything that is asked of the service: with the key and the headers that the plan wants."""
    named = plan.api_key_header.lower()
    more = {name.lower(): value for name, value in (*headers.items(), *plan.headers.items())}  # case tells no two apart
    if api_key is None or named == "authorization":
        return request_head(method, endpoint, target, api_key, more)
    return request_head(method, endpoint, target, None, more) + f"{named}: {_sendable(api_key)}\r\n".encode()


def request_head(
    method: str, endpoint: Endpoint, target: str, api_key: str | None, headers: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """Request line and headers, as far as they are the same for every request."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {endpoint.authority}", "accept-encoding: identity"]
    if method in {"POST", "PUT"}:
        lines.append("content-type: application/json")
    lines += [f"{name}: {value}" for name, value in {"user-agent": "tokenstorm", **headers}.items()]
    if api_key is not None:
        lines.append(f"authorization: Bearer {_sendable(api_key)}")
    return "\r\n".join([*lines, ""]).encode()


def _sendable(api_key: str) -> str:
    """The key, fit for a header. Raises `UsageError`."""
    if not (api_key.isascii() and api_key.isprintable()):
        message = "the API key has characters that no header may hold: check for a newline at its end"
        raise UsageError(message)
    return api_key


def body_request(plan: Plan, model: str, endpoint: Endpoint, api_key: str | None, text: str) -> bytes:
    """A whole request that wants one token, outside the schedule."""
    head = head_of(plan, endpoint, model, api_key)
    return head + f"x-request-id: {plan.run_id}-preflight".encode() + _one_token(plan, model, text)


def _one_token(plan: Plan, model: str, text: str) -> bytes:
    """The rest of a request for one token, from its length on."""
    plan = msgspec.structs.replace(in_one_piece(plan), max_tokens=1, ignore_eos=False)
    return _rest(plan, model, Prompt(text=text))


def in_one_piece(plan: Plan) -> Plan:
    """The same without streams, and without what only a stream can have."""
    return msgspec.structs.replace(plan, stream=False, slo=None, cancel=None)


def _rest(plan: Plan, model: str, prompt: Prompt) -> bytes:
    """The rest of a request from its length on."""
    if plan.custom is not None and plan.custom.body is None:
        return b"\r\ncontent-length: 0\r\n\r\n" if plan.custom.method != "GET" else b"\r\n\r\n"
    body = msgspec.json.encode(body_of(plan, model, prompt))
    return b"\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def body_of(plan: Plan, model: str, prompt: Prompt) -> Any:
    """The JSON body of one request; a null in `extra_body` takes a field out. A request of one's own is as it is written."""
    if plan.custom is not None:
        return operation_of(plan).body(plan, model, prompt)
    made = operation_of(plan).body(plan, model, prompt) if prompt.body is None else _ready(plan, model, prompt.body)
    return {name: value for name, value in {**made, **plan.extra_body}.items() if value is not None}


def _ready(plan: Plan, model: str, body: dict[str, Any]) -> dict[str, Any]:
    """A body that is sent as it is, but for whether it streams, and for a model that the plan names."""
    ready = {"model": model, **body}
    if plan.model is not None or plan.models:
        ready["model"] = model
    if plan.endpoint in GENERATING:
        ready.pop("stream_options", None)
        ready |= streaming(stream=plan.stream) if plan.endpoint in OF_CHAT else {"stream": plan.stream}
    return ready


def explain(failure: Failure, exchange: Exchange) -> Failure:
    """Add to a failure what the answer's head says about it. Every failure gets a message."""
    status = exchange.status or 0
    is_of_the_body = failure.kind in {"malformed", "truncated"} or failure.kind.startswith("http_")
    if exchange.coding not in {"", "identity"} and is_of_the_body:
        return Failure(failure.kind, f"the answer is coded with {exchange.coding}, although `identity` was asked for")
    if exchange.location and 300 <= status < 400:  # noqa: PLR2004 - the redirections of HTTP
        return Failure(failure.kind, f"redirected to {exchange.location}: give the address that answers itself")
    if failure.detail:
        return failure
    known = {known.value: known.phrase for known in HTTPStatus}
    return Failure(failure.kind, f"{known.get(status, 'no reason')}, without a word of its own")
