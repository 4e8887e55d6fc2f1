"""Groups over four nodes of a real Slurm: what users see from first to last."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grouplab import Groups, cancel_everything, groups
from running import Stage, Truth
from waiting import finish

pytestmark = pytest.mark.usefixtures("calm")


@pytest.fixture
def calm(slurm: Path) -> Iterator[None]:
    """No job of one test is there in the next."""
    yield
    cancel_everything(slurm)


def counted_again(stage: Stage, run: Path) -> dict[str, Any]:
    """The summary of a run, made anew from its result lines."""
    ended = stage.command("report", str(run), "--rebuild", "--json")
    assert ended.err == ""
    summary: dict[str, Any] = json.loads(ended.out)
    return summary


def each_was_sent_once(truth: Truth, run_id: str, rows: list[dict[str, Any]], scheduled: int) -> None:
    """At the endpoint, by request id: every arrival of the schedule, and each of them once."""
    received = {name: len(times) for name, times in truth.requests().items() if name.startswith(run_id)}
    assert received == {f"{run_id}-{seq}": 1 for seq in range(scheduled)}
    assert sorted(row["seq"] for row in rows) == list(range(scheduled))


@pytest.mark.parametrize(("ranks", "spread"), [(4, [1, 1, 1, 1]), (6, [1, 1, 2, 2]), (2, [1, 1])])
def test_one_schedule_is_striped_over_ranks_on_many_nodes(
    tmp_path: Path, stage: Stage, ranks: int, spread: list[int]
) -> None:
    truth = stage.truth()

    async def work() -> None:
        async with groups(tmp_path, truth.url) as api:
            group = await api.create(ranks=ranks)
            info = await api.stopped(group)
            assert (info["outcome"], info["reason"]) == ("completed", "")
            summary, rows = await api.summary(group), await api.rows(group)
            assert summary["counts"] | {"failed_by_kind": {}} == {
                "scheduled": 40,
                "sent": 40,
                "succeeded": 40,
                "failed": 0,
                "unsent": 0,
                "censored": 0,
                "resent": 0,
                "failed_by_kind": {},
            }
            on = [report["host"] for report in summary["ranks"]]
            assert sorted(on.count(node) for node in set(on)) == spread
            assert {row["rank"] for row in rows} == set(range(ranks))
            await the_same_from_the_lines(api, stage, info, summary)
            metrics = (await api.get(f"/{group}/metrics")).text
            assert f'client_requests_total{{group_id="{group}"}} 40' in metrics
            assert api.run(info).stderr == ""
            each_was_sent_once(truth, info["run_id"], rows, 40)

    finish(work(), 120)


async def the_same_from_the_lines(api: Groups, stage: Stage, info: dict[str, Any], summary: dict[str, Any]) -> None:
    """Counts, rates and percentiles follow from the lines of all ranks."""
    again = counted_again(stage, api.run(info).root)
    for part in ("counts", "rates", "tokens", "metrics"):
        assert again[part] == summary[part], part


@pytest.mark.parametrize(("colocate", "nodes"), [(False, {"n1", "n3", "n4"}), (True, {"n1", "n2", "n3", "n4"})])
def test_clients_keep_off_the_engines_nodes_unless_they_may_share_them(
    tmp_path: Path, stage: Stage, colocate: bool, nodes: set[str]
) -> None:
    engine = stage.simulate()

    async def work() -> None:
        async with groups(tmp_path, engine.url) as api:
            api.services.replica = "n2.0"
            group = await api.create(colocate=colocate, nodes=len(nodes), ranks=len(nodes), duration_seconds=1.0)
            await api.stopped(group)
            summary = await api.summary(group)
            assert {report["host"] for report in summary["ranks"]} == set(summary["environment"]["hosts"]) == nodes

    finish(work(), 120)
