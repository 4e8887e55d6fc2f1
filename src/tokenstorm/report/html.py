"""A run as one page that needs nothing else: what was tested, verdict, headline numbers, charts, tables, the plan."""

from msgspec import json

from tokenstorm.metrics.summary import QUANTILES, Metric, StageReport, Summary
from tokenstorm.report.again import command_line, not_default
from tokenstorm.report.asked import asked_for, percent
from tokenstorm.report.assets import Assets
from tokenstorm.report.bymodel import HEADS, model_rows
from tokenstorm.report.certainty import interval_words, steady_words
from tokenstorm.report.document import document
from tokenstorm.report.figures import duration, percentile
from tokenstorm.report.figures import figure as number
from tokenstorm.report.first import first_screen, title_of
from tokenstorm.report.markup import facts, figure, grid, more, note, section, text
from tokenstorm.report.rates import rate_words, unsent_words
from tokenstorm.report.story import Story
from tokenstorm.report.talks import TURN_HEADS, session_words, turn_cells
from tokenstorm.report.text import prompts_used, replica_levels

_LABELS = {
    "latency_seconds": "Latency, from schedule",
    "service_time_seconds": "Service time, from send",
    "ttft_seconds": "TTFT",
    "ttft_content_seconds": "TTFT, content",
    "ttft_from_schedule_seconds": "TTFT from schedule",
    "tpot_seconds": "Time per output token",
    "inter_chunk_seconds": "Inter-chunk",
    "schedule_delay_seconds": "Schedule delay",
    "client_wait_seconds": "Client wait",
    "send_lag_seconds": "Send lag",
    "read_lag_seconds": "Read lag",
}
_LENGTHS = {"prompt": "Prompts", "output": "Answers"}
_HEADS = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9"}
_BY_COMMAND = "Name the variable that holds the engine's key with --api-key-env."
_BY_PLAN = (
    "plan.json has all of it: copy it to a new folder, and type python -m tokenstorm.loadgen run FOLDER/plan.json"
)
_RATES = {"achieved_rps": "Answered requests per second", "output_tokens_per_second": "Output tokens per second"}
_SURE = (
    "Means: by how the means of batches of seconds differ. Percentiles: at most this, with 99 %, if requests are independent; "
    "where a queue comes and goes it is less sure. - has too few samples."
)
_TIME = "Times are from the start of the run; warm-up, stages and drain are shaded."
_MARKS = "~ too few samples for this percentile; > a lower bound: requests that failed or never ended would raise it"


def report_page(summary: Summary, story: Story, assets: Assets) -> str:
    """The whole page. Without the files that draw (`assets.script`) it has all but the charts, and says so."""
    return document(
        title_of(summary),
        [first_screen(summary), *_sections(summary, story, assets)],
        assets,
        simulated=summary.environment.simulated,
        drawn=("story", story) if assets.script else None,
    )


def _sections(summary: Summary, story: Story, assets: Assets) -> list[str]:
    return [
        section("Over time", *_over_time(story, assets)),
        section("How times are distributed", *_distributions(summary, story, assets)),
        section("Stages", *_stages(summary, assets)),
        section("Models", grid(HEADS, rows) if (rows := model_rows(summary)) else ""),
        section("How sure it is", *_certainty(summary)),
        section("Conversations", *_turns(summary)),
        section("Requests", facts(_counts(summary)), _failures(summary)),
        section("Prompt and answer lengths", *_token_lengths(summary, story, assets)),
        section("Replicas", _replicas(summary)),
        section("What the engine says", *_engine(summary)),
        section("Energy", *_energy(summary)),
        section("Load generator", _ranks(summary), facts(_health(summary))),
        section("To do it again", *_again(summary)),
        section("Where it ran", facts(_environment(summary))),
    ]


def _over_time(story: Story, assets: Assets) -> list[str]:
    if not story.over_time.lines:
        return [note("The run left no timeline.")]
    if not assets.script:
        return [note("Charts are left out: this tokenstorm was installed without the files that draw them.")]
    step = f" Each point stands for {story.over_time.step} s." if story.over_time.step > 1 else ""
    return ['<div class="charts" id="over-time"></div>', note(_TIME + step)]


