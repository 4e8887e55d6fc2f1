"""What a run asks, made ready before its ranks start: prompts are read or prepared, and its plan asks for no more than there is."""

from pathlib import Path
from typing import Final, NamedTuple

from tokenstorm.loadgen.prepared import Workload
from tokenstorm.loadgen.prompts import Batched, PromptSource
from tokenstorm.loadgen.repeated import end_before_repeats, sent_before
from tokenstorm.loadgen.replay import keep_rows
from tokenstorm.loadgen.workload import prepare, prepare_prompts, read_workload
from tokenstorm.metrics.reports import PromptStock, WorkloadFacts
from tokenstorm.plan import Plan, PromptFile, TraceFile
from tokenstorm.runs import RunPaths

IN_MEMORY_BYTES: Final = 4 << 20
"""A file of prompts that is not longer is read by each rank; a longer one is prepared, and read in stripes."""


class Provided(NamedTuple):
    """What a run asks.

    `workload` is what was prepared for the ranks, and `facts` what a trace holds; `stock` is None where each request has a
    prompt of its own. `notes` tell what is not as one might expect.
    """

    plan: Plan
    prompts: PromptSource
    workload: Workload | None
    facts: WorkloadFacts | None
    stock: PromptStock | None
    notes: list[str]


def provide(plan: Plan, paths: RunPaths, context: int | None = None) -> Provided:
    """Make ready what the ranks ask; `context` is how many tokens the model takes, where it is known.

    The run directory is there. Raises `PlanError` and OSError.
    """
    workload, facts, stock = None, None, None
    path = paths.workload.absolute()
    if isinstance(plan.prompts, TraceFile):
        workload, facts = prepare(plan, path, context)
    elif isinstance(plan.prompts, PromptFile) and _may_be_striped(plan) and _is_long(plan.prompts):
        workload, stock = prepare_prompts(plan, path)
    prompts = read_workload(plan, workload)
    count, distinct = prompts.count()
    if count:
        stock = PromptStock(count, distinct, prompts.left_out)
    if isinstance(plan.prompts, TraceFile) and workload and workload.rows != plan.prompts.rows:
        plan = keep_rows(plan, workload.rows, prompts.times)
    rows = (workload.rows if workload else count) // (plan.texts_per_request if isinstance(prompts, Batched) else 1)
    plan, repeats = end_before_repeats(plan, rows)
    notes = [note for note in (repeats, sent_before(plan, paths)) if note]
    return Provided(plan, prompts, workload, facts, stock, notes)


def _is_long(file: PromptFile) -> bool:
    """A file that is not there is not long: whoever reads it says why it cannot."""
    try:
        return Path(file.path).stat().st_size > IN_MEMORY_BYTES
    except OSError:
        return False


def _may_be_striped(plan: Plan) -> bool:
    """Whether each request takes one prompt, whose form is known. A conversation is a session's, whichever rank that is on."""
    return plan.texts_per_request == 1 and plan.custom is None and plan.conversation is None
