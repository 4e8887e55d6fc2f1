"""A GPU driver with three boards, as `nvidia-ml-py` shows one; the true energy of its boards is known."""

import math
from pathlib import Path

NVML = """
import math, time

NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

class NVMLError(Exception):
    pass

class Told:
    gpu, used = 97, 3 * 2**30

def phase(board):
    return time.monotonic() / 20 * 2 * math.pi + board

def nvmlInit(): pass
def nvmlDeviceGetCount(): return 3
def nvmlDeviceGetHandleByIndex(number): return number
def nvmlDeviceGetUUID(board): return f"GPU-{board}"
def nvmlDeviceGetMigMode(board): raise NVMLError("Not Supported")
def nvmlDeviceGetPowerUsage(board): return round(1000 * (300 + 100 * math.sin(phase(board))))
def nvmlDeviceGetTotalEnergyConsumption(board):
    at = time.monotonic()
    return round(1000 * (300 * at - 100 * 20 / (2 * math.pi) * math.cos(phase(board))))
def nvmlDeviceGetUtilizationRates(board): return Told
def nvmlDeviceGetMemoryInfo(board): return Told
def nvmlDeviceGetClockInfo(board, which): return 1980 if which == NVML_CLOCK_SM else 2619
def nvmlDeviceGetTemperature(board, sensor): return 66
def nvmlDeviceGetCurrentClocksThrottleReasons(board): return 0x4 | 0x1
"""
"""The power of each board is a wave of 20 s, and its counter the exact area under it."""


def true_joules(start: float, end: float) -> float:
    """The area under the power of the boards 0 and 1, on the monotonic clock."""
    speed = 2 * math.pi / 20
    waves = sum(math.cos(speed * start + board) - math.cos(speed * end + board) for board in (0, 1))
    return 2 * 300 * (end - start) + 100 / speed * waves


def install_driver(folder: Path) -> Path:
    """Write the driver's module. Gives the folder that a process needs in its PYTHONPATH."""
    folder.mkdir()
    (folder / "pynvml.py").write_text(NVML)
    return folder
