"""What is asked."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import msgspec
import pytest

from plans import plan
from tokenstorm.errors import PlanError
from tokenstorm.loadgen.prompts import PromptSource, load_prompts, prompt_file


def source(prompts: object, **fields: object) -> PromptSource:
    return load_prompts(plan(**{"prompts": prompts, "seed": 7, **fields}))


def of_file(path: Path, **fields: object) -> PromptSource:
    return source(msgspec.to_builtins(prompt_file(path)), **fields)


LIST = {"kind": "list", "prompts": ["one", "two", "three"]}


def test_a_request_gets_its_prompt_by_seed_and_number_alone() -> None:
    texts = [source(LIST).get(seq).text for seq in range(50)]
    assert texts == [source(LIST).get(seq).text for seq in range(50)]
    assert texts != [source(LIST, seed=8).get(seq).text for seq in range(50)]


def test_each_prompt_of_a_list_comes_once_before_any_comes_again() -> None:
    """The property of every pass, whatever the length and the seed."""
    for length in (*range(1, 40), 1000):
        listed = {"kind": "list", "prompts": [f"prompt {number}" for number in range(length)]}
        prompts = source(listed, seed=length)
        drawn = [prompts.index_of(seq) for seq in range(3 * length)]
        passes = [drawn[start : start + length] for start in range(0, 3 * length, length)]
        assert [sorted(one) for one in passes] == [list(range(length))] * 3


def test_each_pass_over_a_list_has_an_order_of_its_own_and_none_is_that_of_the_file() -> None:
    listed = {"kind": "list", "prompts": [f"prompt {number}" for number in range(1000)]}
    prompts = source(listed)
    passes = [tuple(prompts.index_of(seq) for seq in range(start, start + 1000)) for start in range(0, 20_000, 1000)]
    assert len({tuple(range(1000)), *passes}) == 21
    neighbours = Counter(pair for one in passes for pair in pairwise(one))
    assert max(neighbours.values()) < 10  # of 20: a pass is no rotation of the one before


def test_the_order_of_a_list_is_that_of_its_seed_in_every_version_of_this_package() -> None:
    """A change here is a change of what a recorded run would send."""
    listed = {"kind": "list", "prompts": [f"prompt {number}" for number in range(8)]}
    assert [source(listed).index_of(seq) for seq in range(16)] == [3, 6, 4, 0, 7, 1, 2, 5, 6, 7, 2, 3, 5, 0, 4, 1]


def test_a_seed_repeats_the_prompts_of_another_run_and_not_its_salts() -> None:
    """The first run has filled the engine's prefix cache with the salted prompts; the same plan is the same requests."""

    def sent(run_id: str) -> list[str]:
        prompts = source(LIST, unique_prompts=True, run_id=run_id)
        return [prompts.get(seq).text or "" for seq in range(50)]

    first, second = sent("0" * 31 + "1"), sent("1" + "0" * 31)
    assert [text[19:] for text in first] == [text[19:] for text in second]
    assert not {text[:19] for text in first} & {text[:19] for text in second}
    assert first == sent("0" * 31 + "1")


def test_a_seed_repeats_the_token_ids_of_another_run_and_not_their_salts() -> None:
    tokens = {"kind": "synthetic", "unit": "tokens", "length": {"n": 20}, "vocabulary": 5000}
    fields = {"unique_prompts": True, "endpoint": "completions"}
    first, second = (source(tokens, run_id=digit * 32, **fields).get(3).tokens or [] for digit in "ab")
    assert first[:6] != second[:6]
    assert first[6:] == second[6:]


def test_the_same_prompt_is_the_same_object_so_that_its_body_is_encoded_once() -> None:
    prompts = source(LIST)
    assert prompts.cacheable
    assert all(prompts.get(seq) is prompts.get(seq) for seq in range(5))


def test_unique_prompts_differ_from_their_first_character() -> None:
    prompts = source(LIST, unique_prompts=True)
    beginnings = {(prompts.get(seq).text or "")[:18] for seq in range(500)}
    assert len(beginnings) == 500
    assert not prompts.cacheable
    assert (prompts.get(3).text or "").endswith(source(LIST).get(3).text or "?")


