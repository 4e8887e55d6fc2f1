"""Groups over four nodes of a real Slurm: what users see from first to last."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grouplab import LOAD, Groups, Late, Walled, cancel_everything, groups, kill, processes_of, same
from groups import GROUPS
from running import Stage, Truth
from tokenstorm.errors import Unreachable
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
                "cancelled": 0,
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
        assert same(again[part], summary[part]), part


@pytest.mark.parametrize(
    ("colocate", "engines", "nodes"),
    [(False, (), {"n1", "n3", "n4"}), (True, (), {"n1", "n2", "n3", "n4"}), (False, ("n2", "n3"), {"n1", "n4"})],
    ids=["apart", "colocated", "apart from an engine over two nodes"],
)
def test_clients_keep_off_the_engines_nodes_unless_they_may_share_them(
    tmp_path: Path, stage: Stage, colocate: bool, engines: tuple[str, ...], nodes: set[str]
) -> None:
    engine = stage.simulate()

    async def work() -> None:
        async with groups(tmp_path, engine.url) as api:
            api.services.replica, api.services.nodes = "n2.0", engines
            group = await api.create(colocate=colocate, nodes=len(nodes), ranks=len(nodes), duration_seconds=1.0)
            await api.stopped(group)
            summary = await api.summary(group)
            assert {report["host"] for report in summary["ranks"]} == set(summary["environment"]["hosts"]) == nodes

    finish(work(), 120)


def test_more_nodes_than_the_engine_leaves_are_refused_with_a_way_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with groups(tmp_path, "http://127.0.0.1:9") as api:
            api.services.replica = "n2.0"
            refused = await api.client.post(GROUPS, json={**LOAD, "nodes": 4})
            assert refused.status_code == 422
            assert "the engine's nodes (n2) are left out: `colocate` lifts that" in refused.json()["detail"]
            assert (await api.get("")).json()["groups"] == []

    finish(work(), 60)


def test_more_nodes_than_there_are_pend_for_ever_with_what_to_do_and_leave_nothing_to_fetch(tmp_path: Path) -> None:
    async def work() -> None:
        async with groups(tmp_path, "http://127.0.0.1:9") as api:
            group = await api.create(nodes=99, ranks=99, num_clients=99)
            info = await api.until(group, lambda info: "ask for fewer nodes" in info["reason"])
            assert info["reason"].startswith("Partition")
            await api.post(f"/{group}/stop")
            info = await api.stopped(group)
            assert (info["outcome"], info["reason"]) == ("cancelled", "stopped")

    finish(work(), 60)


def test_results_logs_and_reports_come_home_and_can_be_fetched_again(tmp_path: Path, stage: Stage) -> None:
    engine = stage.simulate()

    async def work() -> None:
        async with groups(tmp_path, engine.url) as api:
            group = await api.create(duration_seconds=1.0)
            info = await api.stopped(group)
            there, home = api.run(info).root, api.home(info).root
            logs = (await api.get(f"/{group}/logs")).json()
            assert "summary.json" in logs["logs"]
            names = {path.name for path in home.iterdir()}
            came = names - {"report.html"}  # which is made here
            assert came == {path.name for path in there.iterdir()} - {"address.json", "job.id", "job.started"}
            assert {
                "report.html",
                "summary.json",
                "script.sh",
                "stdout.log",
                *(f"results.{rank}.0.jsonl" for rank in range(4)),
            } <= names
            before = await api.summary(group), await api.rows(group)
            shutil.rmtree(home)
            assert (await api.summary(group), await api.rows(group)) == before
            shutil.rmtree(home)
            assert (await api.get(f"/{group}/logs")).json() == logs
            shutil.rmtree(there)
            assert (await api.summary(group), await api.rows(group)) == before
            assert (await api.get(f"/{group}/report")).status_code == 200

    finish(work(), 120)


def test_secrets_are_never_brought_home_and_do_not_stay(tmp_path: Path, stage: Stage) -> None:
    engine = stage.simulate()

    async def work() -> None:
        async with groups(tmp_path, engine.url) as api:
            group = await api.create(duration_seconds=30.0, api_key="sesame-open")
            info = await api.sending(group)
            for pid in processes_of(info, "tokenstorm.loadgen", "run"):
                kill(pid)
            info = await api.stopped(group)
            for folder in (api.run(info).root, api.home(info).root):
                assert not (folder / "secrets.json").exists()
                assert not [path for path in folder.iterdir() if b"sesame-open" in path.read_bytes()]

    finish(work(), 120)


@pytest.mark.parametrize("killed", [False, True])
def test_a_file_system_that_shows_files_late_loses_nothing(tmp_path: Path, stage: Stage, killed: bool) -> None:
    truth = stage.truth()
    late = Late(4.0)

    async def work() -> None:
        async with groups(tmp_path, truth.url, shell=late) as api:
            group = await api.create(duration_seconds=20.0 if killed else 2.0)
            info = await api.sending(group, 40 if killed else 0)
            for pid in processes_of(info, "tokenstorm.loadgen", "run") if killed else ():
                kill(pid)
            info = await api.stopped(group)
            assert "results.0.0.jsonl" in late.withheld
            assert info["outcome"] == ("failed" if killed else "completed")
            rows, summary = await api.rows(group), await api.summary(group)
            assert len(rows) == len(api.run(info).lines())
            assert summary["counts"]["succeeded"] == sum(row["error"] is None and row["done"] > 0 for row in rows)
            if not killed:
                each_was_sent_once(truth, info["run_id"], rows, 40)

    finish(work(), 120)


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "prohibited"), Unreachable("no way in")], ids=["a", "b"])
def test_where_a_site_lets_nothing_through_files_do(tmp_path: Path, stage: Stage, error: Exception) -> None:
    engine = stage.simulate()

    async def work() -> None:
        async with groups(tmp_path, engine.url, shell=Walled(error)) as api:
            group = await api.create(start="manual", duration_seconds=60.0)
            await api.until(group, lambda info: (info["progress"] or {}).get("phase") == "holding")
            await api.post(f"/{group}/run")
            info = await api.sending(group)
            assert info["progress"]["phase"] == "measured"
            await api.until(group, lambda info: info["progress"]["age_seconds"])
            metrics = (await api.get(f"/{group}/metrics")).text
            assert f'client_requests_total{{group_id="{group}"}}' in metrics
            assert (await api.post(f"/{group}/stop")).status_code == 200
            info = await api.stopped(group)
            assert (info["outcome"], info["reason"]) == ("cancelled", "stopped")
            counts = (await api.summary(group))["counts"]
            assert counts["succeeded"] == counts["sent"] >= 10

    finish(work(), 120)


def test_several_groups_start_at_one_moment(tmp_path: Path, stage: Stage) -> None:
    truth = stage.truth()

    async def work() -> None:
        async with groups(tmp_path, truth.url) as api:
            ids = [await api.create(start="manual", nodes=2, ranks=2) for _ in range(2)]
            for group in ids:
                await api.until(group, lambda info: (info["progress"] or {}).get("phase") == "holding")
            assert (await api.post("/run", group_ids=ids)).status_code == 200
            infos = [await api.stopped(group) for group in ids]
            assert [info["outcome"] for info in infos] == ["completed", "completed"]
            received = {name: times[0]["received"] for name, times in truth.requests().items()}
            starts = []
            for group, info in zip(ids, infos, strict=True):
                rows = await api.rows(group)
                assert len(rows) == 40
                starts.append(min(received[f"{info['run_id']}-{row['seq']}"] - row["scheduled"] for row in rows))
            assert abs(starts[0] - starts[1]) < 250_000_000

    finish(work(), 120)
