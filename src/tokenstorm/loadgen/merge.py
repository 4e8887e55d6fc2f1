"""The sum of what the ranks of a group did: from their reports, and from the result lines of lost ranks."""

from dataclasses import dataclass

from msgspec.structs import replace

from tokenstorm.loadgen.arrivals import window_end_of
from tokenstorm.loadgen.group import Group
from tokenstorm.loadgen.lost import tally_of_lost
from tokenstorm.loadgen.ranks import Member, Ranks
from tokenstorm.metrics.reports import Missing, RankReport
from tokenstorm.metrics.tally import Tally
from tokenstorm.plan import Plan


@dataclass(frozen=True)
class Merged:
    """The group's tally, where its measured window ended (nanoseconds from the common start), a report for each rank,
    how many measured arrivals lost ranks never sent, whether the window ended before the plan says, and the lines of lost
    ranks that cannot be read.
    """

    tally: Tally
    window_end: int
    reports: list[RankReport]
    unsent: int
    cut_short: bool
    missing: Missing


def merge_ranks(plan: Plan, ranks: Ranks, group: Group, window_end: int | None) -> Merged:
    """Merge the ranks, in any order. `window_end` is what the launcher announced; a rank that heard it too late reports its own."""
    total, reports, unsent, unread = Tally(), [], 0, list[str]()
    reported = [member.done for member in ranks.members.values() if member.done]
    total.merge(ranks.total)
    if reported:
        window_end = max((done.window_end for done in reported if done.window_end is not None), default=None)
    end = window_end_of(plan, window_end, scheduled=total.arrived, last_event=total.last_event)
    for rank in range(plan.ranks):
        member = ranks.members.get(rank)
        if member is not None and member.done is not None:
            reports.append(member.done.report)
            continue
        told = group.sent_by.get(rank, 0)
        lost, missing = tally_of_lost(ranks.results_of(rank), plan, rank, end, told, skip=unread.append)
        for name, histogram in group.reads.get(rank, {}).items():
            lost.histograms[name].merge(histogram)
        unsent += missing
        total.merge(lost)
        reports.append(_lost(rank, member, group))
    reports = [_with_standstills(report, group) for report in reports]
    whole = Missing(unread, len(unread) / max(1, total.counts.scheduled + total.warmup.scheduled))
    return Merged(total, end, reports, unsent, cut_short=window_end != plan.window_end_ns, missing=whole)


def _lost(rank: int, member: Member | None, group: Group) -> RankReport:
    if member is None:
        return RankReport(rank=rank, lost="it never came")
    hello = member.hello
    return replace(group.report_of(rank), host=hello.host, pid=hello.pid, lost=member.lost or "it never reported")


def _with_standstills(report: RankReport, group: Group) -> RankReport:
    """Add what only the deltas of a rank contain."""
    told = group.report_of(report.rank)
    return replace(
        report,
        loop_lag_max_seconds=told.loop_lag_max_seconds,
        stalled_seconds=told.stalled_seconds,
        gc_longest_seconds=told.gc_longest_seconds,
    )
