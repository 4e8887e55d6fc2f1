"""What an exporter says of its node's GPUs, in the names of NVIDIA's DCGM exporter: read, and written."""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from tokenstorm.metrics.energy import GpuReading
from tokenstorm.prometheus import family

AGE = "tokenstorm_gpu_reading_age_seconds"
"""How long before the answer a GPU was read: with it no clock of the node is needed. DCGM's own exporter does not tell."""
MEBIBYTE = 2**20
MOST_GPUS = 64
_MILLI = 1e-3

_FIGURES: dict[str, tuple[str, float]] = {
    "DCGM_FI_DEV_POWER_USAGE": ("watts", 1.0),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("joules", _MILLI),
    "DCGM_FI_DEV_GPU_UTIL": ("utilization", 0.01),
    "DCGM_FI_DEV_FB_USED": ("memory_bytes", MEBIBYTE),
    "DCGM_FI_DEV_SM_CLOCK": ("clock_mhz", 1.0),
    "DCGM_FI_DEV_MEM_CLOCK": ("memory_clock_mhz", 1.0),
    "DCGM_FI_DEV_GPU_TEMP": ("celsius", 1.0),
}
_THROTTLE = ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS")
THROTTLE_BITS = {
    0x2: "application_clocks",
    0x4: "power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display_clocks",
}
"""NVML's reasons for a clock below what it could be; 0x1, an idle GPU, is none."""
_HELP = "As DCGM's exporter names it"
_NAMES = (*_FIGURES, *_THROTTLE, AGE)
_LINE = re.compile(rb"^(%b)\{(.*)\} +(\S+)" % "|".join(_NAMES).encode(), re.MULTILINE)
_LABEL = re.compile(rb'(?:^|,)(UUID|GPU_I_ID)="([^"\\]{1,128})"')


class Told(msgspec.Struct, frozen=True):
    """What an answer says of one GPU, and whether it tells how old that is."""

    reading: GpuReading
    aged: bool


def read_gpus(text: bytes, node: str, asked: float, answered: float) -> list[Told]:
    """Read an answer. What it says of a GPU holds for its age before `answered`; without one, for the middle of the two moments."""
    figures: dict[str, dict[str, float]] = {}
    split = set()
    for name, labels, written in _LINE.findall(text):
        known = dict(_LABEL.findall(labels))
        value, uuid = _number(written), known.get(b"UUID", b"").decode(errors="replace")
        if value is None or not uuid or (len(figures) >= MOST_GPUS and uuid not in figures):
            continue
        figures.setdefault(uuid, {})[name.decode()] = value
        if b"GPU_I_ID" in known:
            split.add(uuid)
    told = []
    for uuid, values in sorted(figures.items()):
        age = values.pop(AGE, None)
        at = (asked + answered) / 2 if age is None else answered - age
        told.append(Told(_reading(uuid, values, node, at, split=uuid in split), age is not None))
    return told


def _reading(uuid: str, told: dict[str, float], node: str, at: float, *, split: bool) -> GpuReading:
    known = {field: told[name] * unit for name, (field, unit) in _FIGURES.items() if name in told}
    bits = next((int(told[name]) for name in _THROTTLE if name in told), 0)
    throttle = tuple(why for bit, why in THROTTLE_BITS.items() if bits & bit)
    return GpuReading(at=round(at, 6), gpu=uuid, node=node, throttle=throttle, split=split, **known)


def _number(written: bytes) -> float | None:
    try:
        value = float(written)
    except ValueError:
        return None
    return value if 0 <= value < float(2**63) else None


def write_gpus(readings: Iterable[GpuReading], age: float) -> bytes:
    """The text of readings that are `age` seconds old."""
    readings = list(readings)
    families = []
    for name, (field, unit) in _FIGURES.items():
        told = [(one.gpu, value) for one in readings if (value := getattr(one, field)) is not None]
        kind: Literal["counter", "gauge"] = "counter" if field == "joules" else "gauge"
        families.append(family(name, kind, _HELP, [({"UUID": gpu}, value / unit) for gpu, value in told]))
    bit_of = {why: bit for bit, why in THROTTLE_BITS.items()}
    bits = [({"UUID": one.gpu}, sum(bit_of[why] for why in one.throttle)) for one in readings]
    families.append(family(_THROTTLE[0], "gauge", "NVML's bits for why the clock is low", bits))
    families.append(
        family(AGE, "gauge", "How long ago the GPU was read", [({"UUID": one.gpu}, age) for one in readings])
    )
    return "".join(families).encode()
