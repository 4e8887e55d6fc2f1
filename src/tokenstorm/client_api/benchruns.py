"""The runs of `tokenstorm bench` on this machine, for the page: to lie over those of groups."""

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import APIRouter, Response
from fastapi import Path as InPath

from tokenstorm.api.answer import Answer, said
from tokenstorm.api.group_answers import Verdict
from tokenstorm.client_api.history import without_histograms
from tokenstorm.errors import NOT_JSON, Unknown
from tokenstorm.models import Documented
from tokenstorm.runs import RunPaths
from tokenstorm.web import problems

MOST = 200
RunId = Annotated[str, InPath(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,99}$", description="A run's id")]


class BenchRun(Answer, frozen=True, kw_only=True):
    """One run that no group made, and that is over."""

    run_id: str
    name: str = ""
    started_at: str | None = None
    verdict: Verdict


class BenchRuns(Answer, frozen=True, kw_only=True):
    """The newest of them, newest first."""

    runs: tuple[BenchRun, ...]
    count: Annotated[int, said(None, 1)]


class _Named(msgspec.Struct):
    name: str = ""


class _Stated(msgspec.Struct):
    state: Verdict


class _Summary(msgspec.Struct):
    run_id: str
    group_id: int | None
    started_at: str | None
    plan: _Named
    verdict: _Stated


def bench_routes(folder: Path) -> APIRouter:
    """`/runs`, over the folder of all runs of this machine."""
    routes = APIRouter(route_class=Documented)

    @routes.get("", summary="Runs of `tokenstorm bench` on this machine")
    async def runs() -> BenchRuns:
        """The newest 200 that are over, the newest first."""
        found = await asyncio.to_thread(newest, folder)
        return BenchRuns(runs=tuple(found), count=len(found))

    @routes.get("/{run_id}/results", summary="The summary of one", response_class=Response, responses=problems(404))
    async def results(run_id: RunId) -> Response:
        """Its summary.json."""
        summary = await asyncio.to_thread(_read, RunPaths(folder / run_id).summary, run_id)
        return Response(summary, media_type="application/json")

    @routes.get("/{run_id}/timeline", summary="Every second of one", response_class=Response, responses=problems(404))
    async def timeline(run_id: RunId) -> Response:
        """JSON lines without their histograms (docs/runs.md)."""
        shown = await asyncio.to_thread(_seconds, RunPaths(folder / run_id).timeline, run_id)
        return Response(shown, media_type="application/x-ndjson")

    return routes


def newest(folder: Path) -> list[BenchRun]:
    """Those that are over, the newest first."""
    there = sorted(folder.glob("*/summary.json"), key=_written_at, reverse=True)
    found = []
    for path in there:
        try:
            summary = msgspec.json.decode(path.read_bytes(), type=_Summary)
        except (OSError, *NOT_JSON):  # the run's own commands tell what is wrong with it
            continue
        if summary.group_id is None and path.parent.name == summary.run_id:
            run = BenchRun(
                run_id=summary.run_id,
                name=summary.plan.name,
                started_at=summary.started_at,
                verdict=summary.verdict.state,
            )
            found.append(run)
        if len(found) == MOST:
            break
    return found


def _written_at(path: Path) -> int:
    """0 for one that was purged meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _seconds(path: Path, run_id: str) -> bytes:
    return b"".join(line.text for line in without_histograms(_read(path, run_id)))


def _read(path: Path, run_id: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        message = f"there is no {path.name} of run {run_id}: GET /api/v1/runs lists the runs that are over"
        raise Unknown(message) from None
