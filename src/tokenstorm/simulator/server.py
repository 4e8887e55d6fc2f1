"""The simulated engine's HTTP side: vLLM's paths, status codes and error objects."""

import asyncio
import hmac
import random
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from tokenstorm.httpd import Reply, Request
from tokenstorm.prometheus import MEDIA_TYPE

from .answers import Answer, Label, StreamedAnswer, WholeAnswer, output_length
from .dialects import DIALECTS, messages_error, parse_messages, parse_responses
from .driver import Driver
from .engine import Engine, Sequence
from .metrics import Metrics
from .openai import ApiError, Asked, error_body, parse, parse_tokenize
from .pooling import POOLING
from .settings import Faults, Settings

__all__ = ["VERSION", "SimulatedEngine"]

VERSION: Final = "0.1.0+simulated"
_MESSAGES: Final = "/v1/messages"
_FORMS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    _MESSAGES: "messages",
}
_MOST_TEXTS: Final = 1000
"""Of the longest prompt: so much may the texts of one request have together."""


class SimulatedEngine:
    """Answers requests; `handle` and `has_key` are for `httpd.serve`. Needs a running event loop."""

    def __init__(
        self,
        model: str | tuple[str, ...] = "sim-model",
        settings: Settings | None = None,
        faults: Faults | None = None,
        *,
        api_key: str | None = None,
        seed: int = 0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._models_served = (model,) if isinstance(model, str) else model
        self._settings = settings or Settings()
        self._faults = faults or Faults()
        self._api_key = api_key
        self.has_key = self._is_authorized if api_key else None
        self._clock = clock
        self._ready_at = clock() + round(self._faults.slow_start * 1e9)
        self._created = int(time.time())
        self._dice = random.Random(seed)
        # Apart from the other dice, so that faults depend on the order of the requests alone.
        self._fault_dice = random.Random(f"faults {seed}")
        self.metrics = Metrics()
        later = asyncio.get_running_loop().call_later
        self.engine = Engine(self._settings, self.metrics, seed)
        self._driver = Driver(self.engine, self.metrics, clock, later)
        self._routes: dict[str, tuple[str, Callable[[Request, Reply], None]]] = {
            "/health": ("GET", self._health),
            "/ping": ("GET", self._health),
            "/version": ("GET", self._version),
            "/metrics": ("GET", self._metrics_text),
            "/tokenize": ("POST", self._tokenize),
            "/reset_prefix_cache": ("POST", self._reset),
            "/v1/models": ("GET", self._models),
            **dict.fromkeys(_FORMS, ("POST", self._generate)),
            **dict.fromkeys(POOLING, ("POST", self._pool)),
        }

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request, now or as its tokens come."""
        try:
            self._route(request)(request, reply)
        except ApiError as error:
            if request.path == _MESSAGES:
                body = messages_error(error.status, str(error))
            else:
                body = error_body(error.status, str(error), error.param)
            reply.send(error.status, body, headers=_echo(request))

    def _route(self, request: Request) -> Callable[[Request, Reply], None]:
        path = request.path
        if self.has_key and path.startswith("/v1") and not self.has_key(request.headers):
            return _fixed(401, b'{"error":"Unauthorized"}')
        method, handler = self._routes.get(path, ("", None))
        if handler is None:
            return _fixed(404, b'{"detail":"Not Found"}')
        if request.verb != method:
            allow = "GET, HEAD" if method == "GET" else method
            return _fixed(405, b'{"detail":"Method Not Allowed"}', (("allow", allow),))
        if path not in ("/version", "/metrics") and self._clock() < self._ready_at:
            raise ApiError(503, "the simulated engine is still starting: try again later")
        return handler

    def _is_authorized(self, headers: Mapping[str, str]) -> bool:
        given = headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(given, f"Bearer {self._api_key}".encode())

    def _health(self, _request: Request, reply: Reply) -> None:
        reply.send(200)

    def _version(self, _request: Request, reply: Reply) -> None:
        reply.send(200, msgspec.json.encode({"version": VERSION, "simulated": True}))

    def _metrics_text(self, _request: Request, reply: Reply) -> None:
        engine = self.engine
        text = self.metrics.render(
            self._models_served[0],
            running=len(engine.running),
            waiting=len(engine.waiting),
            kv_usage=engine.kv_usage,
        )
        reply.send(200, text.encode(), MEDIA_TYPE)

    def _models(self, _request: Request, reply: Reply) -> None:
        base = self._models_served[0]
        cards = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "tokenstorm",
                "root": name,
                "parent": None if name == base else base,
                "max_model_len": self._settings.max_model_len,
            }
            for name in self._models_served
        ]
        reply.send(200, msgspec.json.encode({"object": "list", "data": cards}))

    def _tokenize(self, request: Request, reply: Reply) -> None:
        count = parse_tokenize(request.body, self._models_served, self._settings.template_tokens)
        answer = {
            "count": count,
            "max_model_len": self._settings.max_model_len,
            "tokens": list(range(count)),
            "token_strs": None,
        }
        reply.send(200, msgspec.json.encode(answer))

    def _reset(self, _request: Request, reply: Reply) -> None:
        self.engine.prefixes.clear()
        reply.send(200)

    def _generate(self, request: Request, reply: Reply) -> None:
        _check_type(request)
        asked = self._asked(request)
        fault, place = self._draw_fault()
        self._refuse(fault)
        answer = self._answer(asked, request, reply)
        sequence = answer.sequence
        sequence.on_token = answer.token
        if fault:
            last = sequence.output_tokens
            whole = fault == "malformed" and not asked.stream
            at = last if whole else 1 + int(place * last)
            self._inject(fault, at, answer, reply)
        reply.on_close = lambda: self._driver.abort(sequence)
        answer.start(_echo(request))
        self._driver.submit(sequence)

    def _pool(self, request: Request, reply: Reply) -> None:
        """Answer with numbers, once a step has taken in the whole prompt. A fault in it breaks off the whole answer."""
        _check_type(request)
        pooled = POOLING[request.path](request.body, self._models_served)
        if pooled.prompt_tokens > self._settings.max_model_len * _MOST_TEXTS:
            raise ApiError(400, "the request is longer than the simulator takes", "input")
        fault, _ = self._draw_fault()
        self._refuse(fault)
        name = request.headers.get("x-request-id") or uuid.uuid4().hex
        body = msgspec.json.encode(pooled.answer(name, int(time.time())))
        sequence = Sequence(min(pooled.prompt_tokens, self._settings.max_model_len - 1), 1, "stop", pools=True)

        def done() -> None:
            if fault == "reset":
                reply.reset()
            elif fault != "stall":
                reply.send(200, body[: len(body) // 2] if fault else body, headers=_echo(request))

        if fault:
            self.metrics.faults[fault] += 1
        sequence.on_token = done
        reply.on_close = lambda: self._driver.abort(sequence)
        self._driver.submit(sequence)

    def _asked(self, request: Request) -> Asked:
        models, settings = self._models_served, self._settings
        match _FORMS[request.path]:
            case "responses":
                return parse_responses(request.body, models, settings)
            case "messages":
                return parse_messages(request.body, models, settings)
            case form:
                return parse(request.body, chat=form == "chat", models=models, settings=settings)

    def _refuse(self, fault: str) -> None:
        if fault in ("error_500", "error_429"):
            self.metrics.faults[fault] += 1
            raise ApiError(int(fault.removeprefix("error_")), "a fault injected by the simulator")

    def _answer(self, asked: Asked, request: Request, reply: Reply) -> Answer:
        dice = self._dice if asked.seed is None else random.Random(asked.seed)
        length, reason = output_length(asked, self._settings, dice)
        name = request.headers.get("x-request-id") or uuid.uuid4().hex
        if asked.form == "chat":
            name = ("chatcmpl-" if asked.chat else "cmpl-") + name
        label = Label(name, asked.model, int(time.time()), dice.getrandbits(16))
        sequence = Sequence(asked.prompt_tokens, length, reason)
        if self._settings.prefix_cache_tokens:
            sequence.prefix = self.engine.prefixes.blocks_of(asked.prompt)
        kind = DIALECTS.get(asked.form) or (StreamedAnswer if asked.stream else WholeAnswer)
        return kind(asked, self._settings, reply, label, sequence)

    def _draw_fault(self) -> tuple[str, float]:
        """The kind of this request's fault ("" for none), and its place in the answer, 0 to 1."""
        kind, place = self._fault_dice.random(), self._fault_dice.random()
        for name, rate in self._faults.rates().items():
            if kind < rate:
                return name, place
            kind -= rate
        return "", place

    def _inject(self, fault: str, at: int, answer: Answer, reply: Reply) -> None:
        """Let the answer fail at its token number `at`."""
        sequence = answer.sequence

        def token() -> None:
            if sequence.produced != at:
                answer.token()
            elif fault == "malformed":
                answer.break_off()
            else:
                self._driver.abort(sequence)
                if fault == "reset":
                    reply.reset()

        self.metrics.faults[fault] += 1
        sequence.on_token = token


def _check_type(request: Request) -> None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(400, "Unsupported Media Type: Only 'application/json' is allowed")


def _echo(request: Request) -> tuple[tuple[str, str], ...]:
    given = request.headers.get("x-request-id")
    return (("x-request-id", given),) if given else ()


def _fixed(status: int, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> Callable[[Request, Reply], None]:
    def handler(request: Request, reply: Reply) -> None:
        reply.send(status, body, headers=(*headers, *_echo(request)))

    return handler
