"""What a node's GPUs say reaches the run, from whatever reads them, and the energy of the run is the true one."""

import asyncio
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from driver import install_driver, true_joules
from running import Run, Stage, alive, fetch, wait_for
from tokenstorm.errors import RunError
from tokenstorm.metrics.energy import GpuReading
from tokenstorm.node import __main__ as wrapper
from tokenstorm.node import boards as boards_module
from tokenstorm.node.boards import find_boards
from wrapped import KEY, NODE, Service

SMI = """#!/bin/sh
case "$1" in *clocks_throttle*) [ -n "$OLD" ] && exit 2;; esac
case "$1" in
*utilization*) echo "GPU-a, 431.50, 97, 3072, 1980, 2619, 66, Disabled, 0x0000000000000044"
               echo "GPU-b, [N/A], 0, 1, 345, 2619, 30, Enabled, 0x0000000000000001";;
*) echo "GPU-a, 431.50"; echo "GPU-b, [N/A]";;
esac
"""
AMD = """#!/bin/sh
if [ "$1" = list ]; then echo '[{"gpu": 0, "bdf": "0000:0c:00.0", "uuid": "ff74"}, {"gpu": 1, "uuid": "aa11"}]'; exit; fi
echo '{"gpu_data": [{"gpu": 0, "usage": {"gfx_activity": {"value": 97, "unit": "%"}},
  "power": {"socket_power": {"value": 431, "unit": "W"}}, "energy": {"total_energy_consumption": {"value": 1234.5, "unit": "J"}},
  "clock": {"gfx_0": {"clk": {"value": 1980, "unit": "MHz"}}, "mem_0": {"clk": {"value": 900, "unit": "MHz"}}},
  "temperature": {"edge": "N/A", "hotspot": {"value": 66, "unit": "C"}},
  "mem_usage": {"used_vram": {"value": 3072, "unit": "MB"}}}, {"gpu": 1, "power": "N/A"}]}'
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs, in front of all others; there is no NVML."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def boards(count: int, **environment: str) -> list[GpuReading]:
    async def read() -> list[GpuReading]:
        found = await find_boards(environment, count)
        return await found() if found else []

    return asyncio.run(read())


def test_nvidia_smi_is_read_where_there_is_no_nvml(tools: Path) -> None:
    program(tools, "nvidia-smi", SMI)
    first, second = boards(2)
    assert first == GpuReading(
        at=0.0,
        gpu="GPU-a",
        node="",
        watts=431.5,
        utilization=0.97,
        memory_bytes=3 * 2**30,
        clock_mhz=1980,
        memory_clock_mhz=2619,
        celsius=66,
        throttle=("power_cap", "hw_thermal"),
    )
    assert (second.watts, second.throttle, second.split) == (None, (), True)


def test_an_nvidia_smi_that_knows_less_still_tells_the_power(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD", "1")
    program(tools, "nvidia-smi", SMI)
    assert [(one.gpu, one.watts) for one in boards(2)] == [("GPU-a", 431.5), ("GPU-b", None)]


@pytest.mark.parametrize("trouble", ["exec sleep 60", "exit 9"])
def test_that_a_board_is_shared_is_known_again_after_one_bad_answer_of_nvidia_smi(
    tools: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(boards_module, "READ_SECONDS", 2.0)
    bad = tools / "bad"
    program(tools, "nvidia-smi", SMI.replace("\n", f'\ncase "$1" in *clocks*) [ -e {bad} ] && {trouble};; esac\n', 1))

    async def read() -> list[list[bool]]:
        found = await find_boards({}, 2)
        assert found
        seen = [[one.split for one in await found()]]
        bad.touch()
        try:
            seen.append([one.split for one in await found()])
        except RunError:
            seen.append([])
        bad.unlink()
        return [*seen, [one.split for one in await found()]]

    before, _, after = asyncio.run(read())
    assert before == after == [False, True]


def test_amd_smi_is_read_in_both_its_forms(tools: Path) -> None:
    program(tools, "amd-smi", AMD)
    first, second = boards(2)
    assert first == GpuReading(
        at=0.0,
        gpu="ff74",
        node="",
        watts=431,
        joules=1234.5,
        utilization=0.97,
        memory_bytes=3 * 2**30,
        clock_mhz=1980,
        memory_clock_mhz=900,
        celsius=66,
    )
    assert second == GpuReading(at=0.0, gpu="aa11", node="")
    program(tools, "amd-smi", AMD.replace('{"gpu_data": ', "").replace("}]}'", "}]'"))
    assert boards(2) == [first, second]


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [(None, 1, ["GPU-a"]), ("1", 1, ["GPU-b"]), ("GPU-b", 1, ["GPU-b"]), ("0,1", 2, ["GPU-a", "GPU-b"]), ("7", 1, [])],
)
def test_only_the_gpus_of_the_job_count(tools: Path, visible: str | None, count: int, expected: list[str]) -> None:
    program(tools, "nvidia-smi", SMI)
    environment = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    assert [one.gpu for one in boards(count, **environment)] == expected


@pytest.mark.parametrize("text", [None, "#!/bin/sh\nexit 9\n", "#!/bin/sh\n"])
def test_no_gpu_is_no_error(tools: Path, text: str | None) -> None:
    if text:
        program(tools, "nvidia-smi", text)
        program(tools, "amd-smi", text.replace("exit 9", "echo no JSON"))
    assert boards(1) == []


def test_a_board_without_a_name_is_not_told_of(tools: Path) -> None:
    program(tools, "amd-smi", '#!/bin/sh\necho \'[{"gpu": 0}, {"gpu": 1, "uuid": "b"}]\'\n')
    assert [one.gpu for one in boards(2)] == ["b"]


def test_a_job_ends_although_what_reads_its_gpus_hangs_in_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging:
        """A process that not even a kill ends, as one in an uninterruptible call."""

        stdin = io.BytesIO()
        kills = 0

        def poll(self) -> None:
            return None

        def kill(self) -> None:
            self.kills += 1

    hanging = Hanging()

    async def end() -> None:
        async with asyncio.timeout(30), wrapper.tell_of_gpus(tmp_path, 1):
            pass

    monkeypatch.setattr(wrapper, "_start_teller", lambda *_: hanging)
    monkeypatch.setattr(wrapper, "TELLER_SECONDS", 0.1)
    asyncio.run(end())
    assert hanging.kills
    assert hanging.stdin.closed


@pytest.mark.integration
def test_the_energy_of_a_run_is_within_one_percent_of_the_truth(stage: Stage) -> None:
    """From a driver through the wrapper and its port to the summary. A stranger learns nothing, and nothing is left behind."""
    driver = install_driver(stage.folder / "driver")
    service = Service(stage, gpus_per_replica=2).start(PYTHONPATH=str(driver))
    engine = service.reaches("running")
    path = service.folder / f"gpus.{NODE}.json"
    wait_for(path.exists, "no GPUs were told of")
    told: dict[str, Any] = json.loads(path.read_bytes())
    assert (told["node"], told["gpus"], path.stat().st_mode & 0o777) == (NODE, 2, 0o600)
    assert fetch(told["url"], secret="guessed")[0] in {401, 403}
    assert b'DCGM_FI_DEV_GPU_TEMP{UUID="GPU-1"} 66' in fetch(told["url"], secret=KEY)[1]

    run = Run(stage.folder / "run")
    sampler = {"node": NODE, "url": told["url"], "gpus": told["gpus"], "keyed": True}
    targets = [{"replica": "0", "url": f"http://127.0.0.1:{engine['port']}", "nodes": [NODE]}]
    plan = stage.plan_file(run, targets=targets, gpu_samplers=[sampler], duration_seconds=3, warmup_seconds=0.3)
    secrets = run.root / "secrets.json"
    secrets.write_text(json.dumps({"launcher": "s" * 20, "api_key": KEY}))
    secrets.chmod(0o600)
    assert stage.ended(stage.loadgen(plan)).code in {0, 3}

    energy, windows = run.summary["energy"], run.summary["windows"]
    began = run.summary["ranks"][0]["start_monotonic_ns"] / 1e9
    truth = true_joules(began + windows["measured_start"], began + windows["measured_end"])
    assert (energy["valid"], energy["reasons"]) == (True, [])
    assert energy["joules"] == pytest.approx(truth, rel=0.01)
    assert [(one["gpu"], one["method"]) for one in energy["gpus"]] == [("GPU-0", "counter"), ("GPU-1", "counter")]
    assert energy["gpus"][0]["throttled"] == {"power_cap": 1.0}
    again = json.loads(stage.command("report", str(run.root), "--rebuild", "--json").out)
    assert again["energy"] == energy

    teller = _child_of(service.process.pid, b"tokenstorm.node.gpus")
    os.kill(service.process.pid, signal.SIGKILL)
    wait_for(lambda: not alive(teller), "what tells of GPUs outlived its wrapper")


def _child_of(pid: int, name: bytes) -> int:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            if name in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    message = f"{pid} has no child {name!r}"
    raise AssertionError(message)
