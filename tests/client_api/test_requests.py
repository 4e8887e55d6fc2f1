"""What a request may say: the specification's are taken as they stand, what is wrong is refused with its field named."""

import json
from pathlib import Path
from typing import Any

import pytest

from groups import GROUPS, SMALL, Services, api
from tokenstorm.api.groups import GroupRequest, signal_lead
from tokenstorm.client_api.services import ServiceInfo
from tokenstorm.load import make
from waiting import finish

BASIC = {
    "service_id": "abc",
    "num_clients": 10,
    "requests_per_second": 2.0,
    "duration_seconds": 60,
    "prompts": ["Write a poem about AI.", "Explain machine learning.", "What is deep learning?"],
    "max_tokens": 100,
    "time_limit": 10,
}
STRESS = {
    "service_id": "abc",
    "num_clients": 100,
    "requests_per_second": 50.0,
    "duration_seconds": 300,
    "prompts": ["Test prompt"] * 10,
    "max_tokens": 200,
    "time_limit": 20,
}


@pytest.mark.parametrize("request_", [BASIC, STRESS], ids=["basic", "stress"])
def test_the_specifications_requests_are_taken_as_they_stand(request_: dict[str, Any], tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path, services=Services({"abc": ServiceInfo(status="running", engine="vllm")})) as it:
            answer = await it.post(**request_)
            assert answer.status_code == 201
            assert answer.json()["status"] == "created"
            assert answer.json()["num_clients"] == request_["num_clients"]
            config = (await it.info(answer.json()["group_id"]))["load_config"]
            assert {name: config[name] for name in request_} == request_
            assert it.jobs.submits[0].time_limit_minutes == request_["time_limit"]

    finish(work())


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("num_clients", {"num_clients": 0}),
        ("num_clients", {"num_clients": 1001}),
        ("num_clients", {"num_clients": 2001, "nodes": 2}),
        ("num_clients", {"num_clients": "2"}),
        ("num_clients", {"num_clients": None}),
        ("nodes", {"nodes": 3}),
        ("requests_per_second", {"requests_per_second": 0}),
        ("requests_per_second", {"requests_per_second": float("nan")}),
        ("requests_per_second", {"requests_per_second": float("inf")}),
        ("requests_per_second", {"requests_per_second": 1, "arrival": {"ramp": {"from_rps": 1, "to_rps": 2}}}),
        ("duration_seconds", {"duration_seconds": -1}),
        ("duration_seconds", {"duration_seconds": 5, "arrival": {"stages": [{"rps": 1, "seconds": 6}]}}),
        ("temperature", {"temperature": 2.1}),
        ("temperature", {"temperature": float("nan")}),
        ("prompts", {"prompts": []}),
        ("prompts.0", {"prompts": [""]}),
        ("prompts", {"prompts": ["fine", " \n"]}),
        ("prompts", {"prompts": None}),
        ("prompts", {"prompts": ["x" * 1000] * 10_000}),
        ("prompts", {"synthetic": {"words": 5}}),
        ("synthetic", {"prompts": None, "synthetic": {}}),
        ("synthetic", {"prompts": None, "synthetic": {"words": {"kind": "uniform", "low": 9, "high": 3}}}),
        ("synthetic", {"prompts": None, "synthetic": {"output": 5}}),
        ("synthetic", {"prompts": None, "synthetic": {"mix": [{"input": 1, "output": 2}], "output": 5}}),
        ("synthetic", {"prompts": None, "synthetic": {"input": {"kind": "histogram", "bins": []}}}),
        ("endpoint", {"prompts": None, "synthetic": {"tokens": 5}, "endpoint": "chat"}),
        ("dataset", {"prompts": None, "dataset": "../../etc/passwd"}),
        ("time_limit", {"time_limit": 4}),
        ("time_limit", {"time_limit": "4:00"}),
        ("time_limit", {"time_limit": "soon"}),
        ("time_limit", {"time_limit": True}),
        ("time_limit", {"time_limit": 10, "start": "manual", "hold_seconds": 600}),
        ("time_limit", {"time_limit": 5, "warmup_seconds": 1}),
        ("time_limit", {"time_limit": 3, "request_count": 600}),
        ("arrival", {"arrival": "sometimes"}),
        ("arrival", {"arrival": "poisson"}),
        ("arrival.stages.0.rps", {"arrival": {"stages": [{"rps": "many", "seconds": 6}]}}),
        ("seed", {"seed": -1}),
        ("ranks", {"ranks": 3}),
        ("api_key", {"api_key": "nö"}),
        ("api_key", {"api_key": "key\r\nx-header: of its own"}),
        ("extra_body", {"extra_body": {"x": "\ud800"}}),
        ("name", {"name": "\ud800"}),
        ("extra_body", {"extra_body": {"deep": {"x": float("nan")}}}),
        ("target_url", {"target_url": "ftp://x"}),
        ("target_url", {"target_url": "http://user:secret@x"}),
        ("service_id", {"service_id": "both"}),
        ("service_id", {"target_url": None}),
        ("via", {"via": "orchestrator"}),
        ("num_cliënts", {"num_cliënts": 5}),
    ],
)
def test_what_is_wrong_is_refused_with_its_field_named(field: str, changes: dict[str, Any], tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            body = json.dumps({**SMALL, **changes})
            answer = await it.client.post(GROUPS, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 422, answer.text
            named = {error["field"] for error in answer.json()["errors"]}
            assert any(name == field or name.startswith(f"{field}.") for name in named), answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert it.jobs.submits == []
            assert (await it.get()).json()["count"] == 0

    finish(work())


@pytest.mark.parametrize(
    ("fields", "minutes"),
    [
        ({}, 5),  # 120 to start + 60 + 30 to drain + 90 to end = 300 s
        ({"duration_seconds": 61}, 6),
        ({"time_limit": "1:30:00"}, 90),
        ({"time_limit": "1-0"}, 1440),
        ({"start": "manual", "hold_seconds": 600}, 15),
        ({"request_count": 600, "requests_per_second": 10}, 5),
        ({"request_count": 600}, 60),  # a closed loop: nobody can tell
        ({"request_count": 600, "start": "manual", "hold_seconds": 7200}, 180),
        ({"arrival": {"stages": [{"rps": 1, "seconds": 60}, {"rps": 2, "seconds": 60}]}}, 6),
    ],
)
def test_a_time_limit_that_is_not_given_holds_the_whole_run(fields: dict[str, Any], minutes: int) -> None:
    assert make({**SMALL, **fields}, GroupRequest).minutes == minutes


def test_a_dataset_is_read_from_the_profiles_folder_and_pinned(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            missing = await it.post(**{**SMALL, "prompts": None, "dataset": "q.jsonl"})
            assert missing.status_code == 422
            assert "there is none" in missing.json()["detail"]
            assert [error["field"] for error in missing.json()["errors"]] == ["dataset"]
            folder = tmp_path / "cluster" / "datasets"
            (folder / "q.jsonl").mkdir(parents=True)
            is_one = await it.post(**{**SMALL, "prompts": None, "dataset": "q.jsonl"})
            assert (is_one.status_code, is_one.json()["errors"][0]["field"]) == (422, "dataset")
            assert "is a folder" in is_one.json()["detail"]
            (folder / "q.jsonl").rmdir()
            (folder / "q.jsonl").write_text('{"prompt": "why?"}\n{"oops": 1}\n')
            wrong = await it.post(**{**SMALL, "prompts": None, "dataset": "q.jsonl"})
            assert wrong.status_code == 422
            assert "q.jsonl, line 2" in wrong.json()["detail"]
            (folder / "q.jsonl").write_text('[{"instruction": "why?", "output": "so"}]')
            foreign = await it.post(**{**SMALL, "prompts": None, "dataset": "q.jsonl"})
            assert (foreign.status_code, foreign.json()["errors"][0]["field"]) == (422, "dataset")
            assert f"{folder / 'q.jsonl'} is a JSON array that looks like instructions" in foreign.json()["detail"]
            (folder / "q.jsonl").write_text('{"prompt": "why?"}\n')
            group = await it.create(prompts=None, dataset="q.jsonl")
            plan = json.loads((Path((await it.info(group))["run_dir"]) / "plan.json").read_bytes())
            assert plan["prompts"]["path"] == str(folder / "q.jsonl")

    finish(work())


def test_a_trace_is_read_from_the_same_folder_and_tells_the_job_how_long_it_takes(tmp_path: Path) -> None:
    trace = Path(__file__).parents[1] / "traces" / "mooncake.jsonl"
    replay: dict[str, Any] = {"prompts": None, "requests_per_second": None, "duration_seconds": None}

    async def work() -> None:
        async with api(tmp_path) as it:
            asked = {**SMALL, **replay, "trace": {"path": "t.jsonl", "speed": 0.01}}
            missing = await it.post(**asked)
            assert [error["field"] for error in missing.json()["errors"]] == ["trace.path"]
            outside = await it.post(**{**asked, "trace": {"path": "../t.jsonl"}})
            assert [error["field"] for error in outside.json()["errors"]] == ["trace"]
            folder = tmp_path / "cluster" / "datasets"
            folder.mkdir(parents=True)
            (folder / "t.jsonl").write_text('{"prompt": "why?"}\n')
            foreign = await it.post(**asked)
            assert "is none of the traces that are read" in foreign.json()["detail"]
            (folder / "t.jsonl").write_bytes(trace.read_bytes())
            preview = await it.client.post(f"{GROUPS}/dry-run", json=asked)
            assert "the trace is not looked at" in preview.text
            created = await it.post(**asked)
            assert created.status_code == 201, created.text
            plan = json.loads((Path((await it.info(created.json()["group_id"]))["run_dir"]) / "plan.json").read_bytes())
            assert (plan["prompts"]["rows"], plan["duration_seconds"]) == (60, 1500.001)
            assert it.jobs.submits[-1].time_limit_minutes == 30  # 1500 s, and 120 + 30 + 90 around them

    finish(work())


def test_a_dataset_of_a_request_of_ones_own_has_the_fields_that_stand_in_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            folder = tmp_path / "cluster" / "datasets"
            folder.mkdir(parents=True)
            (folder / "v.jsonl").write_text('{"vector": [1]}\n')
            custom = {"path": "/search", "body": {"vector": "{vector}"}, "answer": {}}
            asked = {"prompts": None, "dataset": "v.jsonl", "endpoint": "custom", "custom": custom}
            await it.create(**asked)
            (folder / "v.jsonl").write_text('{"other": [1]}\n')
            wrong = await it.post(**{**SMALL, **asked})
            assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "custom")

    finish(work())


def test_keys_are_in_files_of_0600_and_nowhere_else(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create(api_key="sk-very-secret")
            info = await it.get(f"/{group}")
            assert "sk-very-secret" not in info.text
            run = Path(info.json()["info"]["run_dir"])
            assert (run / "secrets.json").stat().st_mode & 0o777 == 0o600
            assert json.loads((run / "secrets.json").read_bytes())["api_key"] == "sk-very-secret"
            holders = [
                path for path in tmp_path.rglob("*") if path.is_file() and b"sk-very-secret" in path.read_bytes()
            ]
            assert {path.stat().st_mode & 0o077 for path in holders} == {0}
            assert "sk-very-secret" not in " ".join(it.jobs.submits[0].command)
            assert "sk-very-secret" not in (run / "plan.json").read_text()

    finish(work())


@pytest.mark.parametrize("drain", [0.0, 30.0, 60.0, 90.5, 600.0])
def test_a_job_is_told_of_its_limit_early_enough_to_drain_and_late_enough_to_be_done(
    tmp_path: Path, drain: float
) -> None:
    """Slurm may tell it a minute earlier: then a run that took a minute of its start-up allowance is over all the same."""

    async def work() -> None:
        async with api(tmp_path) as it:
            await it.create(drain_seconds=drain, warmup_seconds=7.0, duration_seconds=50.0)
            (job,) = it.jobs.submits
            assert job.signal_lead_seconds >= max(90, drain + 30)
            told = job.time_limit_minutes * 60 - job.signal_lead_seconds - 60
            assert told >= 60 + 7 + 50

    finish(work())


def test_slurm_is_asked_for_no_lead_that_it_does_not_take() -> None:
    assert signal_lead(1e9) == 65_535
