"""Makes the summary from one `Tally` and what is known about the ranks."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec
from msgspec.structs import asdict

from tokenstorm.metrics.counts import Counts, ReplicaReport
from tokenstorm.metrics.energy import Done, EnergyReport, EnergyTally
from tokenstorm.metrics.engine import EngineReport
from tokenstorm.metrics.goodput import Goodput
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.reports import Clock, DiskReport, Environment, Missing, Outcome, RankReport
from tokenstorm.metrics.steadiness import mean_interval, rate_intervals, steady_report
from tokenstorm.metrics.stretches import Stretch, Stretches
from tokenstorm.metrics.summary import (
    ClientReport,
    Concurrency,
    Distribution,
    Figures,
    Metric,
    ModelReport,
    Rates,
    Sessions,
    StageReport,
    Summary,
    Tokens,
    TurnReport,
    Windows,
)
from tokenstorm.metrics.tally import METRICS, StageTally, Tally, Window
from tokenstorm.metrics.turns import LATER
from tokenstorm.metrics.verdict import judge
from tokenstorm.plan import Plan, Shared
from tokenstorm.result import CANCELLED, CENSORED, EXHAUSTED

_SEND_METRICS = frozenset(("schedule_delay", "client_wait", "send_lag"))


N = TypeVar("N", int, float)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a summary needs beside the tally. Nanoseconds from the common start: `window_end`, and `arrivals_end`, after which no
    request is due (None: the same).
    """

    plan: Plan
    outcome: Outcome
    window_end: int
    arrivals_end: int | None = None
    requested_rps: float | None
    started_at: str | None
    ended_at: str | None
    ranks: list[RankReport]
    waited_below_cap: int
    unsent_by_lost_ranks: int
    left_out: list[str]
    environment: Environment
    missing: Missing = Missing()
    engine: EngineReport | None = None
    peak: int | None = None
    energy: EnergyTally = msgspec.field(default_factory=EnergyTally)
    stretches: Stretches = msgspec.field(default_factory=Stretches)


def summarize(run: Run, tally: Tally) -> Summary:
    """Put the numbers together and judge them."""
    figures = figures_of(run, tally)
    return Summary(**asdict(figures), verdict=judge(figures, run.missing))


def figures_of(run: Run, tally: Tally) -> Figures:
    """Put the numbers together."""
    plan, counts = run.plan, tally.counts
    stretches = run.stretches.until(run.window_end / 1e9)
    metrics = {f"{name}_seconds": _metric(name, tally.histograms[name], counts, stretches) for name in METRICS}
    return Figures(
        run_id=plan.run_id,
        group_id=plan.group_id,
        plan=plan,
        outcome=run.outcome,
        started_at=run.started_at,
        ended_at=run.ended_at,
        clock={str(report.rank): Clock(report.start_monotonic_ns, report.clock_offset_ns) for report in run.ranks},
        counts=counts,
        windows=Windows(plan.window_start_ns / 1e9, run.window_end / 1e9, tally.warmup),
        rates=_rates(run, tally, stretches),
        metrics=metrics,
        tokens=_tokens(run, tally),
        goodput=_goodput(run, tally),
        lengths={name: _distribution(histogram) for name, histogram in tally.lengths.items()},
        concurrency=Concurrency(tally.busy_ns / 1e9 / _seconds_of(run), run.peak),
        steady=None if run.outcome == "running" else steady_report(plan, stretches),
        stages=_stages(run, tally),
        models=_models(run, tally),
        sessions=_sessions(run, tally),
        turns=_turns(tally),
        warnings=dict(sorted(tally.warnings.items())),
        failures={kind: words for kind, words in sorted(tally.failures.items()) if kind not in {CENSORED, CANCELLED}},
        replicas={
            target.replica: ReplicaReport(
                target.url, tally.replicas.get(target.replica, Counts()), target.replica in run.left_out
            )
            for target in plan.targets
        },
        ranks=run.ranks,
        client=_client(run, tally),
        environment=run.environment,
        engine=run.engine,
        energy=_energy(run, tally),
    )


