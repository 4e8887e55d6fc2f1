"""The prompts. Which one request `seq` gets depends on the plan's seed and `seq` alone; its salt also on the run."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from tokenstorm.custom import Custom
from tokenstorm.errors import PlanError
from tokenstorm.load_parts import PAIRING, WITH_MESSAGES
from tokenstorm.loadgen.composing import Steps
from tokenstorm.loadgen.conversations import BYTES_PER_TOKEN, Conversations, Step
from tokenstorm.loadgen.datasets import NO_COLUMNS, Columns, Left, Stock, check_prompts, count_reason, read_prompts
from tokenstorm.loadgen.grouped import Grouped
from tokenstorm.loadgen.mixing import MASK, Order, mix
from tokenstorm.loadgen.promptfile import Prompt, read_file
from tokenstorm.loadgen.records import check_fields, hold_records, parse_records
from tokenstorm.loadgen.words import WORDS
from tokenstorm.plan import Plan, PromptFile, PromptList, Shared, Synthetic, TraceFile

__all__ = ["Drawn", "Prompt", "PromptSource", "load_prompts", "prompt_file"]

_NO_REQUEST = MASK
"""A number that no request has."""


class PromptSource(Protocol):
    """Gives each request its prompt."""

    cacheable: bool
    """Whether the same index is always the same prompt."""

    times: Sequence[int] | None
    """When each request is due, where what is recorded tells that; in nanoseconds from the start."""

    left_out: dict[str, int]
    """How many records of a file are not asked, by the reason."""

    def index_of(self, seq: int) -> int:
        """The number of the prompt that a request gets."""

    def speak(self, vocabulary: Sequence[str], template_tokens: int) -> None:
        """Make text of these words, each one token, and so much shorter than was asked: a template adds that."""

    def get(self, seq: int) -> Prompt:
        """The prompt of a request."""

    def in_steps(self, seq: int) -> Steps[Prompt]:
        """The same in steps, where a prompt is so long that making it would keep requests from leaving."""
        yield from ()
        return self.get(seq)

    def preflight(self) -> Prompt:
        """A prompt of the form and length of request 0's, with a beginning that no request has: no cache is warmed."""

    def count(self) -> tuple[int, int]:
        """How many prompts there are to choose from, and how many of them differ; (0, 0) where each request has its own."""


