"""What prompts share, over a whole run: the engine's hit rate beside the ideal, a warm engine, a cache that is emptied."""

from typing import Any

from running import Run, Stage

LOAD = ("--shared-prefix", "4x1200+60", "--output-tokens", "8", "--requests-per-second", "15", "--duration", "4")
ALIKE = ("--num-clients", "20", "--ranks", "2", "--seed", "5")


def rates(run: Run) -> tuple[float, float]:
    tokens: dict[str, Any] = run.summary["tokens"]
    return tokens["prefix_found"], tokens["prefix_ideal"]


def test_the_engines_hit_rate_stands_beside_the_ideal_and_a_warm_engine_is_told(stage: Stage) -> None:
    """The same seed again finds everything; an engine whose cache is emptied is as cold as at first."""
    url = stage.simulate("--prefix-cache-tokens", "400000", "--template-tokens", "7", "--early-stop-rate", "1").url
    cold, warm, emptied = (
        stage.bench(url, *LOAD, *ALIKE, *more, name=name)
        for name, more in (("cold", ()), ("warm", ()), ("emptied", ("--cache", "reset")))
    )
    for run in (cold, emptied):
        found, ideal = rates(run)
        assert abs(found - ideal) < 0.03
    found, ideal = rates(warm)
    assert found > 0.99 > ideal + 0.03
    notes = [run.summary["environment"]["notes"] for run in (cold, warm, emptied)]
    assert [len(told) for told in notes] == [0, 1, 0]
    assert "the run cold sent the same prompts to the same address with the same seed" in notes[1][0]

    report = stage.command("report", str(emptied.root)).out
    assert f"cache      the engine found {rates(emptied)[0]:.1%} of the prompt tokens in its prefix cache" in report
    assert "answers of exactly the tokens that were asked: the engine takes `ignore_eos`, so it was set" in report
    assert {line["output_tokens"] for line in emptied.lines()} == {8}, "it stops early where it may"


def test_what_the_user_says_of_ends_is_left_as_it_is(stage: Stage) -> None:
    url = stage.simulate("--early-stop-rate", "1").url
    load = ("--input-tokens", "20", "--output-tokens", "50", "--request-count", "20", "--num-clients", "5")
    told = stage.bench(url, *load, "--no-ignore-eos")
    assert not told.summary["environment"]["ignore_eos"]
    assert min(line["output_tokens"] for line in told.lines()) < 50
