"""The prompts of a prepared workload: each row's text is composed of its blocks, of which requests share those of the same id."""

from collections.abc import Iterator, Sequence
from itertools import count

import msgspec

from tokenstorm.loadgen.composing import Composer, Steps, finish
from tokenstorm.loadgen.mixing import MASK, mix
from tokenstorm.loadgen.prepared import Entry, Rows
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.prompts import PromptSource
from tokenstorm.plan import Plan


class Recorded(PromptSource):
    """Gives request n row n. Where there are more requests than rows, rows come again, as salted copies that share nothing
    with the first ones.
    """

    def __init__(self, plan: Plan, rows: Rows[Entry], block: int | None) -> None:
        self._rows = rows
        self._block = block
        self._unique = plan.salted
        self._salt = mix(int(plan.run_id[:16], 16) ^ mix(int(plan.run_id[16:], 16)))
        self._seed = plan.seed
        self._composer = Composer(plan.seed)
        self._template = 0
        self.times: Sequence[int] | None = rows.times() if plan.arrival_by_trace else None
        self.cacheable = False
        self.left_out: dict[str, int] = {}

    def index_of(self, seq: int) -> int:
        return seq % len(self._rows)

    def speak(self, vocabulary: Sequence[str], template_tokens: int) -> None:
        self._composer, self._template = Composer(self._seed, vocabulary), template_tokens

    def get(self, seq: int) -> Prompt:
        return finish(self.in_steps(seq))

    def in_steps(self, seq: int) -> Steps[Prompt]:
        pass_, index = divmod(seq, len(self._rows))
        salt = mix(self._salt ^ seq) if self._unique else pass_ and mix(pass_)
        return (yield from self._composed(index, self._rows[index], salt))

    def preflight(self) -> Prompt:
        return finish(self._composed(0, self._rows[0], mix(self._salt ^ MASK)))

    def count(self) -> tuple[int, int]:
        return 0, 0

    def _composed(self, index: int, row: Entry, salt: int) -> Steps[Prompt]:
        begin = salt.to_bytes(8, "little")
        if row.ids and self._block:
            keys, block = [begin + b"id" + one.to_bytes(8, "little") for one in row.ids], self._block
        else:
            keys, block = [begin + b"row" + index.to_bytes(8, "little")], row.input
        first = min(self._template, row.input - 1)
        text = yield from self._composer.in_steps(keys, block, first, row.input)
        answer = max(1, row.output)
        return Prompt(index=index, composed=msgspec.Raw(b'"%b"' % text), max_tokens=answer, asked=row.input)


def stripe_of(plan: Plan, rows: int, rank: int, ranks: int) -> Iterator[int]:
    """The rows of a rank, in the order in which it asks for them."""
    once = range(rank, rows, ranks)
    return iter(once) if plan.arrival_by_trace else (seq % rows for seq in count(rank, ranks))
