"""The energy of a deployment's GPUs over the measured window: a number that holds, or the reasons why there is none.

It is what the boards say of themselves, those that idle included; not what a wall plug would say.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from math import isnan, nan
from typing import Literal

import msgspec

from tokenstorm.metrics.reports import Reason
from tokenstorm.targets import GpuSampler

SCHEMA: Literal[1] = 1
LONGEST_GAP = 3.0
"""Seconds between two readings of a GPU, at most."""
LARGEST_DIFFERENCE = 0.05
"""The share by which the energy counter and the sum of the power may differ."""


class GpuReading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one GPU said at `at` seconds from the common start; `joules` is its counter, which began some time before.

    `node` is whose sampler said so; `split` ones are shared out in parts (MIG), whose power nobody knows. What the GPU does not tell is None, and is left out of the line.
    """

    at: float
    gpu: str
    node: str
    watts: float | None = None
    joules: float | None = None
    utilization: float | None = None
    memory_bytes: float | None = None
    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    celsius: float | None = None
    throttle: tuple[str, ...] = ()
    split: bool = False


class GpuEnergy(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU over the window. `method` is what its energy comes from; `throttled` the share of readings with that reason."""

    gpu: str
    node: str
    joules: float
    average_watts: float
    method: Literal["counter", "power"]
    utilization: float | None = None
    celsius_max: float | None = None
    throttled: dict[str, float] = {}


class EnergyReport(msgspec.Struct, frozen=True, kw_only=True):
    """Energy of all boards over the measured window, and by what was done in it. Where it is not `valid`, there are no numbers."""

    schema: Literal[1] = SCHEMA
    valid: bool
    reasons: list[Reason]
    joules: float | None = None
    joules_per_output_token: float | None = None
    joules_per_total_token: float | None = None
    joules_per_request: float | None = None
    average_watts: float | None = None
    output_tokens_per_second_per_watt: float | None = None
    gpus: list[GpuEnergy] = []


class Done(msgspec.Struct, frozen=True):
    """What was done in the window: requests that succeeded, tokens; None where nobody counted them."""

    requests: int
    output_tokens: float | None
    prompt_tokens: float | None


class EnergyTally:
    """Keeps what is needed of each reading: 40 bytes."""

    def __init__(self) -> None:
        self._gpus: dict[str, _Gpu] = {}
        self._told: dict[str, set[str]] = {}
        """The GPUs of which each sampler told."""

    def add(self, readings: Iterable[GpuReading]) -> None:
        """Take in readings, those of a GPU in the order of their times. One that two samplers tell of counts once, by the first."""
        for reading in readings:
            self._told.setdefault(reading.node, set()).add(reading.gpu)
            gpu = self._gpus.setdefault(reading.gpu, _Gpu(reading.node))
            if gpu.node == reading.node:
                gpu.add(reading)

    def report(
        self, samplers: Iterable[GpuSampler], nodes: Iterable[str], start: float, end: float, done: Done
    ) -> EnergyReport | None:
        """The energy from `start` to `end`, seconds from the common start; None where there are no GPUs to be read.

        `nodes` are those of the engines, as far as they are known.
        """
        samplers = list(samplers)
        if not samplers:
            return None
        reasons = [*self._incomplete(samplers, set(nodes)), *self._changed(start, end)]
        measured: list[GpuEnergy] = []
        for name, gpu in sorted(self._gpus.items()):
            try:
                measured.append(gpu.measure(name, start, end))
            except _Unknown as unknown:
                reasons.append(unknown.reason)
        if reasons:
            return EnergyReport(valid=False, reasons=_short(reasons))
        return _sum_up(measured, end - start, done)

    def _incomplete(self, samplers: list[GpuSampler], nodes: set[str]) -> list[Reason]:
        """Are all the deployment's GPUs there?"""
        reasons = []
        for sampler in samplers:
            there = len(self._told.get(sampler.node, ()))
            if not there:
                reasons.append(Reason("no_readings", f"nothing could be read of the GPUs of {sampler.node}"))
            elif sampler.gpus is not None and there != sampler.gpus:
                text = f"{sampler.node} has {sampler.gpus} GPUs for the service, and {there} could be read"
                reasons.append(Reason("gpu_count", text))
        if (
            unread := sorted(nodes - {sampler.node for sampler in samplers})
            if any(one.keyed for one in samplers)
            else []
        ):
            reasons.append(Reason("node_unread", f"nobody reads the GPUs of {', '.join(unread)}"))
        if split := sorted(name for name, gpu in self._gpus.items() if gpu.split):
            text = f"{', '.join(split)} are shared out in parts (MIG), and only the power of whole boards is known"
            reasons.append(Reason("gpu_split", text))
        return reasons

    def _changed(self, start: float, end: float) -> list[Reason]:
        """Were they the same ones all the time?"""
        came = {name for name, gpu in self._gpus.items() if gpu.times[0] > start}
        left = {name for name, gpu in self._gpus.items() if gpu.times[-1] < end}
        if came - left and left - came:
            text = f"{', '.join(sorted(left - came))} went while the run went on, and {', '.join(sorted(came - left))} came"
            return [Reason("gpu_changed", text)]
        return []


class _Unknown(Exception):
    """The energy of a GPU cannot be told."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.reason = Reason(code, text)


class _Gpu:
    """The readings of one GPU; a figure that was not told is NaN."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.split = False
        self.times = array("d")
        self._watts = array("d")
        self._joules = array("d")
        self._utilization = array("d")
        self._celsius = array("d")
        self._throttle: list[tuple[float, tuple[str, ...]]] = []

    def add(self, reading: GpuReading) -> None:
        if self.times and reading.at <= self.times[-1]:
            return
        self.times.append(reading.at)
        for values, value in (
            (self._watts, reading.watts),
            (self._joules, reading.joules),
            (self._utilization, reading.utilization),
            (self._celsius, reading.celsius),
        ):
            values.append(nan if value is None else value)
        self.split = self.split or reading.split
        if reading.throttle:
            self._throttle.append((reading.at, reading.throttle))

    def measure(self, name: str, start: float, end: float) -> GpuEnergy:
        """The energy from `start` to `end`. Raises `_Unknown`."""
        first, last = self._bracket(name, start, end)
        counted = self._by_counter(name, first, last, start, end)
        summed = self._by_power(first, last, start, end)
        if counted is None and summed is None:
            code, text = "no_power", f"{name} tells neither its power nor its energy"
            raise _Unknown(code, text)
        if counted is not None and summed is not None:
            difference = abs(counted - summed) / max(counted, summed, 1e-9)
            if difference > LARGEST_DIFFERENCE:
                code = "counter_disagrees"
                text = f"the energy counter of {name} says {counted:.0f} J, and its power adds up to {summed:.0f} J"
                raise _Unknown(code, text)
        joules = counted if counted is not None else summed or 0.0
        inside = range(bisect_left(self.times, start), bisect_right(self.times, end))
        busy = [self._utilization[n] for n in inside if not isnan(self._utilization[n])]
        heat = [self._celsius[n] for n in inside if not isnan(self._celsius[n])]
        slowed = Counter(why for at, reasons in self._throttle if start <= at <= end for why in reasons)
        return GpuEnergy(
            gpu=name,
            node=self.node,
            joules=joules,
            average_watts=joules / (end - start),
            method="power" if counted is None else "counter",
            utilization=sum(busy) / len(busy) if busy else None,
            celsius_max=max(heat, default=None),
            throttled={why: count / len(inside) for why, count in sorted(slowed.items())},
        )

    def _bracket(self, name: str, start: float, end: float) -> tuple[int, int]:
        """The last reading at or before `start` and the first one at or after `end`. Raises `_Unknown`."""
        times = self.times
        if end <= start or times[0] > start or times[-1] < end:
            code = "not_bracketed"
            text = f"{name} was read from {times[0]:.1f} to {times[-1]:.1f} s, and the window is {start:.1f} to {end:.1f} s"
            raise _Unknown(code, text)
        first, last = bisect_right(times, start) - 1, bisect_left(times, end)
        longest, at = max(((times[n + 1] - times[n], times[n]) for n in range(first, last)), default=(0.0, 0.0))
        if longest > LONGEST_GAP:
            code, text = "sample_gap", f"{name} was not read for {longest:.1f} s, from {at:.1f} s on"
            raise _Unknown(code, text)
        return first, last

    def _by_counter(self, name: str, first: int, last: int, start: float, end: float) -> float | None:
        counter = self._joules[first : last + 1]
        if any(map(isnan, counter)):
            return None
        if any(after < before for before, after in pairwise(counter)):
            code, text = "counter_reset", f"the energy counter of {name} went backwards"
            raise _Unknown(code, text)
        return self._at(self._joules, end) - self._at(self._joules, start)

    def _by_power(self, first: int, last: int, start: float, end: float) -> float | None:
        """The trapezoids under the power, those at the edges cut there."""
        if any(map(isnan, self._watts[first : last + 1])):
            return None
        inside = [n for n in range(first, last + 1) if start < self.times[n] < end]
        points = [(start, self._at(self._watts, start)), *((self.times[n], self._watts[n]) for n in inside)]
        points.append((end, self._at(self._watts, end)))
        return sum((b - a) * (p + q) / 2 for (a, p), (b, q) in pairwise(points))

    def _at(self, values: "array[float]", moment: float) -> float:
        """A figure at a moment, between its two neighbours."""
        after = bisect_left(self.times, moment)
        if self.times[after] == moment:
            return values[after]
        t, u = self.times[after - 1], self.times[after]
        return values[after - 1] + (values[after] - values[after - 1]) * (moment - t) / (u - t)


def _sum_up(gpus: list[GpuEnergy], seconds: float, done: Done) -> EnergyReport:
    joules = sum(gpu.joules for gpu in gpus)
    output, prompt = done.output_tokens, done.prompt_tokens
    total = output + prompt if output is not None and prompt is not None else None
    return EnergyReport(
        valid=True,
        reasons=[],
        joules=joules,
        joules_per_output_token=joules / output if output else None,
        joules_per_total_token=joules / total if total else None,
        joules_per_request=joules / done.requests if done.requests else None,
        average_watts=joules / seconds,
        output_tokens_per_second_per_watt=output / joules if output and joules else None,
        gpus=gpus,
    )


def _short(reasons: list[Reason]) -> list[Reason]:
    """One reason for each code: a fault of a node is that of all its GPUs."""
    by_code: dict[str, list[str]] = {}
    for reason in reasons:
        by_code.setdefault(reason.code, []).append(reason.text)
    return [
        Reason(code, texts[0] + (f" (and {len(texts) - 1} more)" if texts[1:] else ""))
        for code, texts in by_code.items()
    ]
