"""Words of one token each: found by asking a tokenizer, so that text has as many tokens as it was meant to have."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from plans import plan
from tokenstorm.loadgen.composing import Composer
from tokenstorm.loadgen.prompts import load_prompts
from tokenstorm.loadgen.vocabulary import MOST_ASKED, NoVocabulary, find_vocabulary, template_tokens, tokens_in
from tokenstorm.loadgen.words import WORDS
from tokenstorm.metrics.tally import Tally, Window
from tokenstorm.result import Result


class Tokenizer:
    """Counts a text by a rule for each word, and how often it was asked."""

    def __init__(self, tokens_of: Callable[[str], int]) -> None:
        self.tokens_of = tokens_of
        self.asked = 0

    async def count(self, text: str) -> int | None:
        self.asked += 1
        return sum(map(self.tokens_of, text.split(" ")))


def found(tokens_of: Callable[[str], int]) -> tuple[tuple[str, ...], Tokenizer]:
    tokenizer = Tokenizer(tokens_of)
    return asyncio.run(find_vocabulary(tokenizer.count)), tokenizer


def why_not(count: Callable[[str], int | None]) -> str:
    async def counted(text: str) -> int | None:
        return count(text)

    with pytest.raises(NoVocabulary) as raised:
        asyncio.run(find_vocabulary(counted))
    return str(raised.value)


def test_a_tokenizer_that_knows_all_words_is_asked_a_few_times_only() -> None:
    words, tokenizer = found(lambda _: 1)
    assert words == WORDS
    assert tokenizer.asked < 12


def test_words_of_several_tokens_are_left_out_wherever_they_stand() -> None:
    words, tokenizer = found(lambda word: 1 + ("e" in word))
    assert words == tuple(word for word in WORDS if "e" not in word)
    assert tokenizer.asked <= MOST_ASKED


def test_a_vocabulary_is_found_where_tokens_are_no_matter_of_words() -> None:
    """Four bytes are a token, as the simulator counts: then words of three letters are one each, with their space."""
    words = asyncio.run(find_vocabulary(four_bytes))
    assert {len(word) for word in words} == {3}
    text = Composer(3, words).text([b"x"], 1000, 0, 1000).decode()
    assert asyncio.run(four_bytes(text)) == 1000


async def four_bytes(text: str) -> int | None:
    return -(-len(text) // 4)


def test_without_a_tokenizer_or_with_too_few_words_there_is_none_and_it_is_said_why() -> None:
    assert "does not answer" in why_not(lambda _: None)
    assert "too few are one token each" in why_not(lambda text: 2 * len(text.split()))


def added(count: Callable[[str], int | None]) -> int:
    async def counted(text: str) -> int | None:
        return count(text)

    return asyncio.run(template_tokens(counted, WORDS))


def test_what_a_template_adds_is_what_the_usage_has_beyond_the_words() -> None:
    assert added(lambda text: 12 + len(text.split())) == 12


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (lambda _: None, "does not tell its prompt's tokens"),
        (lambda text: 2 * len(text.split()), "counts otherwise than its tokenizer"),
        (lambda _: 5, "counts otherwise than its tokenizer"),
    ],
)
def test_an_engine_that_counts_otherwise_is_not_corrected(count: Callable[[str], int | None], words: str) -> None:
    with pytest.raises(NoVocabulary, match=words):
        added(count)


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (b'{"count": 3, "max_model_len": 9, "tokens": [1, 2, 3]}', 3),
        (b'{"tokens": [1, {"id": 2, "piece": "x"}]}', 2),
        (b'{"error": "no"}', None),
        (b'{"count": "3"}', None),
        (b"[1]", None),
        (b"\xff", None),
    ],
)
def test_the_answers_of_vllm_and_of_llama_cpp_are_read(answer: bytes, tokens: int | None) -> None:
    assert tokens_in(answer) == tokens


def test_made_up_text_is_of_the_vocabulary_and_leaves_room_for_the_template() -> None:
    source = load_prompts(plan(prompts={"kind": "synthetic", "unit": "text", "length": {"n": 30}}))
    before = source.get(0).text or ""
    source.speak(("one", "two"), 12)
    prompt = source.get(0)
    assert set((prompt.text or "").split(" ")) == {"one", "two"}
    assert (len((prompt.text or "").split(" ")), len(before.split(" ")), prompt.asked) == (18, 30, 30)
    source.speak(("one", "two"), 40)
    assert source.get(0).text in {"one", "two"}, "a prompt has a word at least"


def line(seq: int, asked: int | None, counted: int | None) -> Result:
    fields = {"schema": 1, "seq": seq, "rank": 0, "replica": "0", "phase": "measured", "scheduled": 0, "slot_free": 0}
    return msgspec.convert({**fields, "sent": 1, "done": 2, "prompt_asked": asked, "prompt_tokens": counted}, Result)


def test_asked_and_counted_tokens_are_compared_where_there_are_both_and_parts_add_up() -> None:
    window = Window(0, None)
    lines = [line(0, 100, 101), line(1, 50, 40), line(2, None, 7), line(3, 9, None)]
    whole = Tally()
    whole.add(lines, window)
    assert (whole.prompt_asked, whole.prompt_counted) == (150, 141)
    assert whole.prompt_off == pytest.approx(0.2)
    first, second = Tally(), Tally()
    first.add(lines[:1], window)
    second.add(lines[1:], window)
    first.merge(second)
    assert first == whole
