"""Prompts of which groups begin alike: the prefix is a function of (seed, group), the question of (seed, request number)."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from tokenstorm.lengths import length_of
from tokenstorm.loadgen.composing import Composer, Steps
from tokenstorm.loadgen.mixing import MASK, mix
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.plan import Plan, Shared


class Grouped:
    """Gives each request the prefix of its group and a question of its own; see `PromptSource`."""

    def __init__(self, plan: Plan, shared: Shared) -> None:
        self.cacheable = False
        self.left_out: dict[str, int] = {}
        self.times: Sequence[int] | None = None
        self._shared = shared
        self._seed = plan.seed
        self._unique = plan.salted
        self._salt = mix(int(plan.run_id[:16], 16) ^ mix(int(plan.run_id[16:], 16)))
        self._bounds = [*accumulate(shared.popularity)]
        self._composer = Composer(plan.seed)
        self._template = 0

    def index_of(self, seq: int) -> int:
        return seq

    def speak(self, vocabulary: Sequence[str], template_tokens: int) -> None:
        self._composer, self._template = Composer(self._seed, vocabulary), template_tokens

    def get(self, seq: int) -> Prompt:
        return self._composed(seq, mix(self._salt ^ seq) if self._unique else 0)

    def in_steps(self, seq: int) -> Steps[Prompt]:
        yield from ()
        return self.get(seq)

    def preflight(self) -> Prompt:
        return self._composed(0, mix(self._salt ^ MASK))

    def count(self) -> tuple[int, int]:
        return 0, 0

    def _composed(self, seq: int, salt: int) -> Prompt:
        """`index` of the prompt is the number of its group."""
        draw, shared, begin = (
            random.Random(mix(mix(self._seed) ^ mix(seq))).random,
            self._shared,
            salt.to_bytes(8, "little"),
        )
        group = min(bisect_right(self._bounds, draw()), shared.groups - 1)
        question = length_of(shared.question).draw(draw)
        first = min(self._template, shared.prefix - 1)
        key = begin + b"group" + group.to_bytes(8, "little")
        prefix = self._composer.text([key], shared.prefix, first, shared.prefix)
        own = self._composer.text([begin + b"question" + seq.to_bytes(8, "little")], question, 0, question)
        answer = None if shared.output is None else length_of(shared.output).draw(draw)
        text = msgspec.Raw(b'"%b %b"' % (prefix, own))
        return Prompt(index=group, composed=text, max_tokens=answer, asked=shared.prefix + question)
