"""Whether the numbers can be trusted: the client accuses itself, in words.

The bounds stand here and nowhere else. A simulated engine is no fault.
"""

from typing import Literal

import msgspec

SENT_SUSPECT, SENT_INVALID = 0.99, 0.95
SEND_LAG_SUSPECT, SEND_LAG_INVALID = 0.005, 0.050
STALL_SECONDS = 0.050
"""An event loop that stood still for longer than this has read answers too late."""
STALLED_SUSPECT, STALLED_INVALID = 0.01, 0.10
"""Of the time from the common start to the end of the window, the seconds a rank stood still."""
CPU_SUSPECT, CPU_INVALID = 0.80, 0.95
FAILED_SUSPECT, FAILED_INVALID = 0.01, 0.10
CENSORED_SUSPECT = 0.01
RANKS_LOST_INVALID = 0.25
WAITED_SUSPECT = 0.01
COALESCED_SUSPECT = 0.05
ODD_SUSPECT = 0.01
"""Of the answers, those with a warning of one kind."""
MISSING_INVALID = 0.05
"""Of what a run wrote, the share that is not there any more."""
MISSING_SHOWN = 4

State = Literal["valid", "suspect", "invalid"]
Outcome = Literal["completed", "cancelled", "cut off", "running"]
"""How a run ended: as planned, by somebody's wish, or without a summary of its own."""


class DiskReport(msgspec.Struct, frozen=True):
    """How the disk did: the slowest write in seconds, how often one was slow, lines that never got there, and why.

    `written_bytes` is the least that the file of result lines has: whoever sees less of it has to look again.
    """

    slowest_seconds: float = 0.0
    stalls: int = 0
    lost_lines: int = 0
    error: str | None = None
    written_bytes: int = 0

    def merge(self, other: "DiskReport") -> "DiskReport":
        """Both disks taken together."""
        return DiskReport(
            slowest_seconds=max(self.slowest_seconds, other.slowest_seconds),
            stalls=self.stalls + other.stalls,
            lost_lines=self.lost_lines + other.lost_lines,
            error=self.error or other.error,
            written_bytes=self.written_bytes + other.written_bytes,
        )


class Reason(msgspec.Struct, frozen=True):
    """One thing that is wrong: a code for programs, a sentence for people."""

    code: str
    text: str


class Verdict(msgspec.Struct, frozen=True):
    """`valid`, or what to hold against the numbers."""

    state: State
    reasons: list[Reason]


