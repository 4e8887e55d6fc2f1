"""A replica sees its share of the job's GPUs, of whichever vendor, and its engine is known where a container put it."""

import json
import signal
import sys
from pathlib import Path

import pytest

from running import Stage, alive, wait_for
from tokenstorm.errors import UsageError
from tokenstorm.node.devices import Vendor, shared_out
from wrapped import KEY, Service

NOWHERE = Path("/nonexistent")


def second(environment: dict[str, str], vendor: Vendor | None = None, dev: Path = NOWHERE) -> dict[str, str]:
    """What the second of two replicas with two GPUs each sees."""
    return shared_out(environment, vendor, index=1, count=2, replicas=2, dev=dev)


@pytest.mark.parametrize(
    ("vendor", "given", "seen"),
    [
        (None, {}, {"CUDA_VISIBLE_DEVICES": "2,3"}),
        (None, {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, {"CUDA_VISIBLE_DEVICES": "6,7"}),
        (None, {"ROCR_VISIBLE_DEVICES": "4,5,6,7"}, {"ROCR_VISIBLE_DEVICES": "6,7"}),
        (None, {"ZE_AFFINITY_MASK": "0.0,0.1,1.0,1.1"}, {"ZE_AFFINITY_MASK": "1.0,1.1"}),
        ("amd", {}, {"ROCR_VISIBLE_DEVICES": "2,3"}),
        ("amd", {"HIP_VISIBLE_DEVICES": "1,2,3,4"}, {"ROCR_VISIBLE_DEVICES": "3,4"}),
        ("intel", {"CUDA_VISIBLE_DEVICES": "7"}, {"CUDA_VISIBLE_DEVICES": "7", "ZE_AFFINITY_MASK": "2,3"}),
    ],
)
def test_a_replica_gets_its_share_by_its_vendors_variable(
    vendor: Vendor | None, given: dict[str, str], seen: dict[str, str]
) -> None:
    assert second(given, vendor) == seen


def test_with_the_variables_of_all_vendors_the_devices_tell(tmp_path: Path) -> None:
    """Slurm sets all three where it was not told which GPUs it has. HIP counts what ROCR left: one of them has to go."""
    given = dict.fromkeys(("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"), "0,1,2,3")
    assert second(given)["CUDA_VISIBLE_DEVICES"] == "2,3"
    (tmp_path / "kfd").touch()
    assert second(given, dev=tmp_path) == {"ROCR_VISIBLE_DEVICES": "2,3", "ZE_AFFINITY_MASK": "0,1,2,3"}


def test_too_few_of_them_are_told() -> None:
    with pytest.raises(UsageError, match="replica 1 needs 2 GPUs, and the job has 3 for 2 replicas"):
        second({"ROCR_VISIBLE_DEVICES": "0,1,2"})


APART = """
import os, subprocess, sys
# As podman does: what it runs is no child of its own, in a session of its own, and lives on when it is killed.
command = sys.argv[1:]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp(command[0], command)
    os._exit(0)
os.wait()
import time
time.sleep(600)
"""


def test_an_engine_that_its_runtime_started_elsewhere_is_ours_and_ends_with_the_service(stage: Stage) -> None:
    script = stage.folder / "apart.py"
    script.write_text(APART)
    engine = [sys.executable, "-m", "tokenstorm.simulator", "--preset", "fast", "--host", "{host}", "--port", "{port}"]
    command = [sys.executable, str(script), *engine, "--api-key-env", "ENGINE_KEY"]
    service = Service(stage, command=command).start()
    service.reaches("running")
    assert service.answers() == 200
    mark = b"TOKENSTORM_REPLICA=service."
    ours = [int(path.name) for path in Path("/proc").glob("[0-9]*") if mark in environ(path)]
    assert len(ours) >= 2
    service.process.terminate()
    assert service.process.wait(60) == 128 + signal.SIGTERM
    wait_for(lambda: not any(alive(pid) for pid in ours), "the engine ends with the service")


def environ(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


SHOWS = """
import http.server, json, os, sys
open(sys.argv[2], "w").write(json.dumps(dict(os.environ)))
"""


def test_caches_are_made_and_said_in_the_runtimes_way_unless_somebody_said_otherwise(stage: Stage) -> None:
    script, shown, cache = stage.folder / "engine.py", stage.folder / "shown", stage.folder / "cache"
    script.write_text(SHOWS)
    caches = {"VLLM_CACHE_ROOT": str(cache / "vllm"), "TRITON_CACHE_DIR": str(cache / "triton")}
    service = Service(
        stage,
        command=[sys.executable, str(script), "{port}", str(shown)],
        caches=caches,
        container_prefix="APPTAINERENV_",
    ).start(TRITON_CACHE_DIR="/mine")
    wait_for(shown.exists, "the engine was started")
    service.process.wait(60)
    seen = json.loads(shown.read_text())
    assert seen["VLLM_CACHE_ROOT"] == seen["APPTAINERENV_VLLM_CACHE_ROOT"] == str(cache / "vllm")
    assert seen["TRITON_CACHE_DIR"] == seen["APPTAINERENV_TRITON_CACHE_DIR"] == "/mine"
    assert seen["APPTAINERENV_ENGINE_KEY"] == KEY
    assert (cache / "vllm").is_dir()
