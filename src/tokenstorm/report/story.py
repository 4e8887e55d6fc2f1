"""What the report draws of a run, read from its files: one pure function from the folder to columns and tables."""

from collections.abc import Iterator
from itertools import count as counting
from math import log10

import msgspec

from tokenstorm.load_parts import Arrival
from tokenstorm.loadgen.live import TimelineLine
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.rebuild import added, batches_of
from tokenstorm.metrics.summary import StageReport, Summary
from tokenstorm.metrics.tally import LENGTHS, Tally, Window
from tokenstorm.report.over_time import OverTime, over_time
from tokenstorm.report.whole import Found, find_results, latest_moment, seconds_of
from tokenstorm.runs import RunPaths

MOST_BARS = 40
_SHOWN = 0.995
"""The share of the lengths that the bars show: one that is far longer than all others would flatten them."""
_POINTS_A_DECADE = 40
"""Of a percentile spectrum, where the axis counts decades of 1 / (1 - percentile)."""
_SPECTRA = (
    ("corrected", "Latency: from schedule and from send", ("latency", "service_time")),
    ("ttft", "TTFT: from schedule and from send", ("ttft_from_schedule", "ttft")),
    ("token_times", "Time per output token, and between chunks", ("tpot", "inter_chunk")),
)
_NAMES = {
    "latency": "from schedule (corrected)",
    "service_time": "from send (uncorrected)",
    "ttft_from_schedule": "from schedule (corrected)",
    "ttft": "from send (uncorrected)",
    "tpot": "time per output token",
    "inter_chunk": "inter-chunk time",
}


class Outline(msgspec.Struct, frozen=True):
    """Of the plan, what tells where the warm-up and the stages lie."""

    warmup_seconds: float
    arrival: Arrival


class Curve(msgspec.Struct, frozen=True):
    """Percentiles of one distribution: shares of the samples, and the seconds that each share does not exceed."""

    name: str
    role: str
    quantiles: list[float]
    values: list[float]


class Spectrum(msgspec.Struct, frozen=True):
    """One percentile spectrum of one or more distributions."""

    id: str
    title: str
    series: list[Curve]


class Lengths(msgspec.Struct, frozen=True):
    """How long the prompts or answers of the successful requests were, in tokens.

    Bar n counts those from edge n up to the next edge; `beyond` are the few that are longer.
    """

    name: str
    edges: list[int]
    counts: list[int]
    beyond: int


class Story(msgspec.Struct, frozen=True):
    """All that the report draws. The numbers themselves are in the summary."""

    over_time: OverTime
    plan: Outline
    spectra: list[Spectrum]
    lengths: list[Lengths]
    stages: list[StageReport]


def read_story(paths: RunPaths, summary: Summary) -> Story:
    """Read what a run's files tell beyond its summary. Lines that cannot be read are left out: the summary has noted them."""
    plan, tally = summary.plan, Tally()
    window = Window(plan.window_start_ns, round(summary.windows.measured_end * 1e9))
    found = find_results(paths, plan)
    found.latest = latest_moment(plan, summary, None)
    for path, batch in batches_of(found.results, plan, found.skip, latest=found.latest):
        tally.merge(added(batch, window, path, found.skip))
    seconds = _seconds(found, paths, tally.histograms["inter_chunk"])
    return Story(
        over_time=over_time(seconds),
        plan=Outline(plan.warmup_seconds, plan.arrival),
        spectra=_spectra(tally),
        lengths=[_lengths(name, tally.lengths[name]) for name in LENGTHS],
        stages=summary.stages,
    )


def _seconds(found: Found, paths: RunPaths, inter_chunk: Histogram) -> Iterator[TimelineLine]:
    """The seconds of the timeline, in order. Inter-chunk times stand there alone, and are added up on the way."""
    last = -1
    for line in seconds_of(paths, found):
        if line.t > last:
            last = line.t
            if histogram := line.histograms.get("inter_chunk"):
                inter_chunk.merge(histogram)
            yield line


def _spectra(tally: Tally) -> list[Spectrum]:
    found = [Spectrum(which, title, _curves(names, tally)) for which, title, names in _SPECTRA]
    return [spectrum for spectrum in found if spectrum.series]


def _curves(names: tuple[str, ...], tally: Tally) -> list[Curve]:
    there = [(name, tally.histograms[name]) for name in names if tally.histograms[name].count]
    return [_curve(_NAMES[name], f"c{place}", histogram) for place, (name, histogram) in enumerate(there, 1)]


def _curve(name: str, role: str, histogram: Histogram) -> Curve:
    """Its points: of those that would lie on one another on an axis of decades, the highest alone."""
    total, seen = histogram.count, 0
    points = {-1: (0.0, (histogram.minimum or 0) / 1e9)}
    for value, count in histogram.values():
        seen += count
        share = min(seen, total - 0.5) / total  # the longest of n stands at 1 - 1/2n: the axis has no 100%
        points[int(-log10(1 - share) * _POINTS_A_DECADE)] = share, value / 1e9
    quantiles, values = zip(*points.values(), strict=True)
    return Curve(name, role, list(quantiles), list(values))


def _width(span: int) -> int:
    """The least of 1, 2, 5, 10, 20, … with which so many values need no more bars than there may be."""
    widths = (int(digit * 10**power) for power in counting() for digit in (1, 2, 5))
    return next(width for width in widths if width * (MOST_BARS - 1) >= span)


def _lengths(name: str, histogram: Histogram) -> Lengths:
    low, high = histogram.minimum or 0, histogram.quantile(_SHOWN) or 0
    width = _width(high - low + 1)
    start = low // width * width
    bars = [0] * ((high - start) // width + 1)
    for value, count in histogram.values():
        if value <= high:
            bars[(value - start) // width] += count
    edges = [start + place * width for place in range(len(bars) + 1)]
    return Lengths(name, edges, bars, histogram.count - sum(bars))
