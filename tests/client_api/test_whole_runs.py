"""Groups over the real local scheduler, the real load generator and the simulator: what users see from first to last."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from groups import GROUPS
from running import Engine, Stage, wait_for

API = Path(__file__).with_name("api_process.py")
LOAD = {"service_id": "sim", "num_clients": 4, "requests_per_second": 20.0, "max_tokens": 4, "drain_seconds": 5.0}


@dataclass
class Api:
    """An API process and a caller of it."""

    process: subprocess.Popen[str]
    client: httpx.Client

    def create(self, **fields: Any) -> int:
        answer = self.client.post(GROUPS, json={**LOAD, "prompts": ["hello there"], **fields})
        assert answer.status_code == 201, answer.text
        group_id: int = answer.json()["group_id"]
        return group_id

    def info(self, group_id: int) -> dict[str, Any]:
        answer = self.client.get(f"{GROUPS}/{group_id}")
        assert answer.status_code == 200, answer.text
        info: dict[str, Any] = answer.json()["info"]
        return info

    def until(self, group_id: int, status: str) -> dict[str, Any]:
        return wait_for(
            lambda: found if (found := self.info(group_id))["status"] == status else None, f"never {status}"
        )

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.client.close()


Start = Callable[[Engine], Api]


@pytest.fixture
def start(stage: Stage) -> Iterator[Start]:
    """Starts an API, again and again over the same folder; what its groups started ends with the test."""
    apis: list[Api] = []

    def begin(engine: Engine) -> Api:
        apis.append(_start(stage, engine))
        return apis[-1]

    yield begin
    for api in apis:
        api.client.close()
    for address in (stage.folder / "cluster" / "runs").glob("*/address.json"):
        pid = json.loads(address.read_bytes())["pid"]
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if str(address.parent) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)


def _start(stage: Stage, engine: Engine) -> Api:
    tests = str(Path(__file__).parents[1])
    argv = [sys.executable, str(API), str(stage.folder), engine.url]
    process = stage.popen(argv, stdout=subprocess.PIPE, env=stage.environment(PYTHONPATH=tests))
    assert process.stdout
    url = process.stdout.readline().strip()
    assert url, "the API did not start"
    return Api(process, httpx.Client(base_url=url, trust_env=False, timeout=30))


def test_a_group_runs_to_its_end_and_gives_results_rows_report_logs_and_metrics(stage: Stage, start: Start) -> None:
    api = start(stage.simulate())
    hostile = "'; touch /tmp/x; $(id) `id` \"\n<script>alert(1)</script> é\u2028"
    group = api.create(duration_seconds=2.0, name=hostile, labels={hostile: hostile}, prompts=[hostile], seed=5)
    running = api.until(group, "running")
    assert running["outcome"] is None
    assert api.client.get(f"{GROUPS}/{group}/results").status_code == 409
    with api.client.stream("GET", f"{GROUPS}/{group}/events") as events:
        seen = [line.removeprefix("event: ") for line in events.iter_lines() if line.startswith("event: ")]
    assert seen[0] == "status"
    assert "progress" in seen
    assert seen[-2:] == ["status", "done"]
    info = api.until(group, "stopped")
    assert (info["outcome"], info["reason"]) == ("completed", "")
    assert info["progress"]["succeeded"] == 40
    assert info["progress"]["age_seconds"] is None
    summary = api.client.get(f"{GROUPS}/{group}/results").json()
    assert (summary["group_id"], summary["counts"]["succeeded"]) == (group, 40)
    plan = json.loads((Path(info["run_dir"]) / "plan.json").read_bytes())
    assert (plan["name"], plan["labels"], plan["prompts"]["prompts"]) == (hostile, {hostile: hostile}, [hostile])
    rows = api.client.get(f"{GROUPS}/{group}/requests")
    assert [json.loads(line)["seq"] for line in rows.text.splitlines()] == sorted(range(40))
    table = api.client.get(f"{GROUPS}/{group}/requests", headers={"accept": "text/csv"}).text.splitlines()
    assert len(table) == 41
    assert api.client.get(f"{GROUPS}/{group}/requests", params={"format": "parquet"}).status_code in {200, 406}
    report = api.client.get(f"{GROUPS}/{group}/report")
    assert "SIMULATED ENGINE" in report.text
    assert report.headers["content-security-policy"].startswith("sandbox ")
    assert "40 of 40 scheduled" in report.text
    assert f'client_requests_total{{group_id="{group}"}} 40' in api.client.get(f"{GROUPS}/{group}/metrics").text
    logs = api.client.get(f"{GROUPS}/{group}/logs").json()
    assert "summary.json" in logs["logs"]
    assert api.client.get(f"{GROUPS}/{group}/logs", params={"after": logs["next"]}).json()["logs"] == ""
    assert not (Path(info["run_dir"]) / "secrets.json").exists()
    targets = api.client.get(f"{GROUPS}/targets").json()
    assert targets[0]["labels"]["__metrics_path__"] == f"{GROUPS}/{group}/metrics"


def test_killing_the_api_ten_times_during_a_run_leaves_complete_results(stage: Stage, start: Start) -> None:
    engine = stage.simulate()
    api = start(engine)
    group = api.create(duration_seconds=600.0)
    for _ in range(10):
        api.kill()
        api = start(engine)
        assert api.info(group)["status"] in {"pending", "running"}
    wait_for(lambda: (api.info(group)["progress"] or {}).get("succeeded"), "no answers")
    assert api.client.post(f"{GROUPS}/{group}/stop").status_code == 200
    assert api.until(group, "stopped")["outcome"] == "cancelled"
    counts = api.client.get(f"{GROUPS}/{group}/results").json()["counts"]
    assert counts["scheduled"] == counts["sent"] == counts["succeeded"] > 0
    assert len(list((stage.folder / "cluster" / "jobs").iterdir())) == 1
    assert api.client.get(GROUPS).json() == {"groups": [group], "count": 1}


def test_a_group_that_ended_while_the_api_was_away_gets_its_outcome(stage: Stage, start: Start) -> None:
    engine = stage.simulate()
    api = start(engine)
    group = api.create(duration_seconds=1.0)
    run = Path(api.until(group, "running")["run_dir"])
    api.kill()
    wait_for(lambda: (run / "summary.json").exists() or None, "the run goes on without the API")
    api = start(engine)
    assert api.until(group, "stopped")["outcome"] == "completed"


def test_a_stopped_group_drains_and_keeps_everything(stage: Stage, start: Start) -> None:
    api = start(stage.simulate())
    group = api.create(duration_seconds=300.0)
    wait_for(lambda: (api.info(group)["progress"] or {}).get("succeeded"), "no answers")
    assert api.client.post(f"{GROUPS}/{group}/stop").json() == {"status": "stopping", "group_id": group}
    info = api.until(group, "stopped")
    assert (info["outcome"], info["reason"]) == ("cancelled", "stopped")
    counts = api.client.get(f"{GROUPS}/{group}/results").json()["counts"]
    assert counts["succeeded"] == counts["sent"] > 0


def test_held_groups_start_at_one_moment(stage: Stage, start: Start) -> None:
    api = start(stage.simulate())
    groups = [api.create(duration_seconds=1.0, start="manual", num_clients=1, requests_per_second=5.0) for _ in "ab"]
    for group in groups:
        wait_for(lambda group=group: (api.info(group)["progress"] or {}).get("phase") == "holding", "it never held")  # type: ignore[misc]
    status = Path(api.info(groups[1])["run_dir"]) / "status.json"
    wait_for(status.exists, "its launcher never wrote anything")
    held = json.loads(status.read_bytes())["at"]
    wait_for(lambda: json.loads(status.read_bytes())["at"] != held, "its launcher fell silent")
    assert [api.info(group)["progress"]["age_seconds"] for group in groups] == [None, None]
    answer = api.client.post(f"{GROUPS}/run", json={"group_ids": groups})
    assert answer.status_code == 200, answer.text
    starts = []
    for group in groups:
        assert api.until(group, "stopped")["outcome"] == "completed"
        starts.append(api.client.get(f"{GROUPS}/{group}/results").json()["started_at"])
    first, second = map(datetime.fromisoformat, starts)
    assert abs((first - second).total_seconds()) < 0.5
    again = api.client.post(f"{GROUPS}/run", json={"group_ids": groups})
    assert again.status_code == 409


def test_a_group_that_is_not_ready_at_the_common_start_says_how_late_it_was(stage: Stage, start: Start) -> None:
    api = start(stage.simulate())
    group = api.create(duration_seconds=1.0, start="manual")
    moment = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()
    assert api.client.post(f"{GROUPS}/{group}/run", json={"start_at": moment}).status_code == 200
    info = api.until(group, "stopped")
    assert info["outcome"] == "completed"
    assert re.fullmatch(r"it started \d+\.\d s after the moment for which it was released: .*", info["reason"])
    assert info["reason"].partition(" after")[0] in str(
        api.client.get(f"{GROUPS}/{group}/results").json()["environment"]["notes"]
    )


def test_a_group_whose_engine_dies_ends_by_itself_with_its_failures_counted(stage: Stage, start: Start) -> None:
    engine = stage.simulate()
    api = start(engine)
    group = api.create(duration_seconds=300.0)
    wait_for(lambda: (api.info(group)["progress"] or {}).get("succeeded"), "no answers")
    engine.stop()
    info = api.until(group, "stopped")
    assert info["outcome"] == "failed"
    assert "the service died" in info["reason"]
    counts = api.client.get(f"{GROUPS}/{group}/results").json()["counts"]
    assert counts["failed"] > 0
    assert counts["succeeded"] > 0


@pytest.mark.parametrize("purge", [True, False])
def test_a_deleted_group_is_stopped_and_off_the_list_its_files_stay_unless_purged(
    stage: Stage, start: Start, *, purge: bool
) -> None:
    api = start(stage.simulate())
    group = api.create(duration_seconds=300.0)
    run = Path(api.until(group, "running")["run_dir"])
    answer = api.client.delete(f"{GROUPS}/{group}", params={"purge": purge})
    assert answer.json() == {"status": "deleted", "group_id": group}
    assert api.client.get(f"{GROUPS}/{group}").status_code == 404
    assert api.client.get(GROUPS).json()["groups"] == []
    if purge:
        wait_for(lambda: not run.exists() or None, "its files stayed")
    else:
        wait_for(lambda: not (run / "secrets.json").exists() or None, "it never ended")
        assert (run / "plan.json").exists()