def _distributions(summary: Summary, story: Story, assets: Assets) -> list[str]:
    figures = [figure(spectrum.id) for spectrum in story.spectra if assets.script]
    rows = [
        (
            _LABELS.get(name, name),
            duration(metric.mean),
            *(percentile(metric, quantile) for quantile in QUANTILES),
            duration(metric.max),
            metric.count,
        )
        for name, metric in summary.metrics.items()
        if metric.count and not (name == "ttft_content_seconds" and metric == summary.metrics["ttft_seconds"])
    ]
    if not rows:
        return [note("No request succeeded: there are no times.")]
    heads = ("", "mean", *(_HEADS[quantile] for quantile in QUANTILES), "max", "samples")
    charts = f'<div class="charts">{"".join(figures)}</div>' if figures else ""
    return [charts, grid(heads, rows), note(_MARKS)]


def _certainty(summary: Summary) -> list[str]:
    """The steady part beside the whole, and how likely other values are."""
    if summary.steady is None and not any(metric.ci for metric in summary.metrics.values()):
        return []
    rows = []
    for name, metric in summary.metrics.items():
        steady = summary.steady.metrics.get(name) if summary.steady else None
        if metric.count and (metric.ci or metric.upper_bound_99.get("p50") is not None):
            rows.append(
                (
                    _LABELS.get(name, name),
                    interval_words(metric.ci) if metric.ci else "-",
                    duration(steady.mean) if steady else "-",
                    percentile(steady, "p99") if steady else "-",
                    *(duration(metric.upper_bound_99.get(quantile)) for quantile in ("p50", "p90", "p99", "p999")),
                )
            )
    heads = (
        "",
        "mean, with 95 %",
        "steady: mean",
        "steady: p99",
        "p50 at most",
        "p90 at most",
        "p99 at most",
        "p99.9 at most",
    )
    said = [("Steady", steady_words(summary.steady))] if summary.steady else []
    rates = [
        (_RATES[name], f"{number(ci.low)} to {number(ci.high)} with 95 %") for name, ci in summary.rates.ci.items()
    ]
    return [facts([*said, *rates]), grid(heads, rows) if rows else "", note(_SURE) if rows else ""]


def _turns(summary: Summary) -> list[str]:
    if summary.sessions is None:
        return []
    rows = [turn_cells(turn) for turn in summary.turns]
    return [
        facts([("Sessions", session_words(summary))]),
        grid(TURN_HEADS, rows) if rows else "",
        note("Each turn says the whole conversation so far. Prompt tokens are the mean, cached is the share of them."),
    ]


def _stages(summary: Summary, assets: Assets) -> list[str]:
    if not summary.stages:
        return []
    heads = (
        "asked",
        "from",
        "to",
        "answered",
        "succeeded",
        "good",
        "TTFT p50",
        "TTFT p99",
        "TPOT p50",
        "latency p50",
        "latency p99",
    )
    figures = f'<div class="charts">{figure("curve-latency")}{figure("curve-rate")}</div>'
    rows = [_stage(one) for one in summary.stages if one.requested_rps]
    return [
        figures if assets.script and len(rows) > 1 else "",
        grid(heads, rows),
        note("Rates in requests a second; times from the start of the run."),
    ]


def _stage(stage: StageReport) -> tuple[object, ...]:
    counts, metrics = stage.counts, stage.metrics
    return (
        f"{number(stage.requested_rps)}/s",
        f"{stage.start:g} s",
        f"{stage.end:g} s",
        f"{number(stage.achieved_rps)}/s",
        percent(counts.succeeded / counts.scheduled) if counts.scheduled else "-",
        "-" if stage.goodput is None else percent(stage.goodput),
        percentile(metrics["ttft_seconds"], "p50"),
        percentile(metrics["ttft_seconds"], "p99"),
        percentile(metrics["tpot_seconds"], "p50"),
        percentile(metrics["latency_seconds"], "p50"),
        percentile(metrics["latency_seconds"], "p99"),
    )