class Stored(Protocol):
    """Prompts that are not in memory, by their numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Prompt: ...


class Drawn(PromptSource):
    """Prompts of a list, or made up.

    Prompts of a list are taken in turn, in an order that the seed shuffles anew for each pass: each comes once before
    any comes again.
    """

    def __init__(
        self,
        plan: Plan,
        prompts: Sequence[Prompt] | Stored | Synthetic,
        left_out: Mapping[str, int] = MappingProxyType({}),
        order: Order | None = None,
    ) -> None:
        self.left_out = dict(left_out)
        self._prompts = prompts
        self._seed = mix(plan.seed)
        self._unique = plan.salted
        self._salt = mix(self._seed + 1) ^ mix(int(plan.run_id[:16], 16) ^ mix(int(plan.run_id[16:], 16)))
        self._order = None if isinstance(prompts, Synthetic) else order or Order(len(prompts), plan.seed)
        self.cacheable = isinstance(prompts, Sequence) and not plan.salted
        self.times = None
        self._words: Sequence[str] = WORDS
        self._template = 0

    def index_of(self, seq: int) -> int:
        """Synthetic prompts are numbered by request."""
        return seq if self._order is None else self._order[seq]

    def speak(self, vocabulary: Sequence[str], template_tokens: int) -> None:
        self._words, self._template = vocabulary, template_tokens

    def get(self, seq: int) -> Prompt:
        prompt = self._plain(seq)
        return _salted(prompt, mix(self._salt ^ seq), self._vocabulary) if self._unique else prompt

    def preflight(self) -> Prompt:
        prompt, salt = self._plain(0), mix(self._salt ^ _NO_REQUEST)
        if self._unique:
            return _salted(prompt, salt, self._vocabulary)
        words = " ".join(self._words[digit] for digit in _digits(salt, len(self._words))) + " "
        return _begun(prompt, lambda text: words + text[len(words) :], salt, self._vocabulary)

    def count(self) -> tuple[int, int]:
        if not isinstance(self._prompts, Sequence):
            return 0, 0
        distinct = {
            (one.text, msgspec.json.encode(one.messages), one.max_tokens, msgspec.json.encode(one.body))
            for one in self._prompts
        }
        return len(self._prompts), len(distinct)

    def _plain(self, seq: int) -> Prompt:
        if isinstance(self._prompts, Synthetic):
            return self._make_up(self._prompts, seq)
        return self._prompts[self.index_of(seq)]

    def _make_up(self, synthetic: Synthetic, seq: int) -> Prompt:
        """Draws from `random()` alone, which Python promises to be the same for a seed in every version."""
        draw = random.Random(mix(self._seed ^ mix(seq))).random
        length, output = synthetic.lengths(draw)
        size = synthetic.vocabulary
        if synthetic.unit == "tokens":
            return Prompt(tokens=[int(draw() * size) for _ in range(length)], max_tokens=output)
        is_text = synthetic.unit == "text"
        words = self._words if is_text else WORDS
        size = min(size, len(words))
        count = max(1, length - self._template) if is_text else length
        text = " ".join([words[int(draw() * size)] for _ in range(count)])
        return Prompt(text=text, max_tokens=output, asked=length if is_text else None)

    @property
    def are_whole(self) -> bool:
        """Whether each prompt is all that a request asks: it has its documents, or is a whole body."""
        prompts = self._prompts
        return isinstance(prompts, list) and all(one.texts is not None or one.body is not None for one in prompts)

    @property
    def _vocabulary(self) -> int:
        return self._prompts.vocabulary if isinstance(self._prompts, Synthetic) else 0


class Batched(PromptSource):
    """Requests of several texts: each takes so many prompts of a source, one after the other."""

    def __init__(self, source: PromptSource, each: int, *, counted: bool) -> None:
        self._source = source
        self._each = each
        self._counted = counted
        self.cacheable = False
        self.times = None
        self.left_out = source.left_out

    def index_of(self, seq: int) -> int:
        return self._source.index_of(seq * self._each)

    def speak(self, vocabulary: Sequence[str], template_tokens: int) -> None:
        self._source.speak(vocabulary, template_tokens)

    def get(self, seq: int) -> Prompt:
        return self._joined(self._source.get(seq * self._each), seq)

    def preflight(self) -> Prompt:
        return self._joined(self._source.preflight(), 0)

    def count(self) -> tuple[int, int]:
        return self._source.count()

    def _joined(self, first: Prompt, seq: int) -> Prompt:
        """The first prompt and those that go with it. What is asked of each adds up, where it is counted once."""
        others = [self._source.get(seq * self._each + place) for place in range(1, self._each)]
        texts = [one.tokens if one.tokens is not None else one.said or "" for one in others]
        asked = sum(one.asked or 0 for one in (first, *others)) if self._counted else 0
        return msgspec.structs.replace(first, texts=texts, asked=asked or None)


def load_prompts(plan: Plan) -> PromptSource:
    """Read what the plan asks for. Raises `PlanError` when the file is not the one that the plan was made with."""
    if plan.conversation is not None:
        return conversations_of(plan)
    source = _load(plan)
    if plan.custom is not None and not isinstance(plan.prompts, PromptFile):
        check_fields(plan.custom, [source.get(0)], "these prompts")
    alone = plan.texts_per_request == 1 or (isinstance(source, Drawn) and source.are_whole)
    return source if alone else Batched(source, plan.texts_per_request, counted=plan.endpoint not in PAIRING)


def _load(plan: Plan) -> PromptSource:
    match plan.prompts:
        case PromptList(prompts=texts):
            return Drawn(plan, [Prompt(index=index, text=text) for index, text in enumerate(texts)])
        case PromptFile(path=path, sha256=sha256):
            if plan.custom is not None:
                return Drawn(plan, _records(pinned(path, sha256), path, plan.columns, plan.custom))
            stock = read_prompts(pinned(path, sha256), path, plan.columns)
            refuse_unfit(plan, stock.prompts, path)
            return Drawn(plan, stock.prompts, stock.left_out)
        case Synthetic():
            return Drawn(plan, plan.prompts)
        case Shared():
            return Grouped(plan, plan.prompts)
        case TraceFile():
            message = "a trace is prepared before it is read"
            raise AssertionError(message)


def _records(data: bytes, path: str, columns: Columns, custom: Custom) -> list[Prompt]:
    """The prompts of a request of one's own: objects with any fields, or a file as any other. Raises `PlanError`."""
    if hold_records(data) and not columns:
        prompts = parse_records(data, path)
    else:
        prompts = read_prompts(data, path, columns).prompts
    check_fields(custom, prompts, path)
    return prompts