def _missing(name: str, counts: Counts) -> float:
    """The share of the scheduled requests that has no sample of one of the times."""
    missing = counts.unsent + (0 if name in _SEND_METRICS else counts.failed + counts.censored + counts.cancelled)
    return missing / counts.scheduled if counts.scheduled else 0.0


def _metric(name: str, histogram: Histogram, counts: Counts, stretches: Sequence[Stretch] = ()) -> Metric:
    ci = mean_interval(stretches, name, _seconds(histogram.mean()))
    return Metric.of(histogram, _missing(name, counts), ci=ci)


def _seconds_of(run: Run) -> float:
    return max((run.window_end - run.plan.window_start_ns) / 1e9, 1e-9)


def _sending_seconds(run: Run) -> float:
    """The part of the measured window in which requests were due."""
    end = run.window_end if run.arrivals_end is None else min(run.window_end, run.arrivals_end)
    return max((end - run.plan.window_start_ns) / 1e9, 1e-9)


def _goodput(run: Run, tally: Tally) -> Goodput | None:
    slo, good, seconds = run.plan.slo, tally.good, _seconds_of(run)
    if slo is None:
        return None
    ratio = good.count / tally.counts.judged if tally.counts.judged else None
    return Goodput(
        good=good.count,
        ratio=ratio,
        rps=good.done_in_window / seconds,
        output_tokens_per_second=_output(good.output_tokens_in_window / seconds, tally),
        met=ratio is not None and ratio >= slo.share,
    )


def _distribution(histogram: Histogram) -> Distribution:
    p50, p90, p99 = (histogram.quantile(q) for q in (0.5, 0.9, 0.99))
    return Distribution(histogram.count, histogram.mean(), histogram.minimum, histogram.maximum, p50, p90, p99)


def _stages(run: Run, tally: Tally) -> list[StageReport]:
    """Each stage that began before the window's end."""
    found, start = [], run.plan.window_start_ns
    ends = Window.of(run.plan, run.window_end).stages
    for number, (stage, planned) in enumerate(zip(run.plan.stages, ends, strict=True)):
        end = min(planned, run.window_end)
        if start < end:
            part = tally.stages.get(number, StageTally())
            judged = part.counts.judged
            found.append(
                StageReport(
                    requested_rps=stage.rps,
                    start=start / 1e9,
                    end=end / 1e9,
                    counts=part.counts,
                    achieved_rps=part.done / ((end - start) / 1e9),
                    goodput=part.good / judged if run.plan.slo and judged else None,
                    metrics={
                        f"{name}_seconds": _metric(name, histogram, part.counts)
                        for name, histogram in part.histograms.items()
                    },
                )
            )
        start = planned
    return found


def _models(run: Run, tally: Tally) -> dict[str, ModelReport]:
    """Each of several models, in the order in which the plan names them."""
    found = {}
    for name in (one.name for one in run.plan.models):
        part = tally.models.get(name, StageTally())
        judged = part.counts.judged
        found[name] = ModelReport(
            counts=part.counts,
            achieved_rps=part.done / _seconds_of(run),
            output_tokens=part.output_tokens or None,
            goodput=part.good / judged if run.plan.slo and judged else None,
            metrics={f"{name}_seconds": _metric(name, times, part.counts) for name, times in part.histograms.items()},
        )
    return found


def _sessions(run: Run, tally: Tally) -> Sessions | None:
    if (talk := run.plan.conversation) is None:
        return None
    seconds = _seconds_of(run)
    if talk.sessions and talk.sessions_per_second:  # the last ones go on after all have begun
        seconds = min(seconds, talk.sessions / talk.sessions_per_second)
    found = tally.talks.sessions
    ended = found.completed + found.failed + found.too_long
    return Sessions(
        started=found.started,
        completed=found.completed,
        failed=found.failed,
        too_long=found.too_long,
        cut=found.started - ended,
        unsent=found.unsent,
        turns_cut=found.turns - found.turns_sent,
        requested_per_second=talk.sessions_per_second,
        started_per_second=found.started / seconds,
    )


