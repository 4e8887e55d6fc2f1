"""The latency model, with a clock that the test moves."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tokenstorm.simulator.engine import Engine, Sequence
from tokenstorm.simulator.metrics import Metrics
from tokenstorm.simulator.prefixes import PrefixCache
from tokenstorm.simulator.settings import PRESETS, Faults, Settings

MS = 1_000_000

PLAIN = Settings(
    step_base_ms=10.0,
    step_per_sequence_ms=1.0,
    step_per_prefill_token_ms=0.1,
    jitter_fraction=0.0,
    max_num_seqs=4,
    max_num_batched_tokens=100,
    kv_cache_tokens=1600,
    block_tokens=16,
    max_model_len=1000,
)


def play(engine: Engine, now: int = 0) -> list[tuple[int, list[Sequence]]]:
    """Run the engine until it has no work; give the end of each step and who got a token."""
    steps = []
    while (end := engine.start_step(now)) is not None:
        steps.append((end, engine.finish_step(end)))
        now = end
    return steps


def times(steps: list[tuple[int, list[Sequence]]], sequence: Sequence) -> list[float]:
    """When a sequence got its tokens, milliseconds."""
    return [end / MS for end, yielded in steps if sequence in yielded]


def engine_with(*sequences: Sequence, settings: Settings = PLAIN) -> Engine:
    engine = Engine(settings, Metrics())
    for sequence in sequences:
        engine.submit(sequence, 0)
    return engine


def test_a_step_costs_its_base_its_sequences_and_its_prefill() -> None:
    """Prefill of 50 tokens: 10 + 1 + 5 ms; each further token: 10 + 1 ms."""
    one = Sequence(prompt_tokens=50, output_tokens=3)
    assert times(play(engine_with(one)), one) == [16.0, 27.0, 38.0]


def test_sequences_share_a_step_and_slow_each_other() -> None:
    """Two prefills of 20 tokens: 10 + 2 + 4 ms; then 10 + 2 ms a step."""
    one, two = Sequence(20, 3), Sequence(20, 3)
    steps = play(engine_with(one, two))
    assert times(steps, one) == times(steps, two) == [16.0, 28.0, 40.0]


def test_a_long_prompt_is_computed_in_pieces_between_the_tokens_of_others() -> None:
    """A budget of 100 tokens a step: 250 prompt tokens beside one decode take 99 + 99 + 52."""
    short, long = Sequence(10, 10), Sequence(250, 2)
    engine = engine_with(short)
    end = engine.start_step(0)
    assert end is not None
    engine.submit(long, 0)
    engine.finish_step(end)
    steps = play(engine, end)
    assert times(steps, long)[0] == times(steps, short)[2]
    assert [round(b - a, 3) for a, b in pairwise([end / MS, *times(steps, short)])][:4] == [
        10 + 2 + 9.9,
        10 + 2 + 9.9,
        10 + 2 + 5.2,
        10 + 2,
    ]


def test_no_more_than_max_num_seqs_run_and_the_others_wait_in_order() -> None:
    sequences = [Sequence(4, 2) for _ in range(6)]
    engine = engine_with(*sequences)
    engine.start_step(0)
    assert engine.running == sequences[:4]
    assert list(engine.waiting) == sequences[4:]
    engine.finish_step(MS)
    steps = play(engine, MS)
    assert times(steps, sequences[4])[0] > times(steps, sequences[0])[-1]


def test_a_full_kv_cache_makes_requests_wait() -> None:
    """1600 tokens of cache hold one sequence of 900, not two."""
    settings = replace(PLAIN, max_num_batched_tokens=2000)
    one, two = Sequence(900, 2), Sequence(900, 2)
    engine = engine_with(one, two, settings=settings)
    engine.start_step(0)
    assert engine.running == [one]
    assert engine.kv_usage == pytest.approx(57 / 100)  # 57 blocks of 16
    steps = play(engine)
    assert times(steps, two)[0] > times(steps, one)[-1]


def test_the_latest_is_preempted_when_the_kv_cache_runs_out_and_computes_again() -> None:
    """Both prompts fit (2 x 784 of 1600), but not both answers; each token still comes once."""
    settings = replace(PLAIN, max_num_batched_tokens=2000)
    metrics = Metrics()
    engine = Engine(settings, metrics)
    one, two = Sequence(784, 100), Sequence(784, 100)
    engine.submit(one, 0)
    engine.submit(two, 0)
    steps = play(engine)
    assert metrics.preemptions == 1
    assert len(times(steps, one)) == len(times(steps, two)) == 100
    assert max(b - a for a, b in pairwise(times(steps, one))) < 13
    assert max(b - a for a, b in pairwise(times(steps, two))) > 13
    assert engine.kv_usage == 0


def test_a_client_that_leaves_frees_its_place() -> None:
    settings = replace(PLAIN, max_num_seqs=1)
    one, two, three = Sequence(4, 50), Sequence(4, 2), Sequence(4, 2)
    engine = engine_with(one, two, three, settings=settings)
    engine.start_step(0)
    engine.abort(one)
    engine.abort(two)
    assert engine.finish_step(MS) == []
    assert times(play(engine, MS), three) == [1 + 11.4, 1 + 22.4]
    engine.abort(one)  # a second time is harmless
    assert engine.kv_usage == 0


def test_an_engine_without_work_starts_no_step() -> None:
    assert Engine(PLAIN, Metrics()).start_step(0) is None


def test_the_same_seed_gives_the_same_times_and_jitter_keeps_the_mean() -> None:
    settings = replace(PLAIN, jitter_fraction=0.3)

    def run(seed: int) -> list[float]:
        one = Sequence(1, 900)
        engine = Engine(settings, Metrics(), seed)
        engine.submit(one, 0)
        return times(play(engine), one)

    assert run(1) == run(1) != run(2)
    gaps = [b - a for a, b in pairwise(run(1))]
    assert min(gaps) >= 11 * 0.7
    assert max(gaps) <= 11 * 1.3
    assert sum(gaps) / len(gaps) == pytest.approx(11, rel=0.02)  # 3 sigma are 0.019 of it


def test_metrics_tell_what_happened() -> None:
    metrics = Metrics()
    engine = Engine(PLAIN, metrics)
    for _ in range(5):
        engine.submit(Sequence(10, 3, "stop"), 0)
    play(engine)
    assert (metrics.prompt_tokens, metrics.generation_tokens) == (50, 15)
    assert metrics.finish_reasons["stop"] == 5
    assert metrics.ttft.count == metrics.queue_time.count == metrics.e2e.count == 5
    assert metrics.inter_token.count == 10
    # Four begin at once; the fifth waits for their three steps: 10 + 4 + 4 and 14 and 14 ms.
    assert metrics.queue_time.total == pytest.approx(0.046)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 60)), min_size=1, max_size=12),
    aborts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 11)), max_size=4),
)
@hypothesis_settings(max_examples=60)
def test_whatever_comes_the_limits_hold_and_everyone_gets_all_tokens(
    sizes: list[tuple[int, int]], aborts: list[tuple[int, int]]
) -> None:
    engine = Engine(PLAIN, Metrics())
    sequences = [Sequence(prompt, output) for prompt, output in sizes]
    for sequence in sequences:
        engine.submit(sequence, 0)
    gone: set[Sequence] = set()
    now = step = 0
    while (end := engine.start_step(now)) is not None:
        assert end > now
        assert len(engine.running) <= PLAIN.max_num_seqs
        assert sum(sequence.chunk for sequence in engine.running) <= PLAIN.max_num_batched_tokens
        assert 0 <= engine.kv_usage <= 1
        for at, index in aborts:
            if at == step and index < len(sequences) and not sequences[index].done:
                gone.add(sequences[index])
                engine.abort(sequences[index])
        engine.finish_step(end)
        now, step = end, step + 1
    assert engine.kv_usage == 0
    assert all(sequence.done != (sequence in gone) for sequence in sequences)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_hold_its_longest_sequence(preset: str) -> None:
    settings = PRESETS[preset]
    assert settings.kv_cache_tokens >= settings.max_model_len


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step_base_ms", -1.0),
        ("step_base_ms", float("nan")),
        ("max_num_seqs", 0),
        ("jitter_fraction", 1.0),
        ("kv_cache_tokens", 10),
        ("early_stop_rate", 1.5),
    ],
)
def test_a_wrong_setting_is_refused_by_its_option(field: str, value: float) -> None:
    with pytest.raises(ValueError, match="--" + field.replace("_", "-")):
        replace(PLAIN, **{field: value})  # type: ignore[arg-type]


def test_fault_rates_that_add_up_to_more_than_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Faults(reset=0.6, stall=0.6)


def test_a_prompt_that_begins_like_another_one_costs_only_the_rest() -> None:
    """60 tokens are 3 whole blocks and a rest: of the second prompt 12 tokens are computed, of a third 60."""
    engine = engine_with(settings=replace(PLAIN, prefix_cache_tokens=160))
    took = []
    for beginning in (b"a", b"a", b"b"):
        one = Sequence(prompt_tokens=60, output_tokens=1)
        one.prefix = engine.prefixes.blocks_of(beginning * 240)
        engine.submit(one, 0)
        took.append(times(play(engine), one))
    assert took == [[17.0], [pytest.approx(12.2)], [17.0]]
    assert (engine._metrics.prefix_queries, engine._metrics.prefix_hits) == (180, 48)


def test_the_prefix_cache_keeps_what_was_used_last_and_always_computes_the_last_token() -> None:
    cache = PrefixCache(64, 16)
    one, two = cache.blocks_of(b"a" * 128), cache.blocks_of(b"b" * 192)
    assert (len(one), len(two)) == (2, 3)
    cache.add(one, 32)
    assert cache.find(one, 32) == 16
    assert cache.find(one, 33) == 32
    cache.add(two, 47)
    assert (cache.find(one, 99), cache.find(two, 99)) == (32, 32)
    cache.add(two, 48)
    assert (cache.find(one, 99), cache.find(two, 99)) == (0, 48), "the first block of the older prompt is gone"
    cache.clear()
    assert cache.find(two, 99) == 0
