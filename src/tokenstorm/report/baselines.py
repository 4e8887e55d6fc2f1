"""Baselines: runs kept under a name, so that later ones can be compared with them when the first are long gone."""

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tokenstorm.errors import NOT_JSON, RunError, UsageError
from tokenstorm.report.sides import Side, baselines_home, read_side, side_of
from tokenstorm.runs import make_private, write_atomically

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEPT = ("plan.json", "summary.json", "timeline.jsonl")


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """`baseline.json`: what is kept under a name, and where it came from. `values` are those of each run of a series, as JSON."""

    name: str
    set_at: str
    source: str
    values: list[str]
    model: str | None
    simulated: bool


def set_baseline(name: str, typed: str) -> Baseline:
    """Keep the plan, summary and timeline of each run under a name, in place of what was there. Raises `RunError`."""
    folder = _folder(name)
    side = read_side(typed)
    first = side.first.environment
    flat = [(values, paths, summary) for values, runs in side.runs.items() for paths, summary in runs]
    told = Baseline(
        name=name,
        set_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=typed,
        values=[values for values, _, _ in flat],
        model=first.model,
        simulated=first.simulated,
    )
    fresh, old = folder.with_name(f".{name}.new"), folder.with_name(f".{name}.old")
    try:
        make_private(folder.parent)
        shutil.rmtree(fresh, ignore_errors=True)
        for number, (_, paths, summary) in enumerate(flat, 1):
            run = fresh / "runs" / str(number)
            run.mkdir(parents=True)
            for file in _KEPT:
                if (paths.root / file).is_file():
                    shutil.copyfile(paths.root / file, run / file)
            write_atomically(run / "summary.json", msgspec.json.encode(summary))
        write_atomically(fresh / "baseline.json", msgspec.json.encode(told))
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        message = f"cannot keep the baseline in {folder}: {error.strerror}"
        raise RunError(message) from None
    return told


def read_baseline(name: str) -> Side:
    """The runs of a baseline. Raises `RunError`."""
    told, folder = _told(_folder(name)), _folder(name)
    if told is None:
        there = ", ".join(one.name for one in baselines()) or "none yet: `tokenstorm baseline set NAME RUN` sets one"
        message = f"there is no baseline {name!r}; there are: {there}"
        raise RunError(message)
    found = Side(f"baseline {name}")
    for number, values in enumerate(told.values, 1):
        one = side_of(folder / "runs" / str(number), name)
        found.runs.setdefault(values, []).extend(one.runs["{}"])
    return found


def baselines() -> list[Baseline]:
    """All there are, by name."""
    found = [_told(path.parent) for path in sorted(baselines_home().glob("[!.]*/baseline.json"))]
    return [one for one in found if one]


def remove_baseline(name: str) -> None:
    """Forget a baseline. Raises `RunError`."""
    folder = _folder(name)
    if _told(folder) is None:
        message = f"there is no baseline {name!r}: `tokenstorm baseline list` shows those there are"
        raise RunError(message)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        message = f"cannot remove {folder}: {error.strerror}"
        raise RunError(message) from None


def _folder(name: str) -> Path:
    if not _NAME.fullmatch(name):
        message = f"{name!r} cannot be the name of a baseline: letters, digits, '.', '_' and '-', up to 100"
        raise UsageError(message)
    return baselines_home() / name


def _told(folder: Path) -> Baseline | None:
    try:
        return msgspec.json.decode((folder / "baseline.json").read_bytes(), type=Baseline)
    except FileNotFoundError:
        return None
    except (OSError, *NOT_JSON) as error:
        message = f"cannot read {folder / 'baseline.json'}: {error}; set the baseline again"
        raise RunError(message) from None