def _turns(tally: Tally) -> list[TurnReport]:
    return [
        TurnReport(
            turn=number,
            and_later=number == LATER,
            counts=turn.counts,
            metrics={
                f"{name}_seconds": _metric(name, histogram, turn.counts) for name, histogram in turn.histograms.items()
            },
            prompt_tokens=_distribution(turn.prompts),
            cached=turn.cached_tokens / turn.prompt_tokens if turn.told_cached and turn.prompt_tokens else None,
        )
        for number, turn in sorted(tally.talks.turns.items())
    ]


def _rates(run: Run, tally: Tally, stretches: Sequence[Stretch]) -> Rates:
    seconds = _seconds_of(run)
    return Rates(
        requested_rps=run.requested_rps,
        achieved_rps=tally.done_in_window / seconds,
        output_tokens_per_second=_output(tally.output_tokens_in_window / seconds, tally),
        prompt_tokens_per_second=_known(tally.prompt_tokens_in_window / seconds, tally),
        output_tokens_per_second_per_user=1e9 / tpot if (tpot := tally.histograms["tpot"].quantile(0.5)) else None,
        sent_rps=tally.counts.sent / _sending_seconds(run),
        ci=rate_intervals(stretches),
    )


def _energy(run: Run, tally: Tally) -> EnergyReport | None:
    plan = run.plan
    done = Done(
        tally.done_in_window,
        _output(tally.output_tokens_in_window, tally),
        _known(tally.prompt_tokens_in_window, tally),
    )
    nodes = {node for target in plan.targets for node in target.nodes}
    return run.energy.report(plan.gpu_sources, nodes, plan.window_start_ns / 1e9, run.window_end / 1e9, done)


def _known(value: N, tally: Tally) -> N | None:
    """`value` if anybody counted prompt tokens: a prompt has at least one."""
    return value if tally.prompt_tokens_in_window or tally.prompt_tokens else None


def _output(value: N, tally: Tally) -> N | None:
    """`value` if anybody counted output tokens."""
    return value if tally.output_tokens_in_window or tally.token_sources else None


def _tokens(run: Run, tally: Tally) -> Tokens:
    asked = tally.prompt_asked
    return Tokens(
        _known(tally.prompt_tokens, tally),
        _output(tally.output_tokens, tally),
        _source(tally),
        prompt_asked=asked or None,
        prompt_ratio=tally.prompt_counted / asked if asked else None,
        prompt_off=tally.prompt_off if asked else None,
        prefix_ideal=_ideal(run, tally),
        prefix_found=run.engine.prefix_found if run.engine else None,
    )


def _ideal(run: Run, tally: Tally) -> float | None:
    """What an ideal prefix cache would find of the prompts, where somebody knows what they share; of salted ones nothing.

    Turns of conversations share their own past, too, of which nobody knows how long it is.
    """
    prompts, workload = run.plan.prompts, run.environment.workload
    if run.plan.salted or run.plan.conversation is not None:
        return None
    if isinstance(prompts, Shared):
        return prompts.ideal_reuse(tally.counts.sent + tally.warmup.sent)
    return workload.ideal_reuse if workload else None


def _client(run: Run, tally: Tally) -> ClientReport:
    ranks = run.ranks
    disk = DiskReport()
    for report in ranks:
        disk = disk.merge(report.disk)
    return ClientReport(
        cpu_max=max((report.cpu for report in ranks), default=0.0),
        clock="kernel" if ranks and all(report.clock == "kernel" for report in ranks if not report.lost) else "read",
        loop_lag_max_seconds=max((report.loop_lag_max_seconds for report in ranks), default=0.0),
        gc_seconds=sum(report.gc_seconds for report in ranks),
        gc_longest_seconds=max((report.gc_longest_seconds for report in ranks), default=0.0),
        disk=disk,
        waited=tally.waited,
        waited_below_cap=run.waited_below_cap,
        not_sent_by_generator=tally.overslept
        + run.unsent_by_lost_ranks
        + tally.counts.failed_by_kind.get(EXHAUSTED, 0),
        chunks=tally.chunks,
        coalesced=tally.coalesced,
    )


def _source(tally: Tally) -> Literal["usage", "chunks", "mixed"] | None:
    match sorted(tally.token_sources):
        case []:
            return None
        case ["usage"]:
            return "usage"
        case ["chunks"]:
            return "chunks"
        case _:
            return "mixed"


def _seconds(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9