def _counts(summary: Summary) -> list[tuple[str, object]]:
    counts, rates = summary.counts, summary.rates
    warmup = summary.windows.warmup.sent
    return [
        ("Scheduled", counts.scheduled),
        ("Sent", counts.sent),
        ("Succeeded", counts.succeeded),
        ("Failed", counts.failed),
        ("Censored: in flight when the drain ended", counts.censored),
        *([("Given up, as was asked", counts.cancelled)] if counts.cancelled else []),
        ("Unsent", f"{counts.unsent} ({unsent})" if (unsent := unsent_words(summary)) else counts.unsent),
        *([("Sent in the warm-up, not counted", warmup)] if warmup else []),
        ("Requests per second", rate_words(summary)),
        ("Output tokens per second", number(rates.output_tokens_per_second)),
        ("Prompt tokens per second", number(rates.prompt_tokens_per_second)),
        ("Prompts", prompts_used(summary)),
        ("Tokens counted by", summary.tokens.source or "-"),
        *((f"Odd answers: {name}", count) for name, count in summary.warnings.items()),
    ]


def _failures(summary: Summary) -> str:
    kinds = sorted(summary.counts.failed_by_kind.items(), key=lambda kind: (-kind[1], kind[0]))
    rows = [(kind, count, summary.failures.get(kind, "")) for kind, count in kinds]
    title = "<h3>Failures by kind, with the words of one each</h3>"
    return title + grid(("kind", "requests", "one of them"), rows, words=(0, 2)) if rows else ""


def _token_lengths(summary: Summary, story: Story, assets: Assets) -> list[str]:
    there = {name: found for name, found in summary.lengths.items() if found.count}
    if not there:
        return [note("Nobody counted tokens.")]
    rows = [
        (_LENGTHS.get(name, name), number(found.mean), found.p50, found.p90, found.p99, found.max, found.count)
        for name, found in there.items()
    ]
    heads = ("tokens", "mean", "p50", "p90", "p99", "max", "requests")
    if not assets.script:
        return [grid(heads, rows)]
    drawn = [one for one in story.lengths if len(one.counts) > 1 and one.name in there]
    figures = "".join(figure(f"lengths-{one.name}") for one in drawn)
    beyond = [
        note(f"{_LENGTHS[one.name]}: {one.beyond} longer than the chart is wide, up to {there[one.name].max} tokens.")
        for one in drawn
        if one.beyond
    ]
    return [f'<div class="charts">{figures}</div>', *beyond, grid(heads, rows)]


def _replicas(summary: Summary) -> str:
    rows = [
        (
            name,
            found.url,
            found.counts.sent,
            f"{found.counts.sent / summary.counts.sent:.1%}" if summary.counts.sent else "-",
            found.counts.succeeded,
            found.counts.failed,
            "for some time" * found.left_out or "no",
        )
        for name, found in summary.replicas.items()
    ]
    heads = ("replica", "address", "sent", "share", "succeeded", "failed", "left out")
    return grid(heads, rows, words=(0, 1)) if rows else ""


def _engine(summary: Summary) -> list[str]:
    """The server's own times beside ours, and its load."""
    said = summary.engine
    if said is None:
        return []
    ours = summary.metrics["ttft_seconds"]
    mine = [
        (
            "TTFT here, from send",
            duration(ours.mean),
            *(duration(one) for one in (ours.p50, ours.p90, ours.p99)),
            ours.count,
        )
    ]
    theirs = [
        (name, duration(times.mean), *(f"≈{duration(one)}" for one in (times.p50, times.p90, times.p99)), times.count)
        for name, times in (
            ("TTFT, by the engine", said.ttft_seconds),
            ("queue time, by the engine", said.queue_seconds),
        )
        if times and times.count
    ]
    levels = [(name, line) for line in replica_levels(summary) if (name := line.partition(":")[0])]
    return [
        grid(("", "mean", "p50", "p90", "p99", "samples"), mine + theirs) if theirs else "",
        note("≈ an estimate from the engine's buckets.") if theirs else "",
        facts([(name[:1].upper() + name[1:], line.partition(": ")[2]) for name, line in levels]) if levels else "",
    ]


