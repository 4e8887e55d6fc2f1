"""The prompts. Which one request `seq` gets depends on the plan's seed and `seq` alone; its salt also on the run."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tokenstorm.errors import PlanError
from tokenstorm.lengths import Draw, weighted
from tokenstorm.loadgen.promptfile import Prompt, parse_prompts, read_file
from tokenstorm.loadgen.words import WORDS
from tokenstorm.plan import Plan, PromptFile, PromptList, Synthetic

__all__ = ["Prompt", "PromptSource", "load_prompts", "mix", "prompt_file"]

_MASK = 2**64 - 1
_NO_REQUEST = _MASK
"""A number that no request has."""


class PromptSource:
    """Gives each request its prompt. `cacheable` says that the same index is always the same prompt.

    Prompts of a list are taken in turn, in an order that the seed shuffles anew for each pass: each comes once before
    any comes again.
    """

    def __init__(self, plan: Plan, prompts: list[Prompt] | Synthetic) -> None:
        self._prompts = prompts
        self._seed = mix(plan.seed)
        self._unique = plan.unique_prompts
        self._salt = mix(self._seed + 1) ^ mix(int(plan.run_id[:16], 16) ^ mix(int(plan.run_id[16:], 16)))
        self._order = _shuffled(len(prompts), self._seed) if isinstance(prompts, list) else []
        self.cacheable = isinstance(prompts, list) and not plan.unique_prompts

    def index_of(self, seq: int) -> int:
        """The number of the prompt that a request gets; synthetic prompts are numbered by request."""
        order = self._order
        if not order:
            return seq
        pass_, place = divmod(seq, len(order))
        shift = mix(self._seed ^ pass_)  # applied twice, it makes another order of the one that is shuffled
        return order[(order[(place + shift) % len(order)] + (shift >> 32)) % len(order)]

    def get(self, seq: int) -> Prompt:
        """The prompt of a request."""
        prompt = self._plain(seq)
        return _salted(prompt, mix(self._salt ^ seq), self._vocabulary) if self._unique else prompt

    def preflight(self) -> Prompt:
        """A prompt of the form and length of request 0's, with a beginning that no request has: no cache is warmed."""
        prompt, salt = self._plain(0), mix(self._salt ^ _NO_REQUEST)
        if self._unique:
            return _salted(prompt, salt, self._vocabulary)
        words = " ".join(WORDS[digit] for digit in _digits(salt, len(WORDS))) + " "
        return _begun(prompt, lambda text: words + text[len(words) :], salt, self._vocabulary)

    def count(self) -> tuple[int, int]:
        """How many prompts the list or file has, and how many of them differ; (0, 0) where each request's prompt is made up."""
        if isinstance(self._prompts, Synthetic):
            return 0, 0
        distinct = {(one.text, msgspec.json.encode(one.messages), one.max_tokens) for one in self._prompts}
        return len(self._prompts), len(distinct)

    def _plain(self, seq: int) -> Prompt:
        if isinstance(self._prompts, Synthetic):
            return _make_up(self._prompts, self._seed, seq)
        return self._prompts[self.index_of(seq)]

    @property
    def _vocabulary(self) -> int:
        return self._prompts.vocabulary if isinstance(self._prompts, Synthetic) else 0


def mix(value: int) -> int:
    """64 well-mixed bits of an integer: the finalizer of splitmix64 (Steele, Lea and Flood, 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _shuffled(count: int, seed: int) -> list[int]:
    """The numbers below `count` in an order that is the same for a seed in every version: `mix` gives no number twice."""
    return sorted(range(count), key=lambda index: mix(seed ^ index))


def load_prompts(plan: Plan) -> PromptSource:
    """Read what the plan asks for. Raises `PlanError` when the file is not the one that the plan was made with."""
    match plan.prompts:
        case PromptList(prompts=texts):
            return PromptSource(plan, [Prompt(index=index, text=text) for index, text in enumerate(texts)])
        case PromptFile(path=path, sha256=sha256):
            data = read_file(Path(path))
            if hashlib.sha256(data).hexdigest() != sha256:
                message = f"{path} has changed since the plan was made (its SHA-256 differs): make the plan again"
                raise PlanError(message)
            prompts = parse_prompts(data, path)
            if plan.endpoint != "chat" and any(prompt.messages for prompt in prompts):
                message = f'{path} holds `messages`, which only endpoint "chat" takes'
                raise PlanError(message)
            return PromptSource(plan, prompts)
        case Synthetic():
            return PromptSource(plan, plan.prompts)


def prompt_file(path: Path) -> PromptFile:
    """Check a prompt file and pin its content. Raises `PlanError` naming the line that is wrong."""
    data = read_file(path)
    parse_prompts(data, str(path))
    return PromptFile(path=str(path.absolute()), sha256=hashlib.sha256(data).hexdigest())


def _make_up(synthetic: Synthetic, seed: int, seq: int) -> Prompt:
    """Draws from `random()` alone, which Python promises to be the same for a seed in every version."""
    draw = random.Random(mix(seed ^ mix(seq))).random
    length, output = _lengths(synthetic, draw)
    size = synthetic.vocabulary
    if synthetic.unit == "tokens":
        return Prompt(tokens=[int(draw() * size) for _ in range(length)], max_tokens=output)
    size = min(size, len(WORDS))
    return Prompt(text=" ".join([WORDS[int(draw() * size)] for _ in range(length)]), max_tokens=output)


def _lengths(synthetic: Synthetic, draw: Draw) -> tuple[int, int | None]:
    """The length of a prompt, and of its answer where that is asked for."""
    if synthetic.mix is not None:
        part = synthetic.mix[weighted([one.weight for one in synthetic.mix], draw)]
        return part.input.draw(draw), part.output.draw(draw)
    assert synthetic.length is not None, "there is a mix or a length"
    return synthetic.length.draw(draw), synthetic.output.draw(draw) if synthetic.output else None


def _salted(prompt: Prompt, salt: int, vocabulary: int) -> Prompt:
    """The same prompt with a beginning that no other request has, if it is long enough; token ids keep their number."""
    return _begun(prompt, lambda text: f"[{salt:016x}] {text}", salt, vocabulary)


def _begun(prompt: Prompt, begin: Callable[[str], str], salt: int, vocabulary: int) -> Prompt:
    """The same prompt with another beginning: `begin` makes that of its first text, the salt that of token ids."""
    if prompt.tokens is not None:
        first = _digits(salt, vocabulary)[: len(prompt.tokens)]
        return msgspec.structs.replace(prompt, tokens=first + prompt.tokens[len(first) :])
    if prompt.messages is not None:
        return msgspec.structs.replace(prompt, messages=_begun_messages(prompt.messages, begin))
    return msgspec.structs.replace(prompt, text=begin(prompt.text or ""))


def _digits(salt: int, base: int) -> list[int]:
    """A 64-bit number in some base, lowest digit first, in as many digits as the largest one needs."""
    digits = []
    room = _MASK
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
