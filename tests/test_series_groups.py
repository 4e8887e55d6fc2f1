"""A group that is a series: several runs in one job, by the real APIs on this machine."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from running import Stage, wait_for
from serving import Up, end_all, start_up
from tokenstorm.errors import ApiError
from tokenstorm.sdk import Client


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, truthd: Callable[[], Path]) -> Iterator[Up]:
    """Everything on this machine, for all tests here."""
    stage = Stage(tmp_path_factory.mktemp("series"), truthd)
    try:
        yield start_up(stage)
    finally:
        end_all(stage)


@pytest.fixture(scope="module")
def engine(up: Up) -> str:
    """A service of ours."""
    with up.sdk() as sdk:
        service = sdk.create_service("inference/sim-replicas", {"preset": "fast"})
        sdk.wait_until_ready(service.id, seconds=60)
        return service.id


@pytest.fixture
def sdk(up: Up) -> Iterator[Client]:
    with up.sdk() as client:
        yield client


def create(sdk: Client, engine: str, series: Any, **fields: Any) -> int:
    """A group that is that series, with runs of a second."""
    load = {"prompts": ["hello"], "max_tokens": 4, "duration_seconds": 1.0, "drain_seconds": 5.0, "num_clients": 4}
    return sdk.create_group(service_id=engine, series=series, **{**load, **fields}).group_id


def test_a_series_is_one_job_whose_points_are_seen_as_they_come_and_brought_home(
    sdk: Client, engine: str, up: Up
) -> None:
    group = create(sdk, engine, {"sweep": {"num_clients": [1, 2, 3]}})
    live = wait_for(lambda: points_of(sdk, group), "no point came")
    assert live["outcome"] == "running" or len(live["points"]) == 3
    over = sdk.wait_until_stopped(group, seconds=60)
    assert (over.info.status, over.info.outcome) == ("stopped", "completed"), over.info.reason
    found = sdk.get_series(group)
    assert sorted(point.values["num_clients"] for point in found.points) == [1, 2, 3]  # type: ignore[type-var]
    assert (found.outcome, found.of) == ("completed", 3)
    root = Path(over.info.run_dir or "")
    for point in found.points:
        run = json.loads((root / "runs" / str(point.number) / "summary.json").read_bytes())
        assert (run["run_id"], run["group_id"]) == (point.run_id, group)
    assert sdk.results(group).run_id == found.points[-1].run_id
    assert "Every run" in sdk.get_report(group)
    assert not (root / "secrets.json").exists()
    shown = up.stage.command("group", "series", str(group), "--client-url", up.client)
    assert shown.code == 0, shown
    assert "3 of 3 runs" in shown.out


def test_a_series_that_is_stopped_keeps_what_it_has(sdk: Client, engine: str) -> None:
    group = create(sdk, engine, {"sweep": {"num_clients": [1, 2, 3, 4]}}, duration_seconds=2.0)
    wait_for(lambda: points_of(sdk, group), "no point came")
    sdk.stop_group(group)
    over = sdk.wait_until_stopped(group, seconds=60)
    found = sdk.get_series(group)
    assert found.outcome == "cancelled"
    assert 1 <= len(found.points) < 4
    assert over.info.outcome == "cancelled"


def test_a_run_that_makes_no_sense_is_a_422_that_says_which(sdk: Client, engine: str) -> None:
    with pytest.raises(ApiError, match="`nothing` is no field that a series can vary") as refused:
        create(sdk, engine, {"sweep": {"nothing": [1]}})
    assert refused.value.status == 422
    with pytest.raises(ApiError, match="objectives") as refused:
        create(sdk, engine, {"search": {"field": "num_clients"}})
    assert refused.value.status == 422


def test_what_is_no_series_has_none(sdk: Client, engine: str) -> None:
    group = sdk.create_group(
        service_id=engine, num_clients=1, prompts=["hello"], max_tokens=2, duration_seconds=0.5
    ).group_id
    sdk.wait_until_stopped(group, seconds=60)
    with pytest.raises(ApiError, match="was no series") as refused:
        sdk.get_series(group)
    assert refused.value.status == 404


def test_the_command_line_watches_a_series_to_its_end(up: Up, engine: str) -> None:
    options = ("--repeats", "2", "--duration", "1", "--max-tokens", "4", "--watch", "--client-url", up.client)
    ended = up.stage.command("group", "create", engine, *options)
    assert ended.code == 0, ended
    assert "2 of 2 runs" in ended.out


def points_of(sdk: Client, group: int) -> dict[str, Any] | None:
    """The series so far, once it has a point."""
    try:
        found = sdk.get_series(group)
    except ApiError:  # 409, before there is one
        return None
    return {"outcome": found.outcome, "points": found.points} if found.points else None
