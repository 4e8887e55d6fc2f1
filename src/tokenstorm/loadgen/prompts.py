"""What is asked: which prompt request `seq` gets depends on the plan's seed and `seq` alone."""

import hashlib
import random
from codecs import BOM_UTF8
from collections.abc import Callable
from math import cos, log1p, sqrt, tau
from pathlib import Path
from typing import Any

import msgspec

from tokenstorm.errors import NOT_JSON, PlanError
from tokenstorm.loadgen.words import WORDS
from tokenstorm.plan import Count, Length, Plan, PromptFile, PromptList, Synthetic

_MASK = 2**64 - 1


class Prompt(msgspec.Struct, frozen=True):
    """One prompt, as text, chat messages or token ids; `index` is its number in the list or file, if it is from one."""

    index: int | None = None
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    tokens: list[int] | None = None
    max_tokens: int | None = None


class PromptSource:
    """Gives each request its prompt. `cacheable` says that the same index is always the same prompt."""

    def __init__(self, plan: Plan, prompts: list[Prompt] | Synthetic) -> None:
        self._prompts = prompts
        self._seed = mix(plan.seed)
        self._unique = plan.unique_prompts
        self.cacheable = isinstance(prompts, list) and not plan.unique_prompts

    def index_of(self, seq: int) -> int:
        """The number of the prompt that a request gets; synthetic prompts are numbered by request."""
        if isinstance(self._prompts, Synthetic):
            return seq
        return mix(self._seed ^ seq) % len(self._prompts)

    def get(self, seq: int) -> Prompt:
        """The prompt of a request."""
        if isinstance(self._prompts, Synthetic):
            prompt = _make_up(self._prompts, self._seed, seq)
            vocabulary = self._prompts.vocabulary
        else:
            prompt = self._prompts[self.index_of(seq)]
            vocabulary = 0
        return _salted(prompt, mix(mix(self._seed + 1) ^ seq), vocabulary) if self._unique else prompt


