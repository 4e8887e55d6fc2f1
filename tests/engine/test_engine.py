"""A real vLLM, started by the shipped recipe as a job of a real Slurm, and loaded by a group: `scripts/test engine`."""

import json
import os
import re
from pathlib import Path

import pytest

from running import Stage
from serving import Up, start_up

FOLDER = Path(os.environ.get("TOKENSTORM_TEST_ENGINE", Path(__file__).parents[2] / ".engine"))
START_SECONDS = 420.0
RUN_SECONDS = 180.0


def counted(metrics: str, name: str) -> float:
    """The sum of a counter of the engine over its labels."""
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE))


@pytest.fixture
def up(stage: Stage, lab: Path) -> Up:
    """`tokenstorm up` on the lab, whose jobs find the engine and its model."""
    if not (FOLDER / "stamp").exists():
        pytest.skip(f"no engine in {FOLDER}: scripts/test engine makes one")
    more = {
        "base_path": str(stage.folder / "base"),
        "model_dir": str(FOLDER / "models"),
        "offline": True,
        "prologue": [f'export PATH="{FOLDER}/venv/bin:$PATH"', "export VLLM_HOST_IP=127.0.0.1"],
    }
    lines = (lab.parent / "config.toml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("base_path")]
    kept[1:1] = [f"{key} = {json.dumps(value)}" for key, value in more.items()]
    config = stage.folder / "config.toml"
    config.write_text("\n".join(kept))
    return start_up(stage, "--profile", "lab", TOKENSTORM_CONFIG=str(config), SLURM_CONF=str(lab))


@pytest.mark.engine
def test_a_real_vllm_is_served_as_a_slurm_job_and_loaded_by_a_group(up: Up) -> None:
    """What the engine counted is what the group counted."""
    with up.sdk() as client:
        created = client.create_service("inference/vllm-cpu", {"model": "tiny", "kv_cache_gb": 1})
        service = client.wait_until_ready(created.id, seconds=START_SECONDS)
        assert (service.engine, service.model) == ("vllm", "tiny")
        before = client.get_service_metrics(service.id)
        group = client.create_group(
            service_id=service.id,
            num_clients=8,
            requests_per_second=4.0,
            duration_seconds=10.0,
            max_tokens=16,
            ignore_eos=True,
            prompts=["Say something about the weather on the sea."],
        )
        stopped = client.wait_until_stopped(group.group_id, seconds=RUN_SECONDS)
        assert stopped.info.outcome == "completed", stopped
        summary = client.results(group.group_id)
        after = client.get_service_metrics(service.id)
        client.stop_service(service.id)
    assert not summary.environment.simulated
    assert summary.counts.scheduled == summary.counts.succeeded == 40
    assert summary.tokens.output == 40 * 16
    assert counted(after, "vllm:request_success_total") - counted(before, "vllm:request_success_total") >= 40
    generated = counted(after, "vllm:generation_tokens_total") - counted(before, "vllm:generation_tokens_total")
    assert generated >= summary.tokens.output
    assert up.stop().code == 0


@pytest.mark.engine
def test_a_real_vllm_over_two_nodes_is_one_replica_and_ends_with_its_parts(up: Up) -> None:
    """The nodes share each layer: on CPUs a second stage of the pipeline stops at an assertion of vLLM's own."""
    config = {
        "model": "tiny",
        "dtype": "bfloat16",
        "enforce_eager": True,
        "max_model_len": 512,
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "resources": {"nodes": 2, "gpu": 0, "cpu": 1, "memory": "8G"},
        "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"},
    }
    with up.sdk() as client:
        created = client.create_service("inference/vllm-multi-node", config)
        service = client.wait_until_ready(created.id, seconds=START_SECONDS)
        assert (service.engine, service.total_replicas, len(service.nodes)) == ("vllm", 1, 2)
        said = client.prompt(service.id, "Say something about the weather on the sea.", max_tokens=16)
        assert said.success, said
        for node in service.nodes:
            assert "rank" in client.get_service_logs(service.id, source=f"{node}.0").logs
        client.stop_service(service.id)
    assert up.stop().code == 0
