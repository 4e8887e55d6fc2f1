"""Which runs a series has, in which order, and their plans."""

import msgspec
import pytest

from plans import plan
from tokenstorm.errors import PlanError
from tokenstorm.load import make
from tokenstorm.loadgen.variants import check_runs, in_order, plan_of
from tokenstorm.loadgen.varied import next_run
from tokenstorm.plan import SeriesPlan
from tokenstorm.series_parts import Series


def series(fields: dict[str, object], **load: object) -> SeriesPlan:
    """A series of the least plan."""
    return SeriesPlan(plan=plan(**load), series=make(fields, Series))


def test_each_repeat_runs_every_point_once_in_an_order_of_its_own_that_the_seed_repeats() -> None:
    made = make({"sweep": {"num_clients": [1, 2, 4, 8], "max_tokens": [10, 20]}, "repeats": 3}, Series)
    runs = in_order(made, 7)
    assert [run.number for run in runs] == list(range(1, 25))
    blocks = [[tuple(run.values.items()) for run in runs if run.repeat == repeat] for repeat in (1, 2, 3)]
    assert len(set(blocks[0])) == 8
    assert sorted(blocks[0]) == sorted(blocks[1]) == sorted(blocks[2])
    assert blocks[0] != blocks[1] != blocks[2]
    assert in_order(made, 7) == runs
    assert in_order(made, 8) != runs


def test_an_order_that_is_given_is_kept() -> None:
    made = make({"sweep": {"num_clients": [4, 1, 8]}, "order": "given"}, Series)
    assert [run.values["num_clients"] for run in in_order(made, 7)] == [4, 1, 8]


def test_any_field_of_the_load_is_varied_a_part_of_one_by_its_path() -> None:
    made = series(
        {"sweep": {"arrival.burstiness": [0.5, 2.0], "prompts.length.n": [10, 20]}, "order": "given"},
        requests_per_second=5,
        arrival={"kind": "gamma"},
        prompts={"kind": "synthetic", "unit": "text", "length": {"kind": "fixed", "n": 5}},
    )
    check_runs(made)
    plans = [plan_of(made, run) for run in in_order(made.series, 1)]
    found = [(one.arrival.burstiness, msgspec.to_builtins(one.prompts)["length"]["n"]) for one in plans]
    assert found == [(0.5, 10), (0.5, 20), (2.0, 10), (2.0, 20)]


def test_each_run_has_a_seed_and_a_run_id_of_its_own_and_its_seed_again_when_it_is_run_again() -> None:
    made = series({"repeats": 3})
    runs = in_order(made.series, made.plan.seed)
    plans = [plan_of(made, run) for run in runs]
    assert len({one.seed for one in plans}) == len({one.run_id for one in plans}) == 3
    assert [plan_of(made, run).seed for run in runs] == [one.seed for one in plans]


def test_runs_with_fewer_clients_than_ranks_get_fewer_ranks() -> None:
    made = series({"sweep": {"num_clients": [1, 64]}}, ranks=4)
    assert [plan_of(made, run).ranks for run in in_order(made.series, 1) if run.values["num_clients"] == 1] == [1]


@pytest.mark.parametrize(
    ("fields", "load", "said"),
    [
        ({"sweep": {"no_such": [1]}}, {}, "`no_such` is no field"),
        ({"sweep": {"seed": [1]}}, {}, "`seed` is no field that a series can vary"),
        ({"sweep": {"num_clients": [0]}}, {}, "num_clients=0"),
        ({"sweep": {"slo.ttft_seconds": [1]}}, {}, "can vary"),
        ({"sweep": {"prompts.length.n": [1]}}, {}, "there is no `prompts.length`"),
        ({"sweep": {"arrival.burstiness": [2]}}, {}, "burstiness"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused_before_any_is_sent(
    fields: dict[str, object], load: dict[str, object], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        check_runs(series(fields, **load))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "single run"),
        ({"sweep": {"num_clients": [1]}, "search": {"field": "num_clients"}}, "not both"),
        ({"sweep": {"num_clients": [1, 1]}}, "twice"),
        ({"sweep": {"num_clients": list(range(1, 1001))}, "repeats": 2}, "too many"),
        ({"search": {"field": "num_clients"}, "repeats": 2}, "repeats what it has to"),
        ({"search": {"field": "num_clients", "start": 1.5}}, "whole number"),
        ({"search": {"field": "num_clients", "start": 5, "most": 2}}, "below"),
        ({"search": {"field": "max_tokens"}}, "nvalid"),
    ],
)
def test_a_series_that_contradicts_itself_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        make(fields, Series)


def test_a_search_needs_objectives_and_sets_how_long_its_runs_are() -> None:
    search: dict[str, object] = {"search": {"field": "requests_per_second"}}
    with pytest.raises(ValueError, match="objectives"):
        series(search)
    slo = {"ttft_seconds": 0.5, "share": 0.9}
    with pytest.raises(ValueError, match="sets the length"):
        series(search, slo=slo, request_count=100)
    with pytest.raises(ValueError, match="no count"):
        series(
            {"search": {"field": "num_clients"}}, slo=slo, duration_seconds=40, conversation={"turns": 2, "sessions": 5}
        )
    made = series(search, slo=slo, duration_seconds=40)
    first = next_run(made, [])
    assert first is not None
    plan_ = plan_of(made, first)
    assert (plan_.requests_per_second, plan_.closed_loop) == (1, False)
    assert plan_.duration_seconds == first.seconds
    assert plan_.warmup_seconds == pytest.approx(0.2 * (first.seconds or 0))
