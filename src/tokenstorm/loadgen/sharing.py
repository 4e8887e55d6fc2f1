"""Which of several models a request asks for: by the seed and its number alone."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from tokenstorm.load_parts import ModelShare
from tokenstorm.loadgen.mixing import MASK, mix

_OURS: Final = 0x6D6F_6465_6C73
"""Makes the choice another one than that of prompts and arrivals."""


class Sharing:
    """Draws models by their weights; `names` are in the order of the numbers that `of` gives."""

    def __init__(self, models: Sequence[ModelShare], seed: int) -> None:
        self.names = [one.name for one in models]
        total = sum(one.weight for one in models)
        self._ends = [part / total * MASK for part in accumulate(one.weight for one in models)]
        self._salt = mix(seed ^ _OURS)

    def of(self, seq: int) -> int:
        """The number of the model that request `seq` asks for."""
        return min(bisect_right(self._ends, mix(self._salt ^ seq)), len(self.names) - 1)
