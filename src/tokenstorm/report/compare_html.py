"""A comparison as one page that needs nothing else: what differs, each number, the sides' charts over one another."""

from collections.abc import Sequence

import msgspec

from tokenstorm.report.assets import COMPARISON, Assets, read_assets
from tokenstorm.report.compare_text import FOOT, HEADS, cells, notes
from tokenstorm.report.comparing import Comparison, Versus
from tokenstorm.report.document import document
from tokenstorm.report.figures import many
from tokenstorm.report.markup import figure, grid, note, section, text
from tokenstorm.report.over_time import Line
from tokenstorm.report.sides import Side
from tokenstorm.report.story import read_story

_SPECTRA = {"corrected": "latency", "ttft": "ttft"}


class Points(msgspec.Struct, frozen=True):
    """A percentile curve: shares of the samples, and the seconds that each does not exceed."""

    quantiles: list[float]
    values: list[float]


class Drawn(msgspec.Struct, frozen=True):
    """What is drawn of one side: one of its runs."""

    name: str
    lines: list[Line]
    curves: dict[str, Points]


def comparison_page(found: Comparison, sides: Sequence[Side]) -> str:
    """The whole page. Without the files that draw it has all but the charts."""
    assets = read_assets(entry=COMPARISON)
    title = f"{' and '.join(one.name for one in found.versus)} against {found.first}"
    parts = [part for one in found.versus for part in _versus(one, found)]
    return document(
        title,
        [
            f"<h1>{text(title)}</h1>",
            *parts,
            section("Over one another", *_charts(assets)),
            section("Notes", *map(note, notes(found))),
        ],
        assets,
        simulated=found.simulated,
        drawn=("story", {"sides": [_drawn(side) for side in sides]}) if assets.script else None,
    )


def _versus(one: Versus, found: Comparison) -> list[str]:
    differs = [(it.what, it.name, it.first, it.second) for it in one.differs]
    same = note("Nothing else differs: the same load, engine, machines and versions.")
    counts = f"{many(one.runs, 'run')} against {many(found.runs, 'run')}"
    return [
        section("Regressions", *map(note, one.regressions)),
        section(
            f"What differs: {one.name} ({counts})",
            grid(("", "", "first", "second"), differs, words=(0, 1, 2, 3)) if differs else same,
        ),
        *(
            section(
                one.name if point.values == "{}" else f"{one.name} at {point.values}",
                grid(HEADS, [cells(row) for row in point.measures], words=(0, len(HEADS) - 1)),
                note(FOOT),
            )
            for point in one.points
        ),
    ]


def _charts(assets: Assets) -> list[str]:
    if not assets.script:
        return [note("Charts are left out: this tokenstorm was installed without the files that draw them.")]
    places = "".join(map(figure, _SPECTRA.values()))
    return [
        '<div class="charts" id="over-time"></div>',
        f'<div class="charts">{places}</div>',
        note("One run of each side, each from its own start."),
    ]


def _drawn(side: Side) -> Drawn:
    paths, summary = next(iter(side.runs.values()))[0]
    story = read_story(paths, summary)
    curves = {
        _SPECTRA[spectrum.id]: Points(spectrum.series[0].quantiles, spectrum.series[0].values)
        for spectrum in story.spectra
        if spectrum.id in _SPECTRA
    }
    return Drawn(side.name, story.over_time.lines, curves)
