"""The GPUs of a node, read by the first of these that is there: NVML through `nvidia-ml-py`, `nvidia-smi`, `amd-smi`."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from tokenstorm.errors import NOT_JSON, RunError
from tokenstorm.metrics.energy import GpuReading
from tokenstorm.metrics.gputext import MEBIBYTE, THROTTLE_BITS
from tokenstorm.node.devices import VISIBLE

READ_SECONDS = 10.0
"""How long a program that reads GPUs may take."""
_SMI = (
    "uuid",
    "power.draw",
    "utilization.gpu",
    "memory.used",
    "clocks.sm",
    "clocks.mem",
    "temperature.gpu",
    "mig.mode.current",
    "clocks_throttle_reasons.active",
)
_SMI_KNOWN = _SMI[:2]
"""What every version of it knows."""
REFUSALS = 3
"""After so many in a row it is an old one that does not know all fields; a driver that is busy refuses or hangs once."""

Read = Callable[[], Awaitable[list[GpuReading]]]
"""Reads all GPUs once; their `at` is 0. Raises `RunError`."""


async def find_boards(environment: Mapping[str, str], count: int) -> Read | None:
    """How to read the `count` GPUs that the job has; None where there are none, or nothing reads them."""
    for find, visible in ((_nvml, VISIBLE["nvidia"]), (_nvidia_smi, VISIBLE["nvidia"]), (_amd_smi, VISIBLE["amd"])):
        read = find()
        if read is None:
            continue
        try:
            everything = await read()
        except RunError:
            continue
        if everything:
            return _only(read, _of_the_job([one.gpu for one in everything], environment.get(visible), count))
    return None


def _only(read: Read, wanted: set[str]) -> Read:
    async def read_wanted() -> list[GpuReading]:
        return [one for one in await read() if one.gpu in wanted]

    return read_wanted


def _of_the_job(gpus: Sequence[str], visible: str | None, count: int) -> set[str]:
    """The GPUs that a job may use: those of its variable, by number or name, else the first `count`."""
    names = [name.strip() for name in (visible or "").split(",") if name.strip()]
    if any(name.startswith("MIG-") for name in names):
        return set(gpus)
    if not names:
        return set(gpus[:count])
    numbered = {gpus[int(name)] for name in names if name.isdecimal() and int(name) < len(gpus)}
    return numbered | {gpu for gpu in gpus for name in names if not name.isdecimal() and gpu.startswith(name)}


def _nvml() -> Read | None:
    """NVML itself, where its Python package and the driver are there: the only one with an energy counter of NVIDIA's."""
    try:
        import pynvml  # noqa: PLC0415 - optional
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None

    async def read() -> list[GpuReading]:
        try:
            return [_by_nvml(pynvml, handle) for handle in handles]
        except pynvml.NVMLError as error:
            message = f"NVML does not know a GPU any more: {error}"
            raise RunError(message) from None

    return read