def _energy(summary: Summary) -> list[str]:
    energy = summary.energy
    if energy is None:
        return []
    if not energy.valid:
        return [facts([("Energy unknown", reason.text) for reason in energy.reasons])]
    rows = [
        ("Energy of all GPUs in the measured window", f"{number(energy.joules)} J"),
        ("Power on average", f"{number(energy.average_watts)} W"),
        ("Joules per output token", number(energy.joules_per_output_token)),
        ("Joules per token", number(energy.joules_per_total_token)),
        ("Joules per request", number(energy.joules_per_request)),
        ("GPUs", len(energy.gpus)),
    ]
    return [facts(rows), note("What the boards took as a whole, idle times included.")]


def _ranks(summary: Summary) -> str:
    rows = [
        (
            rank.rank,
            rank.host or "-",
            f"{rank.cpu:.0%}",
            duration(rank.loop_lag_max_seconds),
            duration(rank.gc_longest_seconds),
            f"{rank.peak_memory_bytes / 1e6:.0f} MB" if rank.peak_memory_bytes else "-",
            duration(rank.disk.slowest_seconds),
            rank.lost or "no",
        )
        for rank in summary.ranks
    ]
    heads = ("rank", "host", "CPU", "longest loop lag", "longest collection", "memory", "slowest write", "lost")
    return grid(heads, rows, words=(1, 7))


def _health(summary: Summary) -> list[tuple[str, object]]:
    client, lag = summary.client, summary.metrics["send_lag_seconds"]
    waited = summary.metrics.get("read_lag_seconds")
    shared = f"{client.coalesced} of {client.chunks}" + (
        f" ({client.coalesced / client.chunks:.1%})" if client.chunks else ""
    )
    return [
        ("Send lag p50, p99", f"{_shown(lag, 'p50')}, {_shown(lag, 'p99')}"),
        *([("Read lag p50, p99", f"{_shown(waited, 'p50')}, {_shown(waited, 'p99')}")] if waited else []),
        ("Times of answers", "the kernel's, of their arrival" if client.clock == "kernel" else "those of the reads"),
        ("Not sent by the load generator's fault", client.not_sent_by_generator),
        ("Arrivals that waited for a client", client.waited),
        ("... while another rank had one free", client.waited_below_cap),
        ("Chunks that shared a read with an earlier one", shared),
        ("Disk stalls, lost lines", f"{client.disk.stalls}, {client.disk.lost_lines}"),
    ]


def _shown(metric: Metric, quantile: str) -> str:
    return percentile(metric, quantile) if metric.count else "-"


def _again(summary: Summary) -> list[str]:
    plan, typed = summary.plan, command_line(summary.plan)
    return [
        f'<pre tabindex="0">{text(typed)}</pre>' if typed else "",
        note(_BY_COMMAND) if typed else "",
        note(_BY_PLAN),
        facts(asked_for(plan, not_default(plan))),
        more("Every field of the plan", facts(asked_for(plan))),
    ]


def _environment(summary: Summary) -> list[tuple[str, object]]:
    environment = summary.environment
    return [
        ("Run", summary.run_id),
        *([("Group", summary.group_id)] if summary.group_id is not None else []),
        ("Started", summary.started_at or "unknown"),
        ("Ended", summary.ended_at or "unknown"),
        ("tokenstorm", environment.tokenstorm),
        ("Python", environment.python),
        ("Platform", environment.platform),
        ("Hosts", ", ".join(environment.hosts)),
        ("Job", environment.job_id or "-"),
        *((f"Replica {name} says", json.encode(said).decode()) for name, said in environment.engine.items()),
        *(("Note", note) for note in environment.notes),
    ]
