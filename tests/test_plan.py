"""A plan is complete, says what is wrong with it, and comes back from its file as it was."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstorm.errors import PlanError
from tokenstorm.plan import Plan, decode_plan, encode_plan, make_plan, new_run_id, read_plan

LEAST: dict[str, object] = {
    "run_id": "0123456789abcdef" * 2,
    "targets": [{"replica": "0", "url": "http://127.0.0.1:8000"}],
    "prompts": {"kind": "list", "prompts": ["hello"]},
    "num_clients": 10,
    "seed": 1,
}


def plan(**fields: object) -> Plan:
    return make_plan({**LEAST, **fields})


SHAPES: dict[str, dict[str, object]] = {
    "closed loop": {"think_time_seconds": 0.5, "ramp_seconds": 0},
    "constant": {"requests_per_second": 0.1},
    "gamma": {"requests_per_second": 3, "arrival": {"kind": "gamma", "burstiness": 0.3}},
    "ramp": {"arrival": {"ramp": {"from_rps": 0, "to_rps": 9.5}}},
    "stages": {"arrival": {"stages": [{"rps": 1, "seconds": 2}, {"rps": 0, "seconds": 3}]}, "duration_seconds": 5},
    "counted": {"duration_seconds": None, "request_count": 7},
    "tokens": {
        "endpoint": "completions",
        "prompts": {"kind": "synthetic", "unit": "tokens", "length": {"kind": "uniform", "low": 1, "high": 9}},
    },
    "file": {"prompts": {"kind": "file", "path": "/data/prompts.jsonl", "sha256": "ab"}},
    "everything else": {
        "group_id": 3,
        "name": "nightly ✓",
        "labels": {"team": 'a "quoted" one'},
        "extra_body": {"stop": ["\n"], "logprobs": None, "nested": {"a": [1, 2.5, True]}},
        "seed": 2**63 - 1,
        "launch": ["srun", "--ntasks=2"],
        "ranks": 2,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_plan_comes_back_from_its_file_as_it_was(shape: str, tmp_path: Path) -> None:
    made = plan(**SHAPES[shape])
    path = tmp_path / "plan.json"
    path.write_bytes(encode_plan(made))
    assert read_plan(path) == made
    assert encode_plan(read_plan(path)) == encode_plan(made)


@given(
    st.text(min_size=1).filter(lambda text: text.isprintable() and text.strip()),
    st.floats(min_value=1e-3, max_value=1e6),
    st.integers(min_value=0, max_value=2**63 - 1),
)
def test_no_text_rate_or_seed_changes_on_its_way(text: str, rate: float, seed: int) -> None:
    made = plan(prompts={"kind": "list", "prompts": [text]}, requests_per_second=rate, seed=seed)
    assert decode_plan(encode_plan(made), "here") == made


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_clents": 1}, "`num_clents`"),
        ({"num_clients": 0}, "`num_clients"),
        ({"requests_per_second": 0}, "`requests_per_second"),
        ({"requests_per_second": -1}, "`requests_per_second"),
        ({"requests_per_second": float("nan")}, "requests_per_second"),
        ({"requests_per_second": float("inf")}, "requests_per_second"),
        ({"drain_seconds": float("nan")}, "drain_seconds"),
        ({"warmup_seconds": -0.1}, "`warmup_seconds"),
        ({"duration_seconds": None}, "`duration_seconds` or `request_count`"),
        ({"request_count": 0}, "`request_count"),
        ({"temperature": 2.1}, "`temperature"),
        ({"seed": -1}, "`seed"),
        ({"run_id": "x"}, "`run_id"),
        ({"targets": []}, "`targets"),
        ({"targets": [{"url": "http://h"}]}, "replica"),
        ({"ranks": 11}, "`num_clients`"),
        ({"prompts": {"kind": "list", "prompts": []}}, "`prompts"),
        ({"prompts": {"kind": "url", "path": "x"}}, "`prompts"),
        ({"arrival": {"kind": "gamma"}}, "`requests_per_second`"),
        ({"arrival": {"burstiness": 2}, "requests_per_second": 1}, "`burstiness`"),
        ({"arrival": {"ramp": {"from_rps": 0, "to_rps": 0}}}, "`to_rps`"),
        ({"arrival": {"ramp": {"from_rps": 1, "to_rps": 2}}, "requests_per_second": 1}, "`requests_per_second`"),
        ({"arrival": {"ramp": {"from_rps": 1, "to_rps": 2}}, "duration_seconds": None, "request_count": 1}, "`ramp`"),
        ({"arrival": {"stages": [{"rps": 1, "seconds": 5}]}}, "`stages`"),
        ({"arrival": {"stages": [{"rps": 0, "seconds": 60}]}}, "`stages`"),
        ({"arrival": {"stages": []}}, "stages"),
        ({"prompts": {"kind": "synthetic", "unit": "tokens", "length": {"n": 5}}}, "`endpoint`"),
        ({"prompts": {"kind": "synthetic", "unit": "words", "length": {"kind": "normal", "n": 5}}}, "`mean`"),
        (
            {"prompts": {"kind": "synthetic", "unit": "words", "length": {"kind": "uniform", "low": 5, "high": 4}}},
            "`low`",
        ),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_naming_the_field(fields: dict[str, object], named: str) -> None:
    with pytest.raises(PlanError, match=named):
        plan(**fields)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"num_clients": 0}, "num_clients"),
        ({"num_clents": 1}, "num_clents"),
        ({"targets": [{"url": "http://h"}]}, "targets[0].replica"),
        ({"drain_seconds": float("nan")}, "drain_seconds"),
        ({"ranks": 11}, "ranks"),
        ({"arrival": {"kind": "poisson"}}, "arrival"),
        ({"arrival": {"ramp": {"from_rps": 0, "to_rps": 0}}}, "arrival.ramp"),
        ({"arrival": {"stages": [{"rps": 1, "seconds": 5}]}}, "duration_seconds"),
        ({"prompts": {"kind": "synthetic", "unit": "tokens", "length": {"n": 5}}}, "endpoint"),
        ({"prompts": {"kind": "list", "prompts": ["fine", " \n"]}}, "prompts.prompts[1]"),
        ({"arrival": {"kind": "- at `$.seed`"}}, "arrival.kind"),
    ],
)
def test_the_error_of_a_plan_carries_the_field_that_is_wrong(fields: dict[str, object], field: str) -> None:
    with pytest.raises(PlanError) as raised:
        plan(**fields)
    assert raised.value.field == field
    assert str(raised.value) == f"`{field}`: {raised.value.message}"


def test_a_plan_of_another_major_version_is_refused_before_its_fields_are_read() -> None:
    written = {**json.loads(encode_plan(plan())), "tokenstorm": "7.1.0", "a_field_of_the_future": 1}
    with pytest.raises(PlanError, match=r"written for tokenstorm 7\.1\.0.*same major version"):
        decode_plan(json.dumps(written).encode(), "plan.json")


def test_a_plan_of_another_minor_version_is_read() -> None:
    written = {**json.loads(encode_plan(plan())), "tokenstorm": "0.99.0"}
    assert decode_plan(json.dumps(written).encode(), "plan.json").tokenstorm == "0.99.0"


def test_the_measured_window_follows_the_warm_up() -> None:
    """0.5 s of warm-up, then 2 s: from 500,000,000 ns to 2,500,000,000 ns."""
    made = plan(warmup_seconds=0.5, duration_seconds=2)
    assert (made.window_start_ns, made.window_end_ns) == (500_000_000, 2_500_000_000)
    assert plan(duration_seconds=None, request_count=1).window_end_ns is None


def test_run_ids_are_128_bits_and_never_the_same() -> None:
    ids = {new_run_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(run_id) == 32 and int(run_id, 16) >= 0 for run_id in ids)
