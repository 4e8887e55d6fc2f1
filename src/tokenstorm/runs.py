"""Every path of a run directory, in one place, and how files get into it."""

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """The files of one run, below `root`."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def address(self) -> Path:
        return self.root / "address.json"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.json"

    @property
    def timeline(self) -> Path:
        return self.root / "timeline.jsonl"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.prom"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def workload(self) -> Path:
        return self.root / "workload"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def stderr(self) -> Path:
        return self.root / "stderr.log"

    def results(self, rank: int, attempt: int) -> Path:
        """The result lines of one rank; `attempt` counts the starts of the job."""
        return self.root / f"results.{rank}.{attempt}.jsonl"

    def all_results(self) -> dict[tuple[int, int], Path]:
        """The result files there are, by (rank, attempt)."""
        found = {}
        for path in self.root.glob("results.*.jsonl"):
            if match := re.fullmatch(r"results\.(\d+)\.(\d+)\.jsonl", path.name):
                found[int(match[1]), int(match[2])] = path
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class SeriesPaths:
    """The files of a series, below `root`; each of its runs has a folder of its own."""

    root: Path

    @property
    def series(self) -> Path:
        return self.root / "series.json"

    @property
    def summary(self) -> Path:
        return self.root / "series_summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def control(self) -> Path:
        return self.root / "control"

    def show(self, number: int, *names: str) -> None:
        """Let files of one run stand in the folder of the series too, as links: for whoever follows a job in its folder."""
        for name in names:
            link = self.root / f".{name}.link"
            link.unlink(missing_ok=True)
            link.symlink_to(f"runs/{number}/{name}")
            link.replace(self.root / name)

    def run(self, number: int) -> RunPaths:
        """The files of one of its runs, counted from 1."""
        return RunPaths(self.root / "runs" / str(number))


def data_home() -> Path:
    """`$TOKENSTORM_HOME`, or the user's data folder."""
    if home := os.environ.get("TOKENSTORM_HOME"):
        return Path(home)
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(share) / "tokenstorm"


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def signal_name(number: int) -> str:
    """`SIGKILL`; those between the real-time signals have no name."""
    return next((one.name for one in signal.Signals if one == number), f"signal {number}")


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write to a temporary name beside `path`, then rename: readers see the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:  # noqa: PTH123 - a mode from the first moment
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append(path: Path, data: bytes) -> None:
    """Add whole lines to a file, or nothing: a disk that is full in the middle of one leaves no torn line."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except BaseException:
            file.truncate(before)
            raise
