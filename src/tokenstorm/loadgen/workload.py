"""Workloads that are prepared before a run: the file that the ranks read, and what it holds."""

from array import array
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import count
from pathlib import Path

from msgspec.msgpack import encode
from msgspec.structs import replace

from tokenstorm.errors import PlanError
from tokenstorm.loadgen.datasets import stream_prompts
from tokenstorm.loadgen.mixing import Order
from tokenstorm.loadgen.prepared import Entry, Rows, Workload, write_prepared
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.prompts import Drawn, PromptSource, load_prompts, pinned, refuse_unfit
from tokenstorm.loadgen.recorded import Recorded, stripe_of
from tokenstorm.loadgen.traces import FORMATS, SECOND, Row, read_trace
from tokenstorm.metrics.reports import PromptStock, Spread, WorkloadFacts
from tokenstorm.plan import Plan, PromptFile, TraceFile


def prepare(plan: Plan, path: Path, context: int | None = None) -> tuple[Workload, WorkloadFacts]:
    """Write the workload of a plan into a file of the run, without the rows that are longer than the model's `context`.

    Raises `PlanError` and OSError.
    """
    trace, file = plan.trace, plan.prompts
    assert trace is not None
    assert isinstance(file, TraceFile), "only a trace is prepared"
    read = read_trace(pinned(file.path, file.sha256), file.path, trace)
    seen = _Seen(read.format.block)

    def entries() -> Iterator[tuple[int, Entry]]:
        for row in read.rows:
            if context is not None and row.input + max(1, row.output) > context:
                read.skipped[f"prompt and answer are longer than the {context} tokens that the model takes"] += 1
                continue
            seen.add(row)
            yield row.at, Entry(row.input, row.output, row.ids)

    workload = write_prepared(path, entries())
    if not workload.rows:
        message = f"no row of {file.path} can be sent: {', '.join(read.skipped)}"
        raise PlanError(message, "trace")
    return workload, seen.facts(read.format.name, dict(read.skipped))


def prepare_prompts(plan: Plan, path: Path) -> tuple[Workload, PromptStock]:
    """Write the prompts of a plan's file into a file of the run, so that no rank has all of them in memory.

    Raises `PlanError` and OSError.
    """
    file = plan.prompts
    assert isinstance(file, PromptFile), "only a file is prepared"
    left_out: Counter[str] = Counter()
    distinct: set[bytes] = set()

    def entries() -> Iterator[tuple[int, Prompt]]:
        for prompt in stream_prompts(pinned(file.path, file.sha256), file.path, plan.columns, left_out):
            refuse_unfit(plan, [prompt], file.path)
            distinct.add(blake2b(encode(replace(prompt, index=None)), digest_size=8).digest())
            yield 0, prompt

    workload = write_prepared(path, entries())
    return workload, PromptStock(workload.rows, len(distinct), dict(left_out))


def read_workload(plan: Plan, workload: Workload | None, rank: int = 0, ranks: int = 1) -> PromptSource:
    """The prompts of a plan: those of the workload that was prepared for it, where there is one, for one rank."""
    if workload is None:
        return load_prompts(plan)
    if isinstance(plan.prompts, PromptFile):
        order = Order(workload.rows, plan.seed)
        return Drawn(plan, Rows(workload, map(order.__getitem__, count(rank, ranks)), Prompt), order=order)
    assert isinstance(plan.prompts, TraceFile), "nothing else is prepared"
    assert plan.prompts.format is not None, "it was looked at"
    rows = Rows(workload, stripe_of(plan, workload.rows, rank, ranks), Entry)
    return Recorded(plan, rows, FORMATS[plan.prompts.format].block)


class _Seen:
    """What is told of a workload, from its rows as they pass."""

    def __init__(self, block: int | None) -> None:
        self._block = block
        self._input, self._output = array("q"), array("q")
        self._known: dict[int, int] = {}
        """How many tokens of each block some row had."""
        self._reused = self._tied = self._no_output = 0
        self._last: int | None = None
        self._in_second = self._peak = 0

    def add(self, row: Row) -> None:
        self._input.append(row.input)
        self._output.append(max(1, row.output))
        self._no_output += row.output == 0
        self._tied += row.at == self._last
        same_second = self._last is not None and row.at // SECOND == self._last // SECOND
        self._in_second = self._in_second + 1 if same_second else 1
        self._peak = max(self._peak, self._in_second)
        self._last = row.at
        if self._block is not None:
            self._reused += self._reuse(row, self._block)

    def _reuse(self, row: Row, block: int) -> int:
        """How many tokens at the beginning of a row some earlier row had, too."""
        reused, goes_on = 0, True
        for place, one in enumerate(row.ids):
            size = min(block, row.input - place * block)
            known = self._known.get(one, 0)
            if goes_on:
                reused += min(known, size)
                goes_on = known >= size
            if size > known:
                self._known[one] = size
        return reused

    def facts(self, name: str, skipped: dict[str, int]) -> WorkloadFacts:
        span = (self._last or 0) / SECOND
        return WorkloadFacts(
            format=name,
            rows=len(self._input),
            span_seconds=span,
            mean_rps=len(self._input) / span if span else float(len(self._input)),
            peak_rps=self._peak,
            tied=self._tied,
            input=_spread(self._input),
            output=_spread(self._output),
            ideal_reuse=self._reused / sum(self._input) if self._known else None,
            no_output=self._no_output,
            skipped=skipped,
        )


def _spread(lengths: "array[int]") -> Spread:
    ordered = sorted(lengths)
    last = len(ordered) - 1
    return Spread(sum(ordered) / len(ordered), ordered[0], ordered[last // 2], ordered[last * 99 // 100], ordered[last])