def mix(value: int) -> int:
    """64 well-mixed bits of an integer: the finalizer of splitmix64 (Steele, Lea and Flood, 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def load_prompts(plan: Plan) -> PromptSource:
    """Read what the plan asks for. Raises `PlanError` when the file is not the one that the plan was made with."""
    match plan.prompts:
        case PromptList(prompts=texts):
            return PromptSource(plan, [Prompt(index=index, text=text) for index, text in enumerate(texts)])
        case PromptFile(path=path, sha256=sha256):
            data = _read(Path(path))
            if hashlib.sha256(data).hexdigest() != sha256:
                message = f"{path} has changed since the plan was made (its SHA-256 differs): make the plan again"
                raise PlanError(message)
            prompts = _parse(Path(path), data)
            if plan.endpoint != "chat" and any(prompt.messages for prompt in prompts):
                message = f'{path} holds `messages`, which only endpoint "chat" takes'
                raise PlanError(message)
            return PromptSource(plan, prompts)
        case Synthetic():
            return PromptSource(plan, plan.prompts)


def prompt_file(path: Path) -> PromptFile:
    """Check a prompt file and pin its content. Raises `PlanError` naming the line that is wrong."""
    data = _read(path)
    _parse(path, data)
    return PromptFile(path=str(path.absolute()), sha256=hashlib.sha256(data).hexdigest())


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: Count | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None) or not (self.prompt or self.messages):
            message = "give a `prompt` or `messages`, one of them and not empty"
            raise ValueError(message)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot read the prompts in {path}: {error.strerror} (it must be readable where the ranks run)"
        raise PlanError(message) from None


def _parse(path: Path, data: bytes) -> list[Prompt]:
    """The prompts of a file. Lines end at line feeds alone: other breaks, such as U+2028, may stand in a prompt."""
    try:
        lines = data.removeprefix(BOM_UTF8).decode().split("\n")
    except UnicodeDecodeError as error:
        bad = error.object.count(b"\n", 0, error.start) + 1
        message = f"{path}, line {bad}: not UTF-8 text ({error.reason}): save the file as UTF-8"
        raise PlanError(message) from None
    is_json = path.suffix.lower() == ".jsonl"
    prompts: list[Prompt] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if is_json:
            prompts.append(_parse_json(path, number, line, len(prompts)))
        else:
            prompts.append(Prompt(index=len(prompts), text=line.strip()))
    if not prompts:
        message = f"{path} holds no prompt: write one a line"
        raise PlanError(message)
    return prompts


def _parse_json(path: Path, number: int, line: str, index: int) -> Prompt:
    try:
        parsed = msgspec.json.decode(line, type=_Line)
    except NOT_JSON as error:
        reason = str(error).replace("Object contains unknown field", "there is no field")
        message = f"{path}, line {number}: {reason} (a line is an object with `prompt` or `messages`, and `max_tokens`)"
        raise PlanError(message) from None
    return Prompt(index=index, text=parsed.prompt, messages=parsed.messages, max_tokens=parsed.max_tokens)


def _make_up(synthetic: Synthetic, seed: int, seq: int) -> Prompt:
    """Draws from `random()` alone, which Python promises to be the same for a seed in every version."""
    draw = random.Random(mix(seed ^ mix(seq))).random
    length = _draw(synthetic.length, draw)
    size = synthetic.vocabulary
    if synthetic.unit == "tokens":
        return Prompt(tokens=[int(draw() * size) for _ in range(length)])
    size = min(size, len(WORDS))
    return Prompt(text=" ".join([WORDS[int(draw() * size)] for _ in range(length)]))


def _draw(length: Length, draw: Callable[[], float]) -> int:
    match length:
        case Length(kind="uniform", low=int(low), high=int(high)):
            return low + int(draw() * (high - low + 1))
        case Length(kind="normal", mean=float(mean), stddev=float(stddev)):
            normal = sqrt(-2 * log1p(-draw())) * cos(tau * draw())  # Box and Muller, 1958
            return max(1, round(mean + stddev * normal))
        case Length(n=int(n)):
            return n
    message = f"no way to draw a length from {length}"
    raise AssertionError(message)


def _salted(prompt: Prompt, salt: int, vocabulary: int) -> Prompt:
    """The same prompt with a beginning that no other request has, if it is long enough; token ids keep their number."""
    if prompt.tokens is not None:
        first = _digits(salt, vocabulary)[: len(prompt.tokens)]
        return msgspec.structs.replace(prompt, tokens=first + prompt.tokens[len(first) :])
    mark = f"[{salt:016x}] "
    if prompt.messages is not None:
        return msgspec.structs.replace(prompt, messages=_salted_messages(prompt.messages, mark))
    return msgspec.structs.replace(prompt, text=f"{mark}{prompt.text}")


def _digits(salt: int, base: int) -> list[int]:
    """A 64-bit number in some base, lowest digit first, in as many digits as the largest one needs."""
    digits = []
    room = _MASK
    while room:
        room //= base
        salt, digit = divmod(salt, base)
        digits.append(digit)
    return digits


def _salted_messages(messages: list[dict[str, Any]], mark: str) -> list[dict[str, Any]]:
    """Marks the first message that holds text, as its content or as a part of it; one of its own where there is none."""
    for place, message in enumerate(messages):
        content = _salted_content(message.get("content"), mark)
        if content is not None:
            return [*messages[:place], {**message, "content": content}, *messages[place + 1 :]]
    return [{"role": "user", "content": mark.strip()}, *messages]


def _salted_content(content: object, mark: str) -> str | list[Any] | None:
    """Content with a mark before its text; None where it has none."""
    if isinstance(content, str):
        return mark + content
    parts = content if isinstance(content, list) else []
    for place, part in enumerate(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            return [*parts[:place], {**part, "text": mark + part["text"]}, *parts[place + 1 :]]
    return None
