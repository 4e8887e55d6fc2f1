"""Words of which each is one token: text of n of them, joined by spaces, has n tokens, without a tokenizer on any node."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from tokenstorm.errors import NOT_JSON
from tokenstorm.loadgen.composing import Composer
from tokenstorm.loadgen.words import WORDS

CountTokens = Callable[[str], Awaitable[int | None]]
"""How many tokens a text has, without any that a template adds; None where nobody can tell."""

LEAST: Final = 64
"""Fewer words than this are no vocabulary: text of them would repeat itself."""
MOST_ASKED: Final = 1000
"""So many times the tokenizer is asked at most."""
_AT_ONCE: Final = 50
_REPEATED: Final = 8
_PROOF: Final = 500
_MEASURED: Final = (40, 90)
"""The words of the requests that show what a template adds."""


class NoVocabulary(Exception):
    """Why no vocabulary was found."""


async def find_vocabulary(count_tokens: CountTokens, candidates: Sequence[str] = WORDS) -> tuple[str, ...]:
    """The candidates that are one token each. Raises `NoVocabulary`.

    Many are asked about at once: where k words have k tokens, each is one. A text of the words that were found proves them.
    """
    asked = 0

    async def count(words: Sequence[str]) -> int:
        nonlocal asked
        asked += 1
        found = await count_tokens(" ".join(words)) if asked <= MOST_ASKED else None
        if found is None:
            message = "its tokenizer does not answer"
            raise NoVocabulary(message)
        return found

    for at_once in (_AT_ONCE, 1):
        words = await _single(count, candidates, at_once)
        if len(words) < LEAST:
            continue
        text = Composer(0, words).text([b"proof"], _PROOF, 0, _PROOF).decode().split(" ")
        if await count(text) == _PROOF:
            return tuple(words)
    message = f"of {len(candidates)} words, too few are one token each"
    raise NoVocabulary(message)


async def template_tokens(count_prompt: CountTokens, vocabulary: Sequence[str]) -> int:
    """How many tokens a template adds to each prompt: what the usage of a request has beyond its words.

    Raises `NoVocabulary` for an engine that counts otherwise.
    """
    added = set()
    for size in _MEASURED:
        text = Composer(size, vocabulary).text([b"template"], size, 0, size).decode()
        found = await count_prompt(text)
        if found is None:
            message = "the usage of a request does not tell its prompt's tokens"
            raise NoVocabulary(message)
        added.add(found - size)
    if len(added) > 1 or min(added) < 0:
        message = f"the engine counts otherwise than its tokenizer (by {' and '.join(map(str, sorted(added)))} tokens)"
        raise NoVocabulary(message)
    return added.pop()


def tokens_in(answer: bytes) -> int | None:
    """The count in the answer of `/tokenize`, as vLLM and SGLang (`count`) or llama.cpp (`tokens` alone) write it."""
    try:
        found = msgspec.json.decode(answer, type=_Tokenized)
    except NOT_JSON:
        return None
    return found.count if found.count is not None else None if found.tokens is None else len(found.tokens)


class _Tokenized(msgspec.Struct):
    count: int | None = None
    tokens: list[object] | None = None


async def _single(
    count: Callable[[Sequence[str]], Awaitable[int]], candidates: Sequence[str], at_once: int
) -> list[str]:
    """Those that are one token, in their order; where not all of a part are, each is asked about alone."""
    parts = deque(candidates[start : start + at_once] for start in range(0, len(candidates), at_once))
    found: set[str] = set()
    while parts:
        part = parts.popleft()
        text = part if len(part) > 1 else list(part) * _REPEATED
        if await count(text) == len(text):
            found.update(part)
        elif len(part) > 1:
            parts += ([word] for word in part)
    return [word for word in candidates if word in found]
