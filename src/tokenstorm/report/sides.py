"""What is compared: runs, found by what was typed, with the values by which the runs of a series differ."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tokenstorm.errors import NOT_JSON, RunError, UsageError
from tokenstorm.metrics.points import SeriesSummary
from tokenstorm.metrics.summary import Summary
from tokenstorm.report.load import load_summary
from tokenstorm.runs import RunPaths, SeriesPaths, data_home

LAST = "last"


@dataclass(frozen=True)
class Side:
    """Runs under one name, by the values in which they differ (as JSON; `{}` where they are repeats)."""

    name: str
    runs: dict[str, list[tuple[RunPaths, Summary]]] = field(default_factory=dict)

    @property
    def first(self) -> Summary:
        """One of its runs, for what all of them have in common."""
        return next(iter(self.runs.values()))[0][1]

    @property
    def count(self) -> int:
        """How many runs there are."""
        return sum(map(len, self.runs.values()))


def baselines_home() -> Path:
    """Where the runs of baselines are kept, each in a folder with its name."""
    return data_home() / "baselines"


def read_side(typed: str) -> Side:
    """The runs that a name stands for: of one run, of a series, or of all runs in a folder. Raises `RunError`."""
    return side_of(find_runs(typed), typed)


def side_of(folder: Path, name: str) -> Side:
    """The runs in a folder."""
    found = Side(name)
    if SeriesPaths(folder).series.is_file():  # first: that of a group has a plan beside it
        paths = _of_series(SeriesPaths(folder))
    elif (folder / "plan.json").is_file():
        paths = [("{}", RunPaths(folder))]
    else:
        plans = sorted(folder.glob("*/plan.json")) or sorted(folder.glob("runs/*/plan.json"))
        paths = [("{}", RunPaths(plan.parent)) for plan in plans]
    for values, one in paths:
        found.runs.setdefault(values, []).append((one, load_summary(one)))
    if not found.runs:
        message = f"{name}: {folder} holds no run, no series and no folders of runs"
        raise RunError(message)
    return found


def _of_series(paths: SeriesPaths) -> list[tuple[str, RunPaths]]:
    try:
        summary = msgspec.json.decode(paths.summary.read_bytes(), type=SeriesSummary)
    except (OSError, *NOT_JSON) as error:
        message = f"cannot read {paths.summary}: {error}; a series has it after its first run"
        raise RunError(message) from None
    return [
        (msgspec.json.encode(dict(sorted(point.values.items()))).decode(), paths.run(point.number))
        for point in summary.points
    ]


def find_runs(name: str) -> Path:
    """The folder that a name stands for: a path, `last`, the number of a group, or a run id or its beginning."""
    folder, runs = Path(name), data_home() / "runs"
    if folder.is_file():
        message = f"{folder} is a file: give the folder of the run, {folder.parent}"
        raise UsageError(message)
    if folder.exists():
        return folder
    if name == LAST:
        there = [
            (file.stat().st_mtime_ns, file.parent)
            for kind in ("plan", "series")
            for file in runs.glob(f"*/{kind}.json")
        ]
        if there:
            return max(there)[1]
        message = f"there is no run in {runs} yet: `tokenstorm bench URL` makes one"
        raise RunError(message)
    if name.isdecimal() and (group := _of_group(runs, int(name))):
        return group
    found = [one for one in runs.glob("*") if one.name.startswith(name)]
    if len(found) != 1:
        which = f"{len(found)} runs begin so" if found else "it is no folder, and no run begins so"
        message = f"{name}: {which} in {runs}"
        raise RunError(message)
    return found[0]


class _Group(msgspec.Struct):
    group_id: int | None = None


def _of_group(runs: Path, number: int) -> Path | None:
    """The newest run of a group on this machine."""
    for paths in newest_first(runs):
        try:
            if msgspec.json.decode(paths.plan.read_bytes(), type=_Group).group_id == number:
                return paths.root
        except (OSError, *NOT_JSON):
            continue
    return None


def newest_first(runs: Path) -> list[RunPaths]:
    """The runs in a folder, by when they were planned."""
    there = [(plan.stat().st_mtime_ns, plan.parent.name, RunPaths(plan.parent)) for plan in runs.glob("*/plan.json")]
    return [paths for _, _, paths in sorted(there, key=lambda one: one[:2], reverse=True)]
