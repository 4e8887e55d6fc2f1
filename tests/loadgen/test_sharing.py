"""Several models in one load: which request asks for which, and what is told of each."""

from collections import Counter

import pytest

from plans import plan
from running import Stage
from tokenstorm.errors import PlanError
from tokenstorm.load_parts import ModelShare
from tokenstorm.loadgen.sharing import Sharing

OPTIONS = (
    "--request-count",
    "60",
    "--requests-per-second",
    "100",
    "--max-tokens",
    "4",
    "--seed",
    "1",
    "--num-clients",
    "30",
)


def test_models_are_drawn_by_their_weights_and_the_same_ones_again() -> None:
    models = [ModelShare(name="a", weight=3), ModelShare(name="b"), ModelShare(name="c", weight=0.5)]
    drawn = [Sharing(models, 5).of(seq) for seq in range(9000)]
    counts = Counter(drawn)
    assert all(abs(counts[number] - share) < 250 for number, share in ((0, 6000), (1, 2000), (2, 1000)))
    assert drawn == [Sharing(models, 5).of(seq) for seq in range(9000)]
    assert drawn != [Sharing(models, 6).of(seq) for seq in range(9000)]


def test_each_model_has_its_own_counts_and_times_however_many_ranks_there_are(stage: Stage) -> None:
    engine = stage.simulate("--adapter", "lora-1", "--adapter", "lora-2")
    runs = [
        stage.bench(engine.url, *OPTIONS, "--models", "sim-model@2,lora-1,lora-2", "--ranks", ranks, name=f"run{ranks}")
        for ranks in ("1", "2")
    ]
    asked = [{line["seq"]: line["model"] for line in run.lines()} for run in runs]
    assert asked[0] == asked[1]
    by_model = Counter(asked[0].values())
    for run in runs:
        models = run.summary["models"]
        assert {name: model["counts"]["succeeded"] for name, model in models.items()} == by_model
        assert {name: model["metrics"]["ttft_seconds"]["count"] for name, model in models.items()} == by_model
        assert {name: model["output_tokens"] for name, model in models.items()} == {
            n: 4 * c for n, c in by_model.items()
        }
    again = stage.command("report", str(runs[0].root), "--json")
    (runs[0].root / "summary.json").unlink()
    rebuilt = stage.command("report", str(runs[0].root))
    assert again.code == rebuilt.code == 0
    assert f"{'lora-2':<26}" in rebuilt.out or "lora-2 " in rebuilt.out


def test_a_model_that_the_service_does_not_know_ends_the_run_before_it_starts(stage: Stage) -> None:
    engine = stage.simulate()
    ended = stage.command("bench", engine.url, *OPTIONS, "--models", "sim-model,other")
    assert (ended.code, "The model `other` does not exist" in ended.err) == (1, True), ended


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "a", "models": [{"name": "b"}]}, "not both"),
        ({"models": [{"name": "b"}, {"name": "b"}]}, "named twice"),
    ],
)
def test_models_that_contradict_one_another_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(**fields)