def test_unique_messages_are_marked_in_the_first_that_holds_text(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    path.write_text(json.dumps({"messages": messages, "max_tokens": 5}))
    prompt = of_file(path, unique_prompts=True).get(0)
    assert prompt.messages is not None
    assert prompt.messages[0]["content"].endswith("be brief")
    assert prompt.messages[0]["content"] != "be brief"
    assert prompt.messages[1] == messages[1]
    assert prompt.max_tokens == 5


TEXT, IMAGE = {"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("messages", "salted"),
    [
        ([{"content": [IMAGE, TEXT]}, {"content": "x"}], lambda made: made[0]["content"][1]["text"]),
        ([{"content": [IMAGE]}, {"content": "what is this?"}], lambda made: made[1]["content"]),
        ([{"content": None}, {"content": ["odd", TEXT]}], lambda made: made[1]["content"][1]["text"]),
    ],
)
def test_unique_messages_of_parts_are_marked_in_the_first_text(
    tmp_path: Path, messages: list[dict[str, Any]], salted: Callable[[list[dict[str, Any]]], str]
) -> None:
    """No message is added: a chat template may insist on turns."""
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": messages}))
    prompts = of_file(path, unique_prompts=True)
    made = [prompts.get(seq).messages or [] for seq in range(50)]
    assert {len(of_one) for of_one in made} == {len(messages)}
    assert len({salted(of_one)[:18] for of_one in made}) == 50
    assert {salted(of_one)[19:] for of_one in made} == {"what is this?"}
    assert of_file(path).get(0).messages == messages


def test_unique_messages_without_any_text_get_one_that_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": [IMAGE]}]}))
    first, second = of_file(path, unique_prompts=True).get(0).messages or [{}, {}]
    assert first["role"] == "user"
    assert len(first["content"]) == 18
    assert second["content"] == [IMAGE]


def test_unique_token_prompts_keep_their_length() -> None:
    tokens = {"kind": "synthetic", "unit": "tokens", "length": {"n": 20}, "vocabulary": 5000}
    prompts = source(tokens, unique_prompts=True, endpoint="completions")
    made = [prompts.get(seq).tokens or [] for seq in range(200)]
    assert {len(ids) for ids in made} == {20}
    assert len({tuple(ids[:4]) for ids in made}) == 200
    assert all(0 <= number < 5000 for ids in made for number in ids)


@pytest.mark.parametrize(("vocabulary", "needed"), [(2, 64), (50, 12), (1000, 7), (128_000, 4)])
def test_unique_token_prompts_differ_in_their_first_ids_whatever_the_vocabulary(vocabulary: int, needed: int) -> None:
    """64 bits take ⌈64 / log2(vocabulary)⌉ ids."""
    tokens = {"kind": "synthetic", "unit": "tokens", "length": {"n": 70}, "vocabulary": vocabulary}
    prompts = source(tokens, unique_prompts=True, endpoint="completions")
    plain = source(tokens, endpoint="completions")
    made = [prompts.get(seq).tokens or [] for seq in range(3000)]
    assert len({tuple(ids[:needed]) for ids in made}) == 3000
    assert all(0 <= number < vocabulary for ids in made for number in ids)
    assert made[5][needed:] == (plain.get(5).tokens or [])[needed:]


def test_a_token_prompt_too_short_for_the_salt_keeps_its_length() -> None:
    tokens = {"kind": "synthetic", "unit": "tokens", "length": {"n": 2}, "vocabulary": 5}
    prompts = source(tokens, unique_prompts=True, endpoint="completions")
    assert {len(prompts.get(seq).tokens or []) for seq in range(50)} == {2}


LONG = " ".join(["what is the answer to this question"] * 20)


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("text", ["hi", LONG])
def test_the_first_look_asks_what_no_request_asks_and_is_as_long(text: str, *, unique: bool) -> None:
    """A service that refuses prompts for their length refuses it as it would the others."""
    prompts = source({"kind": "list", "prompts": [text]}, unique_prompts=unique)
    looked = prompts.preflight().text or ""
    sent = [prompts.get(seq).text or "" for seq in range(300)]
    assert looked[:12] not in {one[:12] for one in sent}
    assert text != LONG or len(looked) == len(sent[0])
    assert source({"kind": "list", "prompts": [text]}, run_id="c" * 32).preflight().text != looked


def test_the_first_look_has_the_form_of_the_requests(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    messages = [{"role": "system", "content": LONG}, {"role": "user", "content": "hi"}]
    path.write_text(json.dumps({"messages": messages, "max_tokens": 5}))
    looked = of_file(path).preflight()
    made = looked.messages or []
    assert (looked.max_tokens, [message["role"] for message in made], made[1]) == (5, ["system", "user"], messages[1])
    assert len(made[0]["content"]) == len(LONG)
    assert made[0]["content"][:12] != LONG[:12]
    tokens = {"kind": "synthetic", "unit": "tokens", "length": {"n": 20}, "vocabulary": 5000}
    ids = source(tokens, endpoint="completions")
    assert len(ids.preflight().tokens or []) == 20
    assert (ids.preflight().tokens or [])[:6] != (ids.get(0).tokens or [])[:6]
    assert all(0 <= number < 5000 for number in ids.preflight().tokens or [])


def test_prompts_are_counted_and_those_that_differ() -> None:
    assert source(LIST).count() == (3, 3)
    assert source({"kind": "list", "prompts": ["a", "b", "a"]}).count() == (3, 2)
    assert source({"kind": "synthetic", "unit": "words", "length": {"n": 3}}).count() == (0, 0)


def test_synthetic_words_have_the_asked_lengths() -> None:
    def lengths(length: dict[str, object]) -> list[int]:
        words = source({"kind": "synthetic", "unit": "words", "length": length})
        return [len((words.get(seq).text or "").split()) for seq in range(600)]

    assert set(lengths({"n": 12})) == {12}
    uniform = lengths({"kind": "uniform", "low": 5, "high": 9})
    assert set(uniform) == {5, 6, 7, 8, 9}
    normal = lengths({"kind": "normal", "mean": 50.0, "stddev": 8.0})
    assert mean(normal) == pytest.approx(50, abs=2)
    assert pstdev(normal) == pytest.approx(8, abs=1.5)
    assert min(lengths({"kind": "normal", "mean": 1.0, "stddev": 5.0})) == 1


def test_a_vocabulary_caps_the_words() -> None:
    words = source({"kind": "synthetic", "unit": "words", "length": {"n": 200}, "vocabulary": 3})
    assert set((words.get(0).text or "").split()) == {"the", "a", "and"}


def test_a_synthetic_prompt_is_from_no_list_and_has_no_number_in_one() -> None:
    words = source({"kind": "synthetic", "unit": "words", "length": {"n": 3}})
    assert words.get(4).index is None
    assert not words.cacheable


def test_a_seed_means_the_same_synthetic_prompt_in_every_version_of_this_package() -> None:
    """A change here is a change of every recorded run."""
    words = source({"kind": "synthetic", "unit": "words", "length": {"kind": "normal", "mean": 6.0, "stddev": 2.0}})
    assert [words.get(seq).text for seq in (0, 1)] == ["bird feel rule land father", "have side state"]


def test_only_line_feeds_end_a_prompt(tmp_path: Path) -> None:
    """U+2028, a form feed and U+0085 end lines for `str.splitlines`, and may stand in a prompt."""
    path = tmp_path / "prompts.txt"
    path.write_bytes("one\u2028and\x0cstill\x85one\r\ntwo\n".encode())
    assert {of_file(path).get(seq).text for seq in range(40)} == {"one\u2028and\x0cstill\x85one", "two"}


@pytest.mark.parametrize(
    ("name", "text"), [("a.txt", "hello\n"), ("a.jsonl", '{"prompt": "hello"}'), ("a.JSONL", '{"prompt": "hello"}')]
)
def test_a_byte_order_mark_and_a_suffix_in_capitals_change_nothing(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert of_file(path).get(0).text == "hello"


def test_the_plan_pins_the_digest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"abc")
    assert prompt_file(path).sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_text_file_holds_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("first\n\n  second  \n")
    assert {of_file(path).get(seq).text for seq in range(40)} == {"first", "second"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"promt": "x"}', "promt"),
        ('{"prompt": ""}', "one of them and not empty"),
        ('{"prompt": "x", "messages": [{"role": "user"}]}', "one of them"),
        ('{"prompt": "", "messages": [{"role": "user"}]}', "one of them"),
        ('{"messages": []}', "one of them and not empty"),
        ('{"messages": ["hi"]}', "line 2"),
        ('{"prompt": "x", "max_tokens": 0}', "max_tokens"),
        ('{"prompt": "x", "max_tokens": 1000000000000}', "max_tokens"),
        ('{"messages": [{"content": ' + "[" * 100_000, "line 2"),
        ("not json", "line 2"),
        ('["list"]', "line 2"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(PlanError, match="line 2") as raised:
        prompt_file(path)
    assert complaint in str(raised.value)


def test_a_file_that_is_missing_empty_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"fine\n\xff\xfe\x00")
    for name, complaint in (
        ("none.txt", "cannot read"),
        (".", "directory"),
        ("empty.txt", "no prompt"),
        ("binary.txt", "line 2: not UTF-8"),
    ):
        with pytest.raises(PlanError, match=complaint):
            prompt_file(tmp_path / name)


def test_a_file_that_changed_since_the_plan_was_made_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n")
    pinned = msgspec.to_builtins(prompt_file(path))
    path.write_text("another\n")
    with pytest.raises(PlanError, match="has changed"):
        source(pinned)
