"""What conversations say: the turns of session n depend on the plan's seed and n alone; their salt also on the run."""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from tokenstorm.lengths import Draw, length_of
from tokenstorm.loadgen.composing import Composer, Steps
from tokenstorm.loadgen.mixing import MASK, Order, mix
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.words import WORDS
from tokenstorm.plan import Plan, Shared, Synthetic

BYTES_PER_TOKEN = 4
"""Of text that nobody has counted, to guess how much of the model's context it takes."""


class Step(NamedTuple):
    """One turn of a session: the messages that it adds, as JSON joined by commas, about so many tokens of them, how many the
    answer may have, and the answer that was recorded.
    """

    said: bytes
    tokens: int
    max_tokens: int | None = None
    answer: bytes | None = None
    prompt: int | None = None


class Script(NamedTuple):
    """One session: how many turns it has, and what they say, made as it is needed."""

    turns: int
    steps: Iterator[Step]


class Conversations:
    """Gives each session its script, and each request what its session says; see `PromptSource`.

    Whoever runs the sessions tells what a request says (`ask`) before the request is built.
    """

    cacheable = False
    times: Sequence[int] | None = None

    def __init__(
        self,
        plan: Plan,
        talks: Sequence[tuple[Step, ...]] = (),
        left_out: Mapping[str, int] = MappingProxyType({}),
        *,
        recorded: bool = False,
    ) -> None:
        assert plan.conversation is not None
        self._plan = plan
        self._talk = plan.conversation
        self._recorded = recorded
        self._talks = talks
        self.left_out = dict(left_out)
        self._order = Order(len(self._talks), plan.seed)
        self._seed = mix(plan.seed)
        self._salt = mix(int(plan.run_id[:16], 16) ^ mix(int(plan.run_id[16:], 16)))
        self._asked: dict[int, Prompt] = {}
        self._words = Composer(plan.seed)
        self._bounds = [*accumulate(plan.prompts.popularity)] if isinstance(plan.prompts, Shared) else []

    def ask(self, seq: int, prompt: Prompt) -> None:
        """This is what the request says that is built next."""
        self._asked[seq] = prompt

    def script(self, session: int) -> Script:
        """What a session says."""
        draw = random.Random(mix(self._seed ^ mix(session))).random
        salt = mix(self._salt ^ session) if self._plan.salted else 0
        if self._recorded:
            return self._of_a_file(session, salt)
        turns = length_of(self._talk.turns or 1).draw(draw)
        prompts = self._plan.prompts
        match prompts:
            case Synthetic():
                return Script(turns, self._made_up(prompts, session, turns, draw, salt))
            case Shared():
                return Script(turns, self._sharing(prompts, session, turns, draw, salt))
        return Script(turns, self._questions(turns, draw, salt))

    def index_of(self, seq: int) -> int:
        return seq

    def speak(self, vocabulary: Sequence[str], template_tokens: int) -> None:
        """A template adds to each message of a conversation: texts are as long as was asked, and what it adds comes on top."""
        self._words = Composer(self._plan.seed, vocabulary)

    def get(self, seq: int) -> Prompt:
        return self._asked.pop(seq)

    def in_steps(self, seq: int) -> Steps[Prompt]:
        yield from ()
        return self.get(seq)

    def preflight(self) -> Prompt:
        step = next(self.script(0).steps)
        return Prompt(dialogue=msgspec.Raw(b"[%b]" % _salted(step.said, mix(self._salt ^ MASK))))

    def count(self) -> tuple[int, int]:
        return (len(self._talks), len(set(self._talks))) if self._talks else (0, 0)

    def _of_a_file(self, session: int, salt: int) -> Script:
        """Conversations of a file are taken in turn, in an order that the seed shuffles anew for each pass."""
        index = self._order[session]
        steps = self._talks[index]
        turns = min(len(steps), length_of(self._talk.turns or len(steps)).draw(_evenly(self._seed, session)))
        numbered = (step._replace(prompt=index) for step in steps[:turns])
        return Script(turns, _begun(numbered, salt))

    def _questions(self, turns: int, draw: Draw, salt: int) -> Iterator[Step]:
        """Prompts that are no conversations: each turn asks one of them."""
        size = len(self._talks)
        drawn = (int(draw() * size) for _ in range(turns))
        return _begun((self._talks[index][0]._replace(prompt=index) for index in drawn), salt)

    def _made_up(self, made: Synthetic, session: int, turns: int, draw: Draw, salt: int) -> Iterator[Step]:
        words = self._words if made.unit == "text" else _plain_words(self._plan.seed, made.vocabulary)
        for turn in range(turns):
            length, output = made.lengths(draw)
            if turn == 0 and self._talk.first is not None:
                length = length_of(self._talk.first).draw(draw)
            yield Step(_user(self._text(words, session, turn, length, salt)), length, output)

    def _sharing(self, shared: Shared, session: int, turns: int, draw: Draw, salt: int) -> Iterator[Step]:
        """A session's group has a system prompt, which comes first; each turn has a question of its own."""
        group = min(bisect_right(self._bounds, draw()), shared.groups - 1)
        key = salt.to_bytes(8, "little") + b"group" + group.to_bytes(8, "little")
        system = self._words.text([key], shared.prefix, 0, shared.prefix)
        for turn in range(turns):
            length = length_of(shared.question).draw(draw)
            if turn == 0 and self._talk.first is not None:
                length = length_of(self._talk.first).draw(draw)
            said = _user(self._text(self._words, session, turn, length, salt))
            output = None if shared.output is None else length_of(shared.output).draw(draw)
            if turn == 0:
                first = b'{"role":"system","content":"%b"},%b' % (system, said)
                yield Step(first, shared.prefix + length, output, prompt=group)
            else:
                yield Step(said, length, output, prompt=group)

    def _text(self, words: Composer, session: int, turn: int, length: int, salt: int) -> bytes:
        key = b"%bturn%b%b" % (salt.to_bytes(8, "little"), session.to_bytes(8, "little"), turn.to_bytes(4, "little"))
        return words.text([key], length, 0, length)


def pauses(plan: Plan, session: int) -> Callable[[], int]:
    """How long the user of a session thinks before each turn but the first, in nanoseconds."""
    assert plan.conversation is not None
    think, draw = plan.conversation.think_seconds, _evenly(mix(plan.seed) + 1, session)
    if isinstance(think, float | int):
        return lambda: round(think * 1e9)
    return lambda: round(think.draw(draw) * 1e9)


def _evenly(seed: int, session: int) -> Draw:
    return random.Random(mix(mix(seed) ^ mix(session))).random


def _plain_words(seed: int, vocabulary: int) -> Composer:
    return Composer(seed, WORDS[: max(2, min(vocabulary, len(WORDS)))])


def _user(text: bytes) -> bytes:
    return b'{"role":"user","content":"%b"}' % text


def _begun(steps: Iterator[Step], salt: int) -> Iterator[Step]:
    """The same steps, of which the first begins with a salt if there is one."""
    if not salt:
        return steps
    return (step._replace(said=_salted(step.said, salt)) if turn == 0 else step for turn, step in enumerate(steps))


def _salted(said: bytes, salt: int) -> bytes:
    """The same messages with a beginning that nobody else has."""
    messages = msgspec.json.decode(b"[%b]" % said, type=list[dict[str, object]])
    for message in messages:
        if isinstance(content := message.get("content"), str):
            message["content"] = f"[{salt:016x}] {content}"
            break
    else:
        messages.insert(0, {"role": "system", "content": f"[{salt:016x}]"})
    return msgspec.json.encode(messages)[1:-1]
