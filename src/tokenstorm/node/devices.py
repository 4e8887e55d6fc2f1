"""Which GPUs of the job each replica gets, by the variable that its vendor's libraries read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tokenstorm.errors import UsageError

Vendor = Literal["nvidia", "amd", "intel"]
VISIBLE: dict[Vendor, str] = {
    "nvidia": "CUDA_VISIBLE_DEVICES",
    "amd": "ROCR_VISIBLE_DEVICES",
    "intel": "ZE_AFFINITY_MASK",
}
_COUNTED_AGAIN: dict[Vendor, tuple[str, ...]] = {
    "nvidia": (),
    "amd": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    "intel": (),
}
"""Variables that number the devices which are left: with one share in both nothing would be."""
_DEVICES: dict[Vendor, str] = {"amd": "kfd", "nvidia": "nvidiactl", "intel": "dri"}


def shared_out(
    environment: Mapping[str, str], vendor: Vendor | None, *, index: int, count: int, replicas: int, dev: Path
) -> dict[str, str]:
    """The environment with the replica's `count` GPUs of those that the job may use, numbered from 0 if nobody said which.

    Without a vendor it is the one whose variable the job has, and if that may be any, whose devices lie in `dev`.
    Raises `UsageError` when there are too few.
    """
    vendor = vendor or _vendor(environment, dev)
    name = VISIBLE[vendor]
    known = (environment[one] for one in (name, *_COUNTED_AGAIN[vendor]) if one in environment)
    mine = _share(next(known, None), index, count, replicas)
    kept = {one: value for one, value in environment.items() if one not in _COUNTED_AGAIN[vendor]}
    return {**kept, name: ",".join(mine)}


def _vendor(environment: Mapping[str, str], dev: Path) -> Vendor:
    named = [vendor for vendor, name in VISIBLE.items() if name in environment]
    if len(named) == 1:
        return named[0]
    there = [vendor for vendor, device in _DEVICES.items() if (dev / device).exists()]
    return next((vendor for vendor in there if vendor in named or not named), "nvidia")


def _share(visible: str | None, index: int, count: int, replicas: int) -> list[str]:
    if visible is None:
        return [str(number) for number in range(index * count, (index + 1) * count)]
    names = [name.strip() for name in visible.split(",") if name.strip()]
    mine = names[index * count : (index + 1) * count]
    if len(mine) < count:
        message = (
            f"replica {index} needs {count} GPUs, and the job has {len(names)} for {replicas} replicas: "
            "ask for more in `resources`, or lower `gpu_per_replica`"
        )
        raise UsageError(message)
    return mine
