"""The energy of the measured window is within 1% of the truth, or it is not told, with the reason."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tokenstorm.metrics.energy import Done, EnergyReport, EnergyTally, GpuReading
from tokenstorm.metrics.gputext import read_gpus, write_gpus
from tokenstorm.targets import GpuSampler

Power = Callable[[float], float]
START, END = 3.3, 63.9
DONE = Done(requests=100, output_tokens=5000.0, prompt_tokens=15000.0)


def steady(_: float) -> float:
    return 400.0


def waves(t: float) -> float:
    """Between 200 and 600 W, one wave in 17 s."""
    return 400 + 200 * math.sin(2 * math.pi * t / 17)


def step(t: float) -> float:
    """Idle until shortly before the window."""
    return 90.0 if t < 3 else 650.0


def truth(power: Power, start: float = START, end: float = END) -> float:
    """The area under the power, in steps of 1 ms."""
    steps = round((end - start) * 1000)
    return sum(power(start + (n + 0.5) * (end - start) / steps) for n in range(steps)) * (end - start) / steps


def readings(
    power: Power, gpu: str = "GPU-0", node: str = "n1", times: Iterable[float] | None = None, **fields: Any
) -> list[GpuReading]:
    """A GPU read every second from before the start to after the end, its counter 10 kJ at -10 s."""
    told, joules, before = [], 10_000.0, -10.0
    for at in times if times is not None else [n - 0.5 for n in range(70)]:
        joules += truth(power, before, at)
        before = at
        values = {"watts": power(at), "joules": joules, **fields}
        told.append(GpuReading(at=at, gpu=gpu, node=node, **values))
    return told


def energy(
    *told: list[GpuReading], samplers: tuple[GpuSampler, ...] | None = None, nodes: tuple[str, ...] = ("n1",)
) -> EnergyReport:
    tally = EnergyTally()
    for one in told:
        tally.add(one)
    asked = (GpuSampler(node="n1", url="http://n1:1", gpus=len(told), keyed=True),) if samplers is None else samplers
    report = tally.report(asked, nodes, START, END, DONE)
    assert report
    return report


@pytest.mark.parametrize("power", [steady, waves, step])
@pytest.mark.parametrize("dropped", ["nothing", "watts", "joules"])
def test_energy_is_within_one_percent_of_the_truth(power: Power, dropped: str) -> None:
    """By the counter, by the power where there is no counter, and by the counter where there is no power."""
    told: dict[str, Any] = {} if dropped == "nothing" else {dropped: None}
    report = energy(readings(power, **told))
    assert (report.valid, report.reasons) == (True, [])
    assert report.joules == pytest.approx(truth(power), rel=0.01)
    assert report.gpus[0].method == ("power" if dropped == "joules" else "counter")


def test_what_is_told_of_a_token_is_the_whole_deployments_energy() -> None:
    """Also that of a GPU that idled."""
    report = energy(readings(steady, "GPU-0"), readings(lambda _: 100.0, "GPU-1"))
    joules = 500 * (END - START)
    assert report.joules == pytest.approx(joules)
    assert report.joules_per_output_token == pytest.approx(joules / 5000)
    assert report.joules_per_total_token == pytest.approx(joules / 20000)
    assert report.joules_per_request == pytest.approx(joules / 100)
    assert report.average_watts == pytest.approx(500)
    assert report.output_tokens_per_second_per_watt == pytest.approx(5000 / (END - START) / 500)
    assert [gpu.average_watts for gpu in report.gpus] == pytest.approx([400, 100])


def without(times: tuple[float, float]) -> list[float]:
    return [at for n in range(70) if not times[0] < (at := n - 0.5) < times[1]]


FULL = readings(steady)
BACKWARDS = [*FULL[:30], *(GpuReading(at=one.at, gpu="GPU-0", node="n1", watts=400, joules=5.0) for one in FULL[30:])]
OTHER = [GpuReading(at=one.at, gpu="GPU-9", node="n1", watts=400, joules=one.joules) for one in FULL[30:]]


SABOTAGES: dict[str, tuple[list[list[GpuReading]], list[str]]] = {
    "three seconds without a reading": ([readings(steady, times=without((20, 22)))], []),
    "four seconds without one": ([readings(steady, times=without((20, 23)))], ["sample_gap"]),
    "read too late": ([FULL[5:]], ["not_bracketed"]),
    "read too short": ([FULL[:60]], ["not_bracketed"]),
    "a counter that goes backwards": ([BACKWARDS], ["counter_reset"]),
    "power 5% off": ([readings(steady, watts=421.0)], []),  # 5% of 421 are 21
    "power 5.2% off": ([readings(steady, watts=422.0)], ["counter_disagrees"]),
    "neither power nor counter": ([readings(steady, watts=None, joules=None)], ["no_power"]),
    "a board in parts": ([readings(steady, split=True)], ["gpu_split"]),
    "another board": ([FULL[:40], OTHER], ["gpu_changed", "not_bracketed"]),
    "nothing": ([[]], ["no_readings"]),
}


@pytest.mark.parametrize(("told", "codes"), SABOTAGES.values(), ids=SABOTAGES)
def test_each_sabotage_has_its_reason_and_no_number(told: list[list[GpuReading]], codes: list[str]) -> None:
    if not codes:
        assert energy(*told).valid
        return
    report = energy(*told)
    assert not report.valid
    assert [reason.code for reason in report.reasons] == codes
    numbers = (report.joules, report.joules_per_output_token, report.joules_per_request, report.average_watts)
    assert (numbers, report.gpus) == ((None,) * 4, [])


@pytest.mark.parametrize(
    ("samplers", "nodes", "code"),
    [
        ((GpuSampler(node="n1", url="-", gpus=2),), ("n1",), "gpu_count"),
        ((GpuSampler(node="n1", url="-"), GpuSampler(node="n2", url="-")), ("n1",), "no_readings"),
        ((GpuSampler(node="n1", url="-", keyed=True),), ("n1", "n2"), "node_unread"),
    ],
)
def test_gpus_that_nobody_reads_leave_no_number(
    samplers: tuple[GpuSampler, ...], nodes: tuple[str, ...], code: str
) -> None:
    report = energy(FULL, samplers=samplers, nodes=nodes)
    assert (report.valid, [reason.code for reason in report.reasons], report.joules) == (False, [code], None)


def test_a_gpu_that_two_exporters_tell_of_counts_once() -> None:
    ours = GpuSampler(node="n1", url="http://n1:1", gpus=1, keyed=True)
    theirs = GpuSampler(node="n1:9400", url="http://n1:9400", gpus=None)
    lagging = readings(steady, node="n1:9400", joules=1.0)  # an exporter that reads its counter when it likes
    report = energy(readings(steady), lagging, samplers=(ours, theirs))
    assert (report.valid, report.reasons, len(report.gpus)) == (True, [], 1)
    assert report.joules == pytest.approx(truth(steady), rel=0.01)


def test_without_gpus_there_is_nothing_to_tell() -> None:
    assert EnergyTally().report([], ["n1"], START, END, DONE) is None


def test_what_a_sampler_writes_is_what_the_launcher_reads_and_an_age_sets_the_time() -> None:
    told = GpuReading(
        at=0.0,
        gpu="GPU-a",
        node="n1",
        watts=431.5,
        joules=123456.789,
        utilization=0.97,
        memory_bytes=3 * 2**30,
        clock_mhz=1980,
        memory_clock_mhz=2619,
        celsius=66,
        throttle=("power_cap", "hw_thermal"),
    )
    (read,) = read_gpus(write_gpus([told], age=0.25), "n1", asked=4.0, answered=4.5)
    assert read.aged
    assert read.reading.at == 4.25
    for name in set(GpuReading.__struct_fields__) - {"at"}:
        wanted = getattr(told, name)
        assert getattr(read.reading, name) == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), name


DCGM = b"""
# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",pci_bus_id="00000000:1B:00.0",modelName="NVIDIA H100",Hostname="n1"} 431.500000
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-b",GPU_I_ID="3",modelName="NVIDIA H100",Hostname="n1"} 90
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",Hostname="n1"} 5000000
DCGM_FI_DEV_POWER_USAGE{gpu="2",modelName="without a name"} 9
DCGM_FI_DEV_POWER_USAGE{gpu="3",UUID="GPU-c"} nan
"""


def test_dcgms_own_exporter_is_read_and_a_shared_board_is_known() -> None:
    first, second = read_gpus(DCGM, "n1:9400", asked=4.0, answered=5.0)
    assert first.reading == GpuReading(at=4.5, gpu="GPU-a", node="n1:9400", watts=431.5, joules=5000.0)
    assert second.reading.split
    assert not first.aged