def conversations_of(plan: Plan) -> Conversations:
    """The conversations that a plan asks for. Raises `PlanError`."""
    match plan.prompts:
        case PromptList(prompts=texts):
            return talks_of(
                plan, Stock([Prompt(index=index, text=text) for index, text in enumerate(texts)]), "prompts"
            )
        case PromptFile(path=path, sha256=sha256):
            return talks_of(plan, read_prompts(pinned(path, sha256), path, plan.columns, whole=True), path)
    return Conversations(plan)


def refuse_unfit(plan: Plan, prompts: Sequence[Prompt], path: str) -> None:
    """Raises `PlanError` for prompts that the endpoint does not take."""
    paired = [prompt for prompt in prompts if prompt.texts is not None]
    if paired and (plan.endpoint not in PAIRING or len(paired) < len(prompts)):
        message = f'{path} holds a `query` with `documents`, which only "rerank" and "score" take, for all of its lines'
        raise PlanError(message, "endpoint")
    if paired and plan.inputs is not None:
        message = f"{path} says which documents go with each query: leave this out"
        raise PlanError(message, "inputs")
    if plan.endpoint not in WITH_MESSAGES and any(
        prompt.messages or (prompt.body or {}).get("messages") for prompt in prompts
    ):
        message = f'{path} holds `messages`, which endpoint "{plan.endpoint}" does not take: "chat" does'
        raise PlanError(message)
    if plan.endpoint != "completions" and any("prompt" in (prompt.body or {}) for prompt in prompts):
        message = f'{path} holds bodies with a `prompt`, which only endpoint "completions" takes'
        raise PlanError(message)


def pinned(path: str, sha256: str) -> bytes:
    """The content of a file. Raises `PlanError` where it is not the one that the plan was made with."""
    data = read_file(Path(path))
    if hashlib.sha256(data).hexdigest() != sha256:
        message = f"{path} has changed since the plan was made (its SHA-256 differs): make the plan again"
        raise PlanError(message)
    return data


def prompt_file(path: Path, columns: Columns = NO_COLUMNS, custom: Custom | None = None) -> PromptFile:
    """Check a prompt file and pin its content. Raises `PlanError` naming the line that is wrong."""
    data = read_file(path)
    check_file(data, str(path), columns, custom)
    return PromptFile(path=str(path.absolute()), sha256=hashlib.sha256(data).hexdigest())


def check_file(data: bytes, where: str, columns: Columns, custom: Custom | None) -> None:
    """See that a file can be read as prompts of its load. Raises `PlanError` naming the line that is wrong."""
    if custom is not None:
        _records(data, where, columns, custom)
    else:
        check_prompts(data, where, columns)


def _salted(prompt: Prompt, salt: int, vocabulary: int) -> Prompt:
    """The same prompt with a beginning that no other request has, if it is long enough; token ids keep their number."""
    return _begun(prompt, lambda text: f"[{salt:016x}] {text}", salt, vocabulary)


def _begun(prompt: Prompt, begin: Callable[[str], str], salt: int, vocabulary: int) -> Prompt:
    """The same prompt with another beginning: `begin` makes that of its first text, the salt that of token ids."""
    if prompt.tokens is not None:
        first = _digits(salt, vocabulary)[: len(prompt.tokens)]
        return msgspec.structs.replace(prompt, tokens=first + prompt.tokens[len(first) :])
    if prompt.body is not None:
        return msgspec.structs.replace(prompt, body=_begun_body(prompt.body, begin))
    if prompt.messages is not None:
        return msgspec.structs.replace(prompt, messages=_begun_messages(prompt.messages, begin))
    return msgspec.structs.replace(prompt, text=begin(prompt.text or ""))


def _begun_body(body: dict[str, Any], begin: Callable[[str], str]) -> dict[str, Any]:
    """A whole request whose first text begins otherwise; the same one where it has none that is known."""
    if isinstance(body.get("messages"), list):
        return {**body, "messages": _begun_messages(body["messages"], begin)}
    return {**body, "prompt": begin(body["prompt"])} if isinstance(body.get("prompt"), str) else body


