"""Shared prefixes: groups of requests that begin alike, as popular as was asked."""

import argparse
from collections import Counter

import msgspec
import pytest

from plans import plan
from tokenstorm.api.groups import GroupRequest
from tokenstorm.cli.commands import add_commands
from tokenstorm.cli.parser import Parser
from tokenstorm.cli.request import request_of
from tokenstorm.errors import UsageError
from tokenstorm.lengths import SharedPrefix
from tokenstorm.load import make
from tokenstorm.loadgen.prompts import PromptSource, load_prompts
from tokenstorm.options import plan_of
from tokenstorm.plan import Shared
from tokenstorm.report.workload import shared_lines

GROUPS = {"kind": "shared_prefix", "groups": 4, "prefix": 30, "question": 5}


def source(**fields: object) -> PromptSource:
    return load_prompts(plan(prompts={**GROUPS, **fields}))


def words(prompts: PromptSource, seq: int) -> list[str]:
    composed = prompts.get(seq).composed
    assert composed
    text: str = msgspec.json.decode(composed)
    return text.split(" ")


def test_a_group_shares_its_prefix_and_nothing_more() -> None:
    prompts = source()
    seen: dict[int, list[str]] = {}
    questions = []
    for seq in range(200):
        text, group = words(prompts, seq), prompts.get(seq).index or 0
        assert (len(text), prompts.get(seq).asked) == (35, 35)
        assert seen.setdefault(group, text[:30]) == text[:30]
        questions.append(tuple(text[30:]))
    assert len({tuple(prefix) for prefix in seen.values()}) == 4
    assert len(set(questions)) == 200


def test_groups_are_as_popular_as_was_asked() -> None:
    even, zipf = source(), source(zipf=1.0)
    counted = Counter(even.get(seq).index for seq in range(2000))
    assert all(count == pytest.approx(500, rel=0.2) for count in counted.values())
    counted = Counter(zipf.get(seq).index for seq in range(2000))
    assert counted[0] / counted[3] == pytest.approx(4, rel=0.3)


def test_a_template_is_taken_off_the_prefix_so_that_groups_still_share_it() -> None:
    prompts = source()
    prompts.speak([f"w{number}" for number in range(100)], 7)
    texts = [words(prompts, seq) for seq in range(50) if prompts.get(seq).index == 2]
    assert {len(text) for text in texts} == {28}
    assert len({tuple(text[:23]) for text in texts}) == 1


def test_salts_and_the_first_look_share_nothing() -> None:
    salted = load_prompts(plan(prompts={**GROUPS, "groups": 1}, unique_prompts=True))
    assert words(salted, 0)[:30] != words(salted, 1)[:30]
    composed = source(groups=1).preflight().composed
    assert composed
    assert msgspec.json.decode(composed).split(" ")[:30] != words(source(groups=1), 0)[:30]


@pytest.mark.parametrize(
    ("requests", "ideal"),
    [
        (None, 0.8),  # 80 of 100 tokens
        (1, 0.0),  # nothing is known yet
        (2, 0.8 * (1 - 1.5 / 2)),  # the second is of the other group in half of all cases
    ],
)
def test_the_ideal_hit_rate_knows_that_the_first_of_each_group_finds_nothing(
    requests: int | None, ideal: float
) -> None:
    shared = SharedPrefix(groups=2, prefix=80, question=20)
    assert shared.ideal_reuse(requests) == pytest.approx(ideal)


def parsed(*words: str) -> argparse.Namespace:
    parser = Parser(prog="tokenstorm")
    add_commands(parser.add_subparsers())
    return parser.parse_args([*words])


def test_what_is_typed_is_what_a_request_says_and_what_a_plan_has() -> None:
    options = ("--shared-prefix", "20x2000+50:150@1.2", "--output-tokens", "9", "--requests-per-second", "10")
    found = plan_of(parsed("bench", "http://h", *options, "--duration", "6"))
    assert isinstance(found.prompts, Shared)
    assert (found.prompts.groups, found.prompts.prefix, found.prompts.zipf) == (20, 2000, 1.2)
    request = make(request_of(parsed("group", "create", "abc", *options)), GroupRequest)
    assert request.shared_prefix == SharedPrefix(**msgspec.structs.asdict(found.prompts))
    (told,) = shared_lines(found)
    assert "20 groups share 2000 tokens each" in told
    assert "among 60 requests" in told
    with pytest.raises(UsageError, match="must look like 20x2000"):
        plan_of(parsed("bench", "http://h", "--shared-prefix", "20x2000"))
    with pytest.raises(UsageError, match="--shared-prefix: must be at least 1"):
        plan_of(parsed("bench", "http://h", "--shared-prefix", "0x2000+5"))
