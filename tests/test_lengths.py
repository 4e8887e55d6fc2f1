"""How long prompts and answers are."""

import argparse
from random import Random
from statistics import mean, pstdev

import msgspec
import pytest

from plans import plan
from tokenstorm.api.groups import Synthetic
from tokenstorm.cli.commands import add_commands
from tokenstorm.cli.parser import Parser
from tokenstorm.cli.request import request_of
from tokenstorm.errors import UsageError
from tokenstorm.lengths import Bin, Length, Pair
from tokenstorm.loadgen.prompts import PromptSource, load_prompts
from tokenstorm.options import plan_of
from tokenstorm.plan import Synthetic as MadeUp

DRAWS = 4000


def drawn(**fields: object) -> list[int]:
    length, draw = msgspec.convert(fields, Length), Random(5).random
    return [length.draw(draw) for _ in range(DRAWS)]


def parsed(*options: str) -> argparse.Namespace:
    parser = Parser(prog="tokenstorm")
    add_commands(parser.add_subparsers())
    return parser.parse_args([*options])


def made_up(*options: str) -> MadeUp:
    """What `bench` makes of the options, which is what `group create` makes of them by way of its request."""
    prompts = plan_of(parsed("bench", "http://h", *options)).prompts
    request = request_of(parsed("group", "create", "abc", *options))
    assert isinstance(prompts, MadeUp)
    assert msgspec.convert(request["synthetic"], Synthetic).made_up == prompts
    return prompts


def test_a_lognormal_length_has_the_mean_and_the_deviation_that_were_asked() -> None:
    lengths = drawn(kind="lognormal", mean=300.0, stddev=150.0)
    assert mean(lengths) == pytest.approx(300, rel=0.05)
    assert pstdev(lengths) == pytest.approx(150, rel=0.1)
    assert sorted(lengths)[DRAWS // 2] < 0.95 * mean(lengths), "its tail is on the right"


@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_lengths_by_their_mean_stay_within_bounds(kind: str) -> None:
    lengths = drawn(kind=kind, mean=100.0, stddev=200.0, low=20, high=150)
    assert (min(lengths), max(lengths)) == (20, 150)


def test_a_histogram_gives_each_bin_its_share_and_nothing_between_them() -> None:
    lengths = drawn(
        kind="histogram", bins=[{"low": 1, "high": 10, "weight": 3.0}, {"low": 90, "high": 99, "weight": 1}]
    )
    low = [length for length in lengths if length <= 10]
    assert set(lengths) == {*range(1, 11), *range(90, 100)}
    assert len(low) / DRAWS == pytest.approx(0.75, abs=0.03)


def test_a_seed_means_the_same_lengths_in_every_version_of_this_package() -> None:
    """A change here is a change of every recorded run."""
    bins = [{"low": 1, "high": 10, "weight": 3.0}, {"low": 90, "high": 99, "weight": 1.0}]
    assert drawn(kind="lognormal", mean=300.0, stddev=150.0)[:4] == [259, 589, 532, 240]
    assert drawn(kind="histogram", bins=bins)[:4] == [8, 99, 10, 5]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "histogram"}, "a `histogram` length takes `bins`, nothing else"),
        ({"kind": "lognormal", "mean": 5.0}, "takes `mean` and `stddev`, and `low` and `high` as bounds"),
        ({"kind": "normal", "mean": 5.0, "stddev": 1.0, "low": 9, "high": 8}, "`low` (9) is above `high` (8)"),
        ({"kind": "histogram", "bins": [{"low": 9, "high": 8, "weight": 1.0}]}, "`low` (9) is above `high` (8)"),
        ({"kind": "histogram", "bins": [{"low": 1, "high": 8, "weight": 0.0}]}, "> 0"),
        ({"n": 0}, ">= 1"),
    ],
)
def test_a_length_that_makes_no_sense_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(fields, Length)
    assert words in str(raised.value)


def test_lengths_are_typed_as_they_are_written_in_a_request() -> None:
    assert made_up("--input-tokens", "100").length == Length(n=100)
    assert made_up("--input-tokens", "50:200").length == Length(kind="uniform", low=50, high=200)
    assert made_up("--synthetic-words", "10~2.5").length == Length(kind="normal", mean=10.0, stddev=2.5)
    assert made_up("--input-tokens", "lognormal:10~2").length == Length(kind="lognormal", mean=10.0, stddev=2.0)
    bins = (Bin(low=1, high=50, weight=3.0), Bin(low=60, high=60, weight=1.0))
    typed = made_up("--input-tokens", "5", "--output-tokens", "1:50x3,60x1")
    assert typed.output == Length(kind="histogram", bins=bins)
    mix = made_up("--mix", "500/100@3,8:9/20").mix or ()
    assert [(part.input.n or part.input.low, part.output.n, part.weight) for part in mix] == [(500, 100, 3), (8, 20, 1)]


def test_a_mix_is_refused_where_it_is_no_list_of_pairs() -> None:
    for text in ("5", "5/", "a/b", "5/6@x", "5/6@1,,"):
        with pytest.raises(UsageError, match="--mix"):
            made_up("--mix", text)


def source(prompts: dict[str, object]) -> PromptSource:
    return load_prompts(plan(prompts={"kind": "synthetic", "unit": "text", **prompts}))


def test_the_length_of_an_answer_is_the_requests_max_tokens() -> None:
    prompts = [
        source({"length": {"n": 3}, "output": {"kind": "uniform", "low": 5, "high": 6}}).get(n) for n in range(50)
    ]
    assert {prompt.max_tokens for prompt in prompts} == {5, 6}
    assert {len((prompt.text or "").split()) for prompt in prompts} == {3}
    assert source({"length": {"n": 3}}).get(0).max_tokens is None


def test_a_mix_keeps_prompts_and_their_answers_together() -> None:
    parts = (Pair(input=2, output=7, weight=3), Pair(input=9, output=1))
    mixed = source({"mix": msgspec.to_builtins(Synthetic(mix=parts).made_up.mix)})
    pairs = [(len((prompt.text or "").split()), prompt.max_tokens) for prompt in map(mixed.get, range(400))]
    assert set(pairs) == {(2, 7), (9, 1)}
    assert pairs.count((2, 7)) / 400 == pytest.approx(0.75, abs=0.08)