def _digits(salt: int, base: int) -> list[int]:
    """A 64-bit number in some base, lowest digit first, in as many digits as the largest one needs."""
    digits = []
    room = MASK
    while room:
        room //= base
        salt, digit = divmod(salt, base)
        digits.append(digit)
    return digits


def _begun_messages(messages: list[dict[str, Any]], begin: Callable[[str], str]) -> list[dict[str, Any]]:
    """Begins the first message that holds text, as its content or as a part of it; one of its own where there is none."""
    for place, message in enumerate(messages):
        content = _begun_content(message.get("content"), begin)
        if content is not None:
            return [*messages[:place], {**message, "content": content}, *messages[place + 1 :]]
    return [{"role": "user", "content": begin("").strip()}, *messages]


def _begun_content(content: object, begin: Callable[[str], str]) -> str | list[Any] | None:
    """Content with another beginning of its text; None where it has none."""
    if isinstance(content, str):
        return begin(content)
    parts = content if isinstance(content, list) else []
    for place, part in enumerate(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            return [*parts[:place], {**part, "text": begin(part["text"])}, *parts[place + 1 :]]
    return None


def talks_of(plan: Plan, stock: Stock, where: str) -> Conversations:
    """The conversations that prompts hold; what cannot be had is left out. Raises `PlanError` if none can."""
    left_out, talks = Counter(stock.left_out), []
    recorded = any(map(_has_answers, stock.prompts))
    for prompt in stock.prompts:
        try:
            talks.append(_steps_of(prompt, live=plan.live_history))
        except Left as error:
            count_reason(left_out, str(error))
    if not talks:
        why = "; ".join(f"{count} records: {reason}" for reason, count in left_out.items())
        message = f"{where} holds no conversation that can be had ({why})"
        raise PlanError(message)
    assert plan.conversation is not None
    if not recorded and plan.conversation.turns is None:
        message = f"{where} holds questions and no conversations: say how many turns a session has (as in --turns 5)"
        raise PlanError(message)
    if not recorded and plan.conversation.history == "recorded":
        message = f"{where} holds questions and no answers: use the engine's own (--history live)"
        raise PlanError(message)
    return Conversations(plan, talks, left_out, recorded=recorded)


def _has_answers(prompt: Prompt) -> bool:
    return any(message.get("role") == "assistant" for message in prompt.messages or ())


def _steps_of(prompt: Prompt, *, live: bool) -> tuple[Step, ...]:
    """The turns of a conversation: each is what is said up to an answer. Raises `Left`."""
    if prompt.body is not None:
        reason = "it is a whole request, and no part of a conversation"
        raise Left(reason)
    messages: list[dict[str, Any]] = prompt.messages or [{"role": "user", "content": prompt.text}]
    steps, said = list[Step](), list[dict[str, Any]]()
    answers: list[dict[str, Any]] = []
    for message in [*messages, {"role": "user"}]:  # the last one closes the turn before it
        if message.get("role") == "assistant":
            answers.append(message)
            continue
        if answers:
            steps.append(_step(said, answers, prompt.max_tokens))
            said, answers = [], []
        said.append(message)
    if len(said) > 1:  # a question without an answer is asked too
        steps.append(_step(said[:-1], [], prompt.max_tokens))
    roles = [message.get("role") for message in messages]
    if next((role for role in roles if role not in {"system", "developer"}), None) != "user":
        reason = "it does not begin with a question"
        raise Left(reason)
    if live and any(message.get("role") in {"tool", "function"} for message in messages):
        reason = "tools answer its recorded calls, which the engine need not make again: use the recorded history"
        raise Left(reason)
    return tuple(steps)


def _step(said: list[dict[str, Any]], answers: list[dict[str, Any]], max_tokens: int | None) -> Step:
    try:
        text, answer = msgspec.json.encode(said)[1:-1], msgspec.json.encode(answers)[1:-1]
    except (UnicodeEncodeError, RecursionError):
        message = "its text cannot be sent: it is not UTF-8"
        raise Left(message) from None
    return Step(text, len(text) // BYTES_PER_TOKEN, max_tokens, answer)
