"""Text that is composed of blocks. A block's text is a function of the seed and its key alone, so all ranks agree on it."""

from collections import OrderedDict
from collections.abc import Generator, Sequence
from hashlib import shake_128
from typing import Final, TypeVar

from tokenstorm.loadgen.words import WORDS

KEPT_BYTES: Final = 16_000_000
"""So much text of blocks is kept, to be used again."""
WORDS_AT_ONCE: Final = 4096
"""So many words take less than a millisecond: longer text is composed in steps, between which requests can leave."""
_TABLE: Final = 1 << 16
T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work in steps, with what comes of it."""


def finish(steps: Steps[T]) -> T:
    """Do all that is left of the work."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: T = done.value
            return found


class Composer:
    """Composes text of so many words, joined by spaces, which needs no escapes in JSON.

    With a vocabulary whose words are one token each, its length in tokens is known.
    """

    def __init__(self, seed: int, vocabulary: Sequence[str] = WORDS) -> None:
        words = [word.encode("ascii") for word in vocabulary]
        self._word = (words * (_TABLE // len(words) + 1))[:_TABLE].__getitem__
        self._seed = seed.to_bytes(8, "little")
        self._kept: OrderedDict[tuple[bytes, int, int], bytes] = OrderedDict()
        self._room = KEPT_BYTES

    def text(self, keys: Sequence[bytes], block: int, first: int, length: int) -> bytes:
        """The words from number `first` to number `length` of blocks that have `block` words each."""
        return finish(self.in_steps(keys, block, first, length))

    def in_steps(self, keys: Sequence[bytes], block: int, first: int, length: int) -> Steps[bytes]:
        """The same, a few blocks at a time."""
        parts, since = [], 0
        for place, key in enumerate(keys):
            start, stop = max(0, first - place * block), min(block, length - place * block)
            if start < stop:
                parts.append(self._part(key, start, stop))
                since += stop - start
            if since >= WORDS_AT_ONCE:
                since = 0
                yield
        return b" ".join(parts)

    def _part(self, key: bytes, start: int, stop: int) -> bytes:
        """The same words of the same block are composed once, as long as there is room."""
        known = (key, start, stop)
        if (found := self._kept.get(known)) is not None:
            self._kept.move_to_end(known)
            return found
        drawn = memoryview(shake_128(self._seed + key).digest(2 * stop)).cast("H")
        text = b" ".join(map(self._word, drawn[start:]))
        self._kept[known] = text
        self._room -= len(text)
        while self._room < 0:
            self._room += len(self._kept.popitem(last=False)[1])
        return text