class Missing(msgspec.Struct, frozen=True):
    """What a run wrote and is not there: the files and what is missing of them in words, and the share of the requests."""

    words: list[str] = []
    share: float = 0.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the verdict is made from. Counts are of the measured window, seconds are seconds, `cpu` is of a core.
    `stalled` is how long the worst rank's event loop stood still in the `seconds` of the run.

    `unsent_by_generator` arrivals had a free client, or a rank that stood still or was lost; `capped` ones found all clients of the
    group busy, `waited_below_cap` all clients of their rank while another rank had some free.
    """

    scheduled: int
    sent: int
    succeeded: int
    failed: int
    censored: int
    unsent_by_generator: int
    capped: int
    waited_below_cap: int
    send_lag_p99: float | None
    cpu: dict[int, float]
    stalled: float = 0.0
    seconds: float = 0.0
    ranks: int
    lost: list[int]
    chunks: int
    coalesced: int
    internal: int
    warnings: dict[str, int]
    disk: DiskReport
    left_out: list[str]
    outcome: Outcome = "completed"
    missing: Missing = Missing()


def judge(evidence: Evidence) -> Verdict:
    """Hold the evidence against the bounds."""
    found = [*_load(evidence), *_generator(evidence), *_service(evidence)]
    states = {state for state, _ in found}
    state: State = "invalid" if "invalid" in states else "suspect" if states else "valid"
    return Verdict(state, [reason for _, reason in found])


_Found = list[tuple[State, Reason]]


def _load(e: Evidence) -> _Found:
    """Was the load what was asked for?"""
    found: _Found = []
    share = 1 - e.unsent_by_generator / e.scheduled if e.scheduled else 1.0
    if share < SENT_SUSPECT:
        text = f"{e.unsent_by_generator} of {e.scheduled} arrivals were not sent, by the load generator's fault"
        hint = "ranks were lost" if e.lost else "use more ranks or nodes"
        found.append((_grade(share < SENT_INVALID), Reason("not_sent", f"{text}: {hint}")))
    if e.missing.words:
        more = len(e.missing.words) - MISSING_SHOWN
        shown = "; ".join([*e.missing.words[:MISSING_SHOWN], *([f"and {more} more like these"] if more > 0 else [])])
        text = f"not all that the run wrote is there: {shown}"
        found.append((_grade(e.missing.share > MISSING_INVALID), Reason("incomplete", text)))
    if e.capped > WAITED_SUSPECT * e.scheduled:
        text = (
            f"{e.capped} of {e.scheduled} arrivals found every client busy: the load was limited by num_clients, "
            "or the service is slower than the asked rate"
        )
        found.append(("suspect", Reason("client_cap", text)))
    if e.waited_below_cap > WAITED_SUSPECT * e.scheduled:
        text = (
            f"{e.waited_below_cap} of {e.scheduled} arrivals waited in one rank while another had free clients: "
            "use fewer ranks or more clients"
        )
        found.append(("suspect", Reason("rank_cap", text)))
    return found


def _generator(e: Evidence) -> _Found:
    """Was the load generator up to it?"""
    found: _Found = []
    if e.send_lag_p99 is not None and e.send_lag_p99 > SEND_LAG_SUSPECT:
        latest = max(1, e.sent // 100)
        text = f"{latest} of {e.sent} requests left {e.send_lag_p99 * 1e3:.1f} ms late or more, by the load generator's fault"
        found.append((_grade(e.send_lag_p99 > SEND_LAG_INVALID), Reason("send_lag", text)))
    if e.stalled > STALLED_SUSPECT * e.seconds:
        text = f"a rank stood still for {e.stalled:.1f} s of {e.seconds:.0f}: what it read meanwhile looks slow, by its own fault"
        found.append((_grade(e.stalled > STALLED_INVALID * e.seconds), Reason("stalled", text)))
    busy = {rank: cpu for rank, cpu in e.cpu.items() if cpu > CPU_SUSPECT}
    if busy:
        rank, cpu = max(busy.items(), key=lambda item: item[1])
        text = f"rank {rank} used {cpu:.0%} of its core: its times are late; use more ranks"
        found.append((_grade(cpu > CPU_INVALID), Reason("rank_cpu", text)))
    if e.lost:
        text = f"{len(e.lost)} of {e.ranks} ranks were lost ({', '.join(map(str, e.lost[:8]))}): their load is missing"
        found.append((_grade(len(e.lost) > RANKS_LOST_INVALID * e.ranks), Reason("ranks_lost", text)))
    if e.chunks and e.coalesced > COALESCED_SUSPECT * e.chunks:
        text = f"{e.coalesced / e.chunks:.0%} of the chunks shared a read with another: inter-chunk times are too short"
        found.append(("suspect", Reason("coalesced", text)))
    if e.internal:
        text = f"tokenstorm itself failed on {e.internal} answers, and counts them as failures: stderr.log says where; please report it"
        found.append((_grade(e.internal > FAILED_INVALID * e.sent), Reason("internal", text)))
    if e.disk.stalls or e.disk.lost_lines or e.disk.error:
        trouble = e.disk.error or f"the slowest write took {e.disk.slowest_seconds:.1f} s"
        text = f"the disk of the results stalled ({trouble}); {e.disk.lost_lines} result lines were lost"
        found.append(("suspect", Reason("disk", text)))
    return found


def _service(e: Evidence) -> _Found:
    """Did the service do what it was asked?"""
    found: _Found = []
    if e.outcome == "cut off":
        text = "the run was cut off: what was in flight then has no end, and what ranks last said is missing"
        found.append(("suspect", Reason("cut_off", text)))
    if e.outcome == "running":
        text = "the run goes on: what is in flight has no end yet, and the last second may be missing"
        found.append(("suspect", Reason("running", text)))
    if not e.succeeded and (e.sent or e.outcome != "running"):
        found.append(("invalid", Reason("nothing_succeeded", f"none of {e.sent} requests succeeded")))
    elif e.failed > FAILED_SUSPECT * e.sent:
        text = f"{e.failed} of {e.sent} requests failed, and have no part in the latencies"
        found.append((_grade(e.failed > FAILED_INVALID * e.sent), Reason("failures", text)))
    if e.censored > CENSORED_SUSPECT * e.sent and e.outcome != "running":
        hint = ": give the drain more seconds" if e.outcome == "completed" else ""
        text = f"{e.censored} of {e.sent} requests were still in flight when the run ended{hint}"
        found.append(("suspect", Reason("censored", text)))
    found += _answers(e)
    if e.left_out:
        text = f"replica {', '.join(e.left_out)} refused connections and was left out for some time"
        found.append(("suspect", Reason("replica_left_out", text)))
    return found


def _answers(e: Evidence) -> _Found:
    """Are the answers what was asked for, and do they say what they hold?"""
    found: _Found = []
    empty = e.warnings.get("no_token", 0)
    if empty > ODD_SUSPECT * e.succeeded:
        text = f"{empty} of {e.succeeded} answers hold no token: nothing was generated that could be measured"
        found.append((_grade(empty == e.succeeded), Reason("no_tokens", text)))
    whole = e.warnings.get("not_streamed", 0)
    if whole > ODD_SUSPECT * e.succeeded:
        text = f"{whole} of {e.succeeded} answers came in one piece although a stream was asked for: they have no TTFT and no TPOT"
        found.append(("suspect", Reason("not_streamed", text)))
    wrong = e.warnings.get("usage", 0)
    if wrong > ODD_SUSPECT * e.succeeded:
        text = f"the usage of {wrong} of {e.succeeded} answers contradicts what was asked or what came: it is no count, above max_tokens, or below the number of chunks with text"
        found.append(("suspect", Reason("usage", text)))
    unknown = e.warnings.get("unknown", 0)
    if unknown > ODD_SUSPECT * e.succeeded:
        text = f"{unknown} of {e.succeeded} answers have parts that are neither an answer nor an error: tokens may be missing"
        found.append(("suspect", Reason("unknown", text)))
    if short := e.warnings.get("short", 0):
        text = f"{short} answers had fewer tokens than max_tokens although ignore_eos was asked for"
        found.append(("suspect", Reason("short_output", text)))
    return found


def _grade(invalid: bool) -> State:  # noqa: FBT001 - read at each call as the sentence it is
    return "invalid" if invalid else "suspect"
