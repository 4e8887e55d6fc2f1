"""What the report reads from the files of a run: it agrees with the summary."""

from itertools import pairwise
from pathlib import Path

import pytest

from reporting import request, run_of
from tokenstorm.report.story import MOST_BARS, read_story


def test_the_spectrum_meets_the_summarys_percentiles(tmp_path: Path) -> None:
    results = [request(seq, seq * 10**6, ms=10 + seq) for seq in range(1000)]
    paths, summary = run_of(tmp_path, results)
    (corrected, uncorrected), *_ = [one.series for one in read_story(paths, summary).spectra]
    metric = summary.metrics["latency_seconds"]
    assert corrected.values == uncorrected.values, "nothing waited"
    assert all(one <= other for one, other in pairwise(corrected.quantiles))
    assert all(one <= other for one, other in pairwise(corrected.values))
    assert corrected.values[0] == metric.min
    assert corrected.values[-1] == metric.max
    assert corrected.quantiles[-1] == 1 - 0.5 / 1000
    for quantile, value in ((0.5, metric.p50), (0.9, metric.p90), (0.99, metric.p99)):
        near = max(
            value for share, value in zip(corrected.quantiles, corrected.values, strict=True) if share <= quantile
        )
        assert near == pytest.approx(value, rel=0.05)


def test_a_wait_for_a_client_shows_between_corrected_and_uncorrected(tmp_path: Path) -> None:
    late = {"slot_free": 500 * 10**6, "sent": 500 * 10**6, "first_token": 510 * 10**6, "last_token": 600 * 10**6}
    paths, summary = run_of(tmp_path, [request(0, 0, ms=600, **late)])
    corrected, uncorrected = read_story(paths, summary).spectra[0].series
    assert corrected.values[-1] == pytest.approx(0.6, rel=0.01)
    assert uncorrected.values[-1] == pytest.approx(0.1, rel=0.01)


def test_lengths_are_bars_of_round_widths_that_hold_every_request(tmp_path: Path) -> None:
    results = [request(seq, seq * 10**6, ms=10) for seq in range(500)]
    paths, summary = run_of(tmp_path, results)
    inputs, outputs = read_story(paths, summary).lengths
    assert sum(inputs.counts) + inputs.beyond == 500
    assert len(inputs.counts) == len(inputs.edges) - 1 <= MOST_BARS
    assert {after - before for before, after in pairwise(inputs.edges)} == {20}
    assert (inputs.edges[0], inputs.edges[-1]) == (0, 520)
    assert (outputs.edges, outputs.counts) == ([11, 12], [500])


def test_a_length_far_beyond_all_others_is_counted_apart(tmp_path: Path) -> None:
    results = [request(seq, seq * 10**6, ms=10, prompt_tokens=90_000 if seq == 7 else 10) for seq in range(500)]
    inputs = read_story(*run_of(tmp_path, results)).lengths[0]
    assert (inputs.counts, inputs.beyond) == ([499], 1)


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    paths, summary = run_of(tmp_path, [request(0, 0, ms=10)])
    paths.results(0, 0).unlink()
    story = read_story(paths, summary)
    assert (story.over_time.lines, story.spectra, story.stages) == ([], [], [])
    assert [sum(one.counts) for one in story.lengths] == [0, 0]
