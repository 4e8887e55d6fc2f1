"""The prefix cache: blocks of prompts that were computed, found again by prompts that begin with the same ones."""

from collections import OrderedDict

from .openai import BYTES_PER_TOKEN

__all__ = ["PrefixCache"]


class PrefixCache:
    """Remembers so many tokens of prompts by whole blocks, the latest used ones, as vLLM does: a block is known by all that comes before it."""

    def __init__(self, tokens: int, block_tokens: int) -> None:
        self._size = block_tokens
        self._most = tokens // block_tokens
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def blocks_of(self, prompt: bytes) -> tuple[int, ...]:
        """The whole blocks of a prompt."""
        size = self._size * BYTES_PER_TOKEN
        before, found = 0, []
        for start in range(0, len(prompt) - size + 1, size):
            before = hash((before, prompt[start : start + size]))
            found.append(before)
        return tuple(found)

    def find(self, blocks: tuple[int, ...], prompt_tokens: int) -> int:
        """How many tokens at the beginning of a prompt are there. The last token of a prompt is always computed."""
        known = 0
        for block in blocks:
            if block not in self._blocks:
                break
            self._blocks.move_to_end(block)
            known += 1
        return min(known, (prompt_tokens - 1) // self._size) * self._size

    def add(self, blocks: tuple[int, ...], computed: int) -> None:
        """Remember the blocks of the first `computed` tokens."""
        for block in blocks[: computed // self._size]:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Forget all of them."""
        self._blocks.clear()
