"""How sure a number of a single run is, by its seconds: batch means, and blocks of time drawn anew."""

from collections.abc import Sequence

from tokenstorm.loadgen.live import TimelineLine
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.intervals import Estimate, batch_means, block_bootstrap, edges_of
from tokenstorm.metrics.measures import Measure
from tokenstorm.metrics.summary import QUANTILES
from tokenstorm.report.whole import Found, seconds_of
from tokenstorm.runs import RunPaths

BLOCKS = 20
LEAST_BLOCK = 2
"""A block lasts at least this many seconds."""


def estimate_over_time(measure: Measure, paths: RunPaths, value: float) -> Estimate | None:
    """The error of one number of a run, whose value the summary tells; None where its timeline tells too little."""
    lines = [line for line in seconds_of(paths, Found(0, {})) if line.phase == "measured"]
    if not lines:
        return None
    found = _of_time(measure, lines) if measure.time else _of_counts(measure.name, lines)
    return found and Estimate(value, found.error, found.df, found.method)


def _of_time(measure: Measure, lines: Sequence[TimelineLine]) -> Estimate | None:
    histograms = [line.histograms.get(measure.time, Histogram()) for line in lines]
    if measure.statistic == "mean":
        return batch_means([one.total / 1e9 for one in histograms], [one.count for one in histograms])
    blocks = [Histogram() for _ in range(min(BLOCKS, len(lines) // LEAST_BLOCK))]
    for block, (start, end) in zip(blocks, edges_of(len(lines), len(blocks)) if blocks else [], strict=True):
        for one in histograms[start:end]:
            block.merge(one)
    bins = sorted({index for block in blocks for index in block.counts})
    values = {
        index: value for block in blocks for index, (value, _) in zip(sorted(block.counts), block.values(), strict=True)
    }
    counts = [[block.counts.get(index, 0) for index in bins] for block in blocks]
    found = block_bootstrap(counts, [values[index] / 1e9 for index in bins], [QUANTILES[measure.statistic]], seed=1)
    return found[0] if found else None


def _of_counts(name: str, lines: Sequence[TimelineLine]) -> Estimate | None:
    ended = [line.succeeded + line.failed for line in lines]
    match name:
        case "requests_per_second":
            return batch_means([line.succeeded for line in lines], [1] * len(lines))
        case "output_tokens_per_second":
            return batch_means([line.output_tokens for line in lines], [1] * len(lines))
        case "error_rate":
            return batch_means([line.failed for line in lines], ended)
        case "goodput":
            scheduled = [one + line.unsent for one, line in zip(ended, lines, strict=True)]
            return batch_means([line.good or 0 for line in lines], scheduled)
    return None
