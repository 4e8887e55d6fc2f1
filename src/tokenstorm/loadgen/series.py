"""The driver of a series: one run after the other in one process, the next decided from those before it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec

from tokenstorm.errors import OtherVersion, RunError
from tokenstorm.loadgen.journal import take_command
from tokenstorm.loadgen.launcher import Launcher
from tokenstorm.loadgen.live import Status
from tokenstorm.loadgen.pointing import point_of
from tokenstorm.loadgen.variants import Next, check_runs, in_order, plan_of
from tokenstorm.loadgen.varied import next_run
from tokenstorm.metrics.points import Point, SeriesSummary
from tokenstorm.metrics.reports import Outcome
from tokenstorm.metrics.searching import answer, value_of
from tokenstorm.metrics.summary import Summary
from tokenstorm.plan import SeriesPlan
from tokenstorm.runs import RunPaths, SeriesPaths, make_private, write_atomically
from tokenstorm.series import encode_series
from tokenstorm.written import decode

SHOWN = ("address.json", "status.json", "metrics.prom", "timeline.jsonl")
"""Whoever follows the job finds these of the present run in the folder of the series."""
LISTEN_SECONDS = 1.0
AGAIN_SECONDS = 2.0
"""The pause before a run that came to nothing is tried once more."""


class SeriesDriver:
    """Runs a series in its folder. What is there already is not run again. `run` may be called once; `stop` at any time."""

    def __init__(
        self,
        series: SeriesPlan,
        paths: SeriesPaths,
        *,
        api_key: str | None = None,
        secret: str | None = None,
        on_start: Callable[[Next, int | None], None] | None = None,
        on_second: Callable[[Next, Status], None] | None = None,
        on_point: Callable[[Point, SeriesSummary], None] | None = None,
    ) -> None:
        self.series = series
        self.paths = paths
        self._api_key = api_key
        self._secret = secret
        self._on_start, self._on_second, self._on_point = on_start, on_second, on_point
        self._points: list[Point] = []
        self._failed: dict[int, str] = {}
        self._launcher: Launcher | None = None
        self._stopping = asyncio.Event()
        self._drained: float | None = None
        self._cut: int | None = None
        """The run that goes on, or that was the last and did not come to its end."""

    async def run(self) -> SeriesSummary:
        """Run what is missing, and write the summary after each run.

        Raises `PlanError` before anything is sent, and `RunError` where no run comes to anything: what is there is kept.
        """
        check_runs(self.series)
        listening = asyncio.create_task(self._listen())
        try:
            make_private(self.paths.root)
            write_atomically(self.paths.series, encode_series(self.series))
            self._points = finished_points(self.series, self.paths)
            summary = self._write("running")
            while not self._stopping.is_set() and (run := next_run(self.series, self._points)):
                if await self._rest():
                    break
                await self._carry_out(run)
                summary = self._write("running")
                if self._on_point and self._points and self._points[-1].number == run.number:
                    self._on_point(self._points[-1], summary)
            over = next_run(self.series, self._points) is None
            self._show_answer(summary)
            return self._write("completed" if over else "cancelled")
        except OSError as error:
            message = f"cannot use the folder {self.paths.root}: {error.strerror}; choose another with --run-dir"
            raise RunError(message) from None
        finally:
            listening.cancel()

    def stop(self) -> None:
        """End the run that goes on as its launcher does, and start no other."""
        self._stopping.set()
        if self._launcher is not None:
            self._launcher.stop()

    def interrupt(self) -> None:
        """Handle Ctrl-C: as `stop`, but in a drain the first one ends the run at once."""
        self._stopping.set()
        if self._launcher is not None:
            self._launcher.interrupt()

    async def _listen(self) -> None:
        """Obey what is left in the control file: between two runs there is no launcher to be told."""
        while True:
            await asyncio.sleep(LISTEN_SECONDS)
            with suppress(OSError):
                command = take_command(self.paths.control)
                for _ in range({"stop": 1, "abort": 2}.get(command, 0)):
                    self.stop()

    def _show_answer(self, summary: SeriesSummary) -> None:
        """Let the summary of the run that tells most stand for the series: the one that was cut off, the one at the capacity, or the last."""
        number = max((point.number for point in self._points), default=0)
        if summary.search and summary.capacity and summary.capacity.held is not None:
            held = [one.number for one in self._points if value_of(summary.search, one) == summary.capacity.held]
            number = held[-1] if held else number
        if self._cut and self.paths.run(self._cut).summary.exists():
            number = self._cut
        if number:
            self.paths.show(number, "summary.json")

    async def _rest(self) -> bool:
        """Wait out the pause between two runs; whether the series was stopped meanwhile."""
        seconds = self.series.series.cooldown_seconds if self._drained is not None else 0.0
        if self._failed:
            seconds = max(seconds, AGAIN_SECONDS)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _carry_out(self, run: Next) -> None:
        """One run. One that could not start is tried again once; then the series goes on, or ends with it."""
        paths = self.paths.run(run.number)
        _set_aside(paths)
        if self._on_start:
            self._on_start(run, _of(self.series))
        self._launcher = launcher = Launcher(
            plan_of(self.series, run),
            paths,
            api_key=self._api_key,
            secret=self._secret,
            attempt=run.number - 1,
            on_second=(lambda status: self._tell(run, status)) if self._on_second else None,
        )
        self.paths.show(run.number, *SHOWN)
        self._cut = run.number
        try:
            summary = await launcher.run()
        except RunError as error:
            if self._stopping.is_set() or launcher.stops:
                self._stopping.set()
                return
            if run.number in self._failed:
                self._write("cancelled")
                message = f"run {run.number} of the series came to nothing twice: {error}"
                raise RunError(message) from None
            self._failed[run.number] = str(error)
        else:
            if summary.outcome == "completed":
                self._failed.pop(run.number, None)
                self._points.append(point_of(run, summary, paths, self._pause(launcher)))
                self._cut = None
            if summary.outcome != "completed" or launcher.stops:  # whoever told its launcher meant all of them
                self._stopping.set()
            self._drained = launcher.drained_at
        finally:
            self._launcher = None

    def _pause(self, launcher: Launcher) -> float | None:
        if self._drained is None or launcher.begun_at is None:
            return None
        return launcher.begun_at - self._drained

    def _tell(self, run: Next, status: Status) -> None:
        if self._on_second:
            self._on_second(run, status)

    def _write(self, outcome: Outcome) -> SeriesSummary:
        summary = series_summary(self.series, self._points, outcome, self._failed)
        data = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
        write_atomically(self.paths.summary, data)
        return summary


def series_summary(
    series: SeriesPlan, points: list[Point], outcome: Outcome, failed: dict[int, str] | None = None
) -> SeriesSummary:
    """What the points that there are come to."""
    varied, base = series.series, series.plan
    points = sorted(points, key=lambda point: point.number)
    capacity = None
    if varied.search and base.slo and points:
        capacity = answer(varied.search, base.slo, points, stopped=outcome == "cancelled")
    if varied.search:
        order = "each run follows from those before it"
    elif varied.order == "random":
        order = f"random in blocks of {len(in_order(varied, base.seed)) // varied.repeats}, from seed {base.seed}"
    else:
        order = "as given"
    return SeriesSummary(
        series=series,
        outcome=outcome,
        started_at=points[0].started_at if points else None,
        ended_at=points[-1].ended_at if points else None,
        order=order,
        cache=_cache(series),
        of=_of(series),
        points=points,
        failed_points=failed or {},
        capacity=capacity,
    )


def finished_points(series: SeriesPlan, paths: SeriesPaths) -> list[Point]:
    """The points of the runs that are complete: those that the summary has, and one that it has not yet. Raises OSError."""
    known: list[Point] = []
    with suppress(FileNotFoundError):
        known = decode(paths.summary.read_bytes(), SeriesSummary, str(paths.summary)).points
    while (run := next_run(series, known)) and (summary := _completed(paths.run(run.number))):
        if summary.plan.seed != plan_of(series, run).seed:
            break  # somebody else's run
        known.append(point_of(run, summary, paths.run(run.number), None))
    return known


def _completed(paths: RunPaths) -> Summary | None:
    try:
        summary = decode(paths.summary.read_bytes(), Summary, str(paths.summary))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OtherVersion:
        raise
    except RunError:
        return None
    return summary if summary.outcome == "completed" else None


def _set_aside(paths: RunPaths) -> None:
    """Keep what a run that was cut off left, beside the folder in which it is run again."""
    if not paths.root.exists():
        return
    turn = 1
    while (aside := paths.root.with_name(f"{paths.root.name}.cut{turn}")).exists():
        turn += 1
    paths.root.rename(aside)


def _of(series: SeriesPlan) -> int | None:
    return None if series.series.search else len(in_order(series.series, series.plan.seed))


def _cache(series: SeriesPlan) -> str:
    if series.plan.unique_prompts:
        return "salted: each prompt is new, so that no prefix cache helps"
    return "kept: the engine's prefix cache is as the run before left it; each run has a seed of its own"
