"""What a run would ask again: prompts of its own, where there are too few, or those of an earlier run."""

import math
import os
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from tokenstorm.errors import NOT_JSON, PlanError
from tokenstorm.loadgen.arrivals import rate_in, scheduled_count
from tokenstorm.plan import Plan, PromptFile, encode_plan
from tokenstorm.runs import RunPaths

LOOKED_AT: Final = 50
"""So many runs beside this one are looked at, the latest first."""
_MOST_BYTES: Final = 1 << 20
"""A longer plan is not read: it holds texts, and reading many would take long."""


def end_before_repeats(plan: Plan, prompts: int) -> tuple[Plan, str | None]:
    """The plan where no prompt is to come twice, if it asks for that; and, where there are too few of a file, what becomes of it.

    `prompts` are those that requests take in turn; 0 where each request has its own. Raises `PlanError`.
    """
    if not prompts or plan.arrival_by_trace:
        return plan, None
    needed = _requests(plan)
    if not plan.no_repeat:
        # the rows of a trace come again as copies that share nothing with the first ones, as salted prompts do
        is_found_again = isinstance(plan.prompts, PromptFile) and not plan.salted
        if not is_found_again or needed is None or needed <= prompts:
            return plan, None
        times = -(-needed // prompts)
        return plan, (
            f"about {needed} requests take {prompts} prompts, so that these come again, up to {times} times each: "
            "what an engine's prefix cache knows then looks faster (`no_repeat` ends the run before that)"
        )
    warmup = scheduled_count(plan, 0, 1, plan.window_start_ns)[0] if plan.warmup_seconds else 0
    left = prompts - warmup
    if left < 1:
        message = (
            f"the warm-up alone takes all {prompts} prompts, and none is to come again: give more, or a shorter warm-up"
        )
        raise PlanError(message, "no_repeat", ["warmup_seconds"])
    if plan.request_count is not None and plan.request_count <= left:
        return plan, None
    kept = replace(plan, request_count=left)
    if needed is not None and needed <= prompts:
        return kept, None
    return (
        kept,
        f"the run ends after {left} measured requests at the latest: none of the {prompts} prompts is to come again",
    )


def sent_before(plan: Plan, paths: RunPaths) -> str | None:
    """What to know of an earlier run with the same seed and prompts for the same engine; None where there is none.

    Looked at are the runs in the folders beside this one's.
    """
    if plan.salted or plan.cache == "reset":
        return None
    ours = _of(encode_plan(plan))
    try:
        with os.scandir(paths.root.parent) as entries:
            found = [(entry.stat().st_mtime, entry.path) for entry in entries if entry.is_dir()]
    except OSError:
        return None
    for _, path in sorted(found, reverse=True)[: LOOKED_AT + 1]:
        earlier = RunPaths(Path(path))
        if path != str(paths.root) and ours is not None and _planned(earlier) == ours and earlier.timeline.exists():
            return (
                f"the run {earlier.root.name} sent the same prompts to the same address with the same seed: an engine that has run since "
                "then may know them, and look faster than it is (another `seed`, or `cache`: salt or reset)"
            )
    return None


class _Asked(msgspec.Struct):
    """What of a plan decides which bytes an engine gets."""

    seed: int
    prompts: Any
    targets: list[dict[str, Any]]
    endpoint: str
    trace: Any = None


def _planned(paths: RunPaths) -> _Asked | None:
    try:
        if paths.plan.stat().st_size > _MOST_BYTES:
            return None
        return _of(paths.plan.read_bytes())
    except OSError:
        return None


def _of(plan: bytes) -> _Asked | None:
    try:
        return msgspec.json.decode(plan, type=_Asked)
    except NOT_JSON:
        return None


def _requests(plan: Plan) -> int | None:
    """How many requests a run sends, about; None where the answers decide."""
    if plan.closed_loop:
        return plan.request_count
    warmup = (rate_in(plan, 0, plan.window_start_ns) or 0.0) * plan.warmup_seconds
    measured = math.inf if plan.request_count is None else float(plan.request_count)
    if plan.window_end_ns is not None:
        seconds = (plan.window_end_ns - plan.window_start_ns) / 1e9
        measured = min(measured, (rate_in(plan, plan.window_start_ns, plan.window_end_ns) or 0.0) * seconds)
    return round(warmup + measured)