def _by_nvml(nvml: Any, handle: Any) -> GpuReading:
    def read_or_none(ask: Callable[[], float], unit: float = 1.0) -> float | None:
        try:
            return ask() * unit
        except nvml.NVMLError:  # this board, or this driver, does not tell it
            return None

    uuid = nvml.nvmlDeviceGetUUID(handle)
    mig = read_or_none(lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
    return GpuReading(
        at=0.0,
        gpu=uuid.decode() if isinstance(uuid, bytes) else uuid,
        node="",
        watts=read_or_none(lambda: nvml.nvmlDeviceGetPowerUsage(handle), 1e-3),
        joules=read_or_none(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle), 1e-3),
        utilization=read_or_none(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu, 0.01),
        memory_bytes=read_or_none(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
        clock_mhz=read_or_none(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        memory_clock_mhz=read_or_none(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        celsius=read_or_none(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        throttle=_throttle(read_or_none(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
        split=bool(mig),
    )


def _throttle(bits: float | None) -> tuple[str, ...]:
    return tuple(why for bit, why in THROTTLE_BITS.items() if int(bits or 0) & bit)


def _nvidia_smi() -> Read | None:
    path = shutil.which("nvidia-smi")
    if path is None:
        return None
    refusals = 0

    async def read() -> list[GpuReading]:
        nonlocal refusals
        fields = _SMI if refusals < REFUSALS else _SMI_KNOWN
        try:
            said = await _run(path, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
        except _Ended:
            if fields == _SMI_KNOWN:
                raise
            fields, refusals = _SMI_KNOWN, refusals + 1
            said = await _run(path, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
        else:
            refusals = 0 if fields == _SMI else refusals
        return [
            _by_smi(dict(zip(fields, line.split(", "), strict=False))) for line in said.splitlines() if line.strip()
        ]

    return read


def _by_smi(told: Mapping[str, str]) -> GpuReading:
    def number(field: str, unit: float = 1.0) -> float | None:
        try:
            return float(told[field]) * unit
        except (KeyError, ValueError):  # [N/A], [Not Supported]
            return None

    try:
        bits = int(told.get("clocks_throttle_reasons.active", "0"), 16)
    except ValueError:
        bits = 0
    return GpuReading(
        at=0.0,
        gpu=told["uuid"].strip(),
        node="",
        watts=number("power.draw"),
        utilization=number("utilization.gpu", 0.01),
        memory_bytes=number("memory.used", MEBIBYTE),
        clock_mhz=number("clocks.sm"),
        memory_clock_mhz=number("clocks.mem"),
        celsius=number("temperature.gpu"),
        throttle=_throttle(bits),
        split=told.get("mig.mode.current") == "Enabled",
    )


def _amd_smi() -> Read | None:
    path = shutil.which("amd-smi")
    if path is None:
        return None
    names: dict[int, str] = {}

    async def read() -> list[GpuReading]:
        if not names:
            listed = _listed(await _run(path, "list", "--json"))
            names.update({one["gpu"]: str(one["uuid"]) for one in listed if "uuid" in one})
        return [
            _by_amd(names[one["gpu"]], one)
            for one in _listed(await _run(path, "metric", "--json"))
            if one["gpu"] in names
        ]

    return read


def _listed(said: str) -> list[dict[str, Any]]:
    """Its GPUs: a list, or in newer versions one inside `gpu_data`."""
    try:
        told = msgspec.json.decode(said)
    except NOT_JSON as error:
        message = f"amd-smi said what is no JSON: {error}"
        raise RunError(message) from None
    gpus = told.get("gpu_data") if isinstance(told, dict) else told
    return [one for one in gpus if isinstance(one, dict) and "gpu" in one] if isinstance(gpus, list) else []


def _by_amd(uuid: str, told: Mapping[str, Any]) -> GpuReading:
    def number(*path: str, unit: float = 1.0) -> float | None:
        value: Any = told
        for name in (*path, "value"):
            value = value.get(name) if isinstance(value, dict) else None
        return value * unit if isinstance(value, int | float) else None

    return GpuReading(
        at=0.0,
        gpu=uuid,
        node="",
        watts=number("power", "socket_power"),
        joules=number("energy", "total_energy_consumption"),
        utilization=number("usage", "gfx_activity", unit=0.01),
        memory_bytes=number("mem_usage", "used_vram", unit=MEBIBYTE),
        clock_mhz=number("clock", "gfx_0", "clk"),
        memory_clock_mhz=number("clock", "mem_0", "clk"),
        celsius=number("temperature", "hotspot"),
    )


class _Ended(RunError):
    """A program that reads GPUs ended badly, where it could have hung."""


async def _run(*argv: str) -> str:
    """What a program says. Raises `RunError` where it fails or hangs."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), READ_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        message = f"{argv[0]} says nothing for {READ_SECONDS:g} s"
        raise RunError(message) from None
    if process.returncode:
        message = f"{argv[0]} ended with exit code {process.returncode}"
        raise _Ended(message)
    return said.decode(errors="replace")
