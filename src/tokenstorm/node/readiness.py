"""Is an engine ready? Judged by what it answers, and by nothing else.

Engines differ in what they have: a health call, a list of models, chat, completions. A call that an engine does not have
(404, 405, 501) is no obstacle. One that can generate is ready once it generated a token, since its health call may be fine
while every answer fails, and since a first request may compile for minutes, which belongs to the start and not to a load.
"""

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

import msgspec

from tokenstorm.loadgen.answers import Whole
from tokenstorm.loadgen.models import Models, asked_for, not_among, read_models
from tokenstorm.node.service import Wanted
from tokenstorm.result import Failure

_ABSENT = frozenset((404, 405, 501))
_DENIED = frozenset((401, 403))
_LATER = frozenset((408, 425, 429, 502, 503, 504))
_NO_CALL = re.compile(r"not support .*(completion|generat)", re.IGNORECASE)
"""As vLLM and llama.cpp say of a model for embeddings."""
_CALLS = ("/v1/chat/completions", "/v1/completions")


@dataclass(frozen=True)
class Answer:
    """What came back: `status` is None, and `trouble` says why, when nothing did."""

    status: int | None
    body: bytes = b""
    trouble: str = ""

    @property
    def good(self) -> bool:
        """Whether it is a success of HTTP."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - the successes of HTTP

    @property
    def absent(self) -> bool:
        """Whether the engine has no such call."""
        return self.status in _ABSENT

    @property
    def denied(self) -> bool:
        """Whether it does not accept the key."""
        return self.status in _DENIED

    def told(self, path: str) -> str:
        """The answer in words."""
        return f"{path} answers {self.status}" if self.status else f"{path} gives no answer ({self.trouble})"


Ask = Callable[[str, bytes | None], Awaitable[Answer]]
"""Asks the engine for a path: a GET, or with a body a POST of JSON, which is waited for as long as it takes."""
State = Literal["ready", "bare", "waiting", "failing", "denied"]


@dataclass(frozen=True)
class Verdict:
    """The state of an engine, and why it is so.

    `bare`: it listens and has none of the calls that could tell; what still loads looks like that, too. `failing`: it
    answered the request for a token, and not well. `proof` is a call that wants the key, if it was seen to be there.
    """

    state: State
    reason: str = ""
    proof: str | None = None


async def judge(wanted: Wanted, ask: Ask, say: Callable[[str], None]) -> Verdict:
    """Ask an engine that listens. `say` is told what is waited for, for as long as an answer takes."""
    health = await ask(wanted.health_path, None)
    if not (health.good or health.absent or health.denied):  # a health call may want another key than ours
        return Verdict("waiting", health.told(wanted.health_path))
    listed = await ask(wanted.models_path, None)
    absent = [
        answer.told(path)
        for path, answer in ((wanted.health_path, health), (wanted.models_path, listed))
        if answer.absent or answer.denied
    ]
    if listed.denied:
        return Verdict("denied", listed.told(wanted.models_path))
    if not (listed.good or listed.absent):
        return Verdict("waiting", _joined(*absent, listed.told(wanted.models_path)))
    proof = wanted.models_path if listed.good else None
    if wanted.generates:
        models = read_models(listed.body)
        tried = await _first_token(wanted.model, models, ask, lambda words: say(_joined(*absent, words)))
        if tried is not None:
            return Verdict(tried.state, _joined(*absent, tried.reason) if tried.reason else "", tried.proof)
    known_by = wanted.health_path if health.good else wanted.models_path if listed.good else None
    what = "it has no call that generates" if wanted.generates else "its recipe has it asked for no token"
    if known_by is None:
        return Verdict("bare", _joined(*absent, f"{what}: it listens, and that is all that is known"))
    return Verdict("ready", f"{what}: it is ready by {known_by} alone", proof)


async def _first_token(wanted: str | None, models: Models, ask: Ask, say: Callable[[str], None]) -> Verdict | None:
    """What the first of its calls that generates made of one token; None where it has no such call."""
    model = asked_for(wanted, models)
    refused: Verdict | None = None
    for path, body in _requests(model):
        say(f"a first request ({path}, one token) has no answer yet")
        answer = await ask(path, body)
        if answer.denied:
            return Verdict("denied", answer.told(path))
        failure = _failure(answer)
        if failure is None:
            return Verdict("ready", proof=path)
        if _has_none(answer, failure.detail):
            continue
        words = f": {failure.detail}" if answer.status and failure.detail else ""
        told = f"a first request failed: {answer.told(path)}{words}"
        refused = refused or Verdict("failing", _joined(told, not_among(model, models.names)))
        if answer.status is None or answer.status in _LATER:
            break
    return refused


def _requests(model: str | None) -> Iterator[tuple[str, bytes]]:
    """One token, asked for as a chat and as a completion, with nothing that an engine may refuse (TGI takes no temperature 0)."""
    common = {"max_tokens": 1, "stream": False, **({"model": model} if model else {})}
    prompts: tuple[dict[str, object], ...] = ({"messages": [{"role": "user", "content": "Hi"}]}, {"prompt": "Hi"})
    for path, prompt in zip(_CALLS, prompts, strict=True):
        yield path, msgspec.json.encode({**common, **prompt})


def _failure(answer: Answer) -> Failure | None:
    """What is wrong with an answer, as a load would count it."""
    whole = Whole()
    whole.receive(answer.body, time.monotonic_ns())
    whole.finish(answer.status or 0)
    return whole.failure


def _has_none(answer: Answer, words: str) -> bool:
    """Whether a refusal is of the call itself: engines say with the same status that they have no such model."""
    if _NO_CALL.search(words):
        return True
    return answer.absent and not (answer.status == HTTPStatus.NOT_FOUND and "model" in words.lower())


def _joined(*words: str) -> str:
    return "; ".join(filter(None, words))
