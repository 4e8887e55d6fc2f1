"""How a group that runs stands: the verdict so far, by the bounds that hold at its end."""

from collections.abc import Mapping

from msgspec.structs import replace

from tokenstorm.loadgen.arrivals import mean_rate
from tokenstorm.loadgen.group import Group
from tokenstorm.loadgen.live import Standing
from tokenstorm.metrics.reports import Environment
from tokenstorm.metrics.summarize import Run, figures_of
from tokenstorm.metrics.verdict import judge_so_far


def standing_of(group: Group, up: Mapping[int, bool], known_ns: int, environment: Environment) -> Standing:
    """What its deltas come to. `up` tells which ranks are there, `known_ns` how far the deltas are, from the common start."""
    plan = group.plan
    if not group.tally.counts.scheduled:
        return Standing()
    reports = [replace(group.report_of(rank), lost=None if there else "it is gone") for rank, there in up.items()]
    run = Run(
        plan=plan,
        outcome="running",
        window_end=known_ns,
        requested_rps=mean_rate(plan, known_ns),
        started_at=None,
        ended_at=None,
        ranks=reports,
        waited_below_cap=group.waited_below_cap,
        unsent_by_lost_ranks=0,
        left_out=sorted(group.left_out),
        environment=environment,
        engine=group.engine.report(),
        peak=group.peak,
    )
    figures = figures_of(run, group.tally)
    return Standing(judge_so_far(figures), figures.failures, figures.replicas)
