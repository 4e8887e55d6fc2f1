"""Whether the numbers can be trusted: the load generator finds its own faults, in words.

All bounds of the verdict are here. A simulated engine is no fault.
"""

from math import ceil

from tokenstorm.metrics.reports import NOTHING_MISSING, Missing, Reason, State, Verdict
from tokenstorm.metrics.summary import Figures
from tokenstorm.result import INTERNAL

SENT_SUSPECT, SENT_INVALID = 0.99, 0.95
SEND_LAG_SUSPECT, SEND_LAG_INVALID = 0.005, 0.050
READ_LAG_SUSPECT = 0.010
"""Times are the kernel's then, and still true: what is lost are pieces that waited together."""
STALLED_SUSPECT, STALLED_INVALID = 0.01, 0.10
"""The share of the time, from the common start to the window's end, that a rank stood still."""
CPU_SUSPECT, CPU_INVALID = 0.80, 0.95
CPU_SECONDS = 1.0
"""A rank's CPU share counts if the rank ran for this many seconds."""
FAILED_SUSPECT, FAILED_INVALID = 0.01, 0.10
CENSORED_SUSPECT = 0.01
RANKS_LOST_INVALID = 0.25
WAITED_SUSPECT = 0.01
UNSENT_INVALID = 0.10
"""The share of arrivals that were never sent since no client was free."""
COALESCED_SUSPECT = 0.05
ODD_SUSPECT = 0.01
"""The share of answers with one kind of warning."""
PROMPTS_OFF_SUSPECT = 0.02
"""By this share prompts may be longer or shorter than was asked, on average."""
MISSING_INVALID = 0.05
"""The share of what a run wrote that is missing."""
MISSING_SHOWN = 4
BETWEEN_SECONDS, BETWEEN_SHARE = 0.020, 0.20
"""The mean TTFT is suspect if it exceeds the engine's own by more than both: so many seconds, and this share of itself."""
COMPARED_COUNT = 100
"""The two are compared if each comes from at least this many requests."""
COMPARED_SHARE = 0.10
"""And if their numbers of requests differ by at most this: else the engine also served somebody else."""


def judge(figures: Figures, missing: Missing = NOTHING_MISSING) -> Verdict:
    """Compare the figures of a run, and what is missing of its files, with the bounds."""
    return _verdict([*_load(figures, missing), *_generator(figures), *_service(figures)])


def judge_so_far(figures: Figures) -> Verdict:
    """Compare the figures of a run that goes on with the bounds. That it goes on is no fault."""
    found = [*_load(figures, NOTHING_MISSING), *_generator(figures), *_service(figures)]
    return _verdict([(state, reason) for state, reason in found if reason.code != "running"])


def _verdict(found: "_Found") -> Verdict:
    states = {state for state, _ in found}
    state: State = "invalid" if "invalid" in states else "suspect" if states else "valid"
    return Verdict(state, [reason for _, reason in found])


_Found = list[tuple[State, Reason]]


def _load(figures: Figures, missing: Missing) -> _Found:
    """Was the load what was asked for?"""
    found: _Found = []
    scheduled, client = figures.counts.scheduled, figures.client
    not_sent, below_cap = client.not_sent_by_generator, client.waited_below_cap
    share = 1 - not_sent / scheduled if scheduled else 1.0
    if share < SENT_SUSPECT:
        text = f"{not_sent} of {scheduled} arrivals were not sent, by the load generator's fault"
        hint = "ranks were lost" if any(report.lost for report in figures.ranks) else "use more ranks or nodes"
        found.append((_grade(share < SENT_INVALID), Reason("not_sent", f"{text}: {hint}")))
    if missing.words:
        more = len(missing.words) - MISSING_SHOWN
        shown = "; ".join([*missing.words[:MISSING_SHOWN], *([f"and {more} more like these"] if more > 0 else [])])
        text = f"not all that the run wrote is there: {shown}"
        found.append((_grade(missing.share > MISSING_INVALID), Reason("incomplete", text)))
    capped = max(0, client.waited - below_cap)
    if capped > WAITED_SUSPECT * scheduled:
        unsent = max(0, figures.counts.unsent - not_sent)
        never = f", and {unsent} of them were never sent" if unsent else ""
        times = figures.metrics.get("service_time_seconds")
        needed = clients_needed(figures.rates.requested_rps, times.mean if times else None, figures.plan.num_clients)
        limited = needed or "the load was limited by num_clients, or the service is slower than the asked rate"
        text = f"{capped} of {scheduled} arrivals found every client busy{never}: {limited}"
        found.append((_grade(unsent > UNSENT_INVALID * scheduled), Reason("client_cap", text)))
    if below_cap > WAITED_SUSPECT * scheduled:
        text = (
            f"{below_cap} of {scheduled} arrivals waited in one rank while another had free clients: "
            "use fewer ranks or more clients"
        )
        found.append(("suspect", Reason("rank_cap", text)))
    return found


def clients_needed(rps: float | None, seconds: float | None, clients: int) -> str:
    """How many clients a rate needs where each request takes so many seconds, in words; empty where these are enough."""
    if not rps or not seconds or (needed := ceil(rps * seconds)) <= clients:
        return ""
    return f"{rps:.4g}/s × {seconds:.2g} s needs about {needed} clients; num_clients is {clients}"  # noqa: RUF001 - it multiplies


def _generator(figures: Figures) -> _Found:
    """Could the load generator keep up?"""
    found = [*_lateness(figures), *_ranks(figures)]
    sent, client = figures.counts.sent, figures.client
    if client.chunks and client.coalesced > COALESCED_SUSPECT * client.chunks:
        share = client.coalesced / client.chunks
        text = f"{share:.0%} of the chunks shared a read with another: inter-chunk times are too short"
        found.append(("suspect", Reason("coalesced", text)))
    if internal := figures.counts.failed_by_kind.get(INTERNAL, 0):
        text = f"tokenstorm itself failed on {internal} answers, and counts them as failures: stderr.log says where; please report it"
        found.append((_grade(internal > FAILED_INVALID * sent), Reason("internal", text)))
    disk = client.disk
    if disk.stalls or disk.lost_lines or disk.error:
        trouble = disk.error or f"the slowest write took {disk.slowest_seconds:.1f} s"
        text = f"the disk of the results stalled ({trouble}); {disk.lost_lines} result lines were lost"
        found.append(("suspect", Reason("disk", text)))
    return found


def _lateness(figures: Figures) -> _Found:
    """Did it send and read in time?"""
    found: _Found = []
    sent, lag = figures.counts.sent, figures.metrics["send_lag_seconds"].p99
    if lag is not None and lag > SEND_LAG_SUSPECT:
        latest = max(1, sent // 100)
        text = f"{latest} of {sent} requests left {lag * 1e3:.1f} ms late or more, by the load generator's fault"
        found.append((_grade(lag > SEND_LAG_INVALID), Reason("send_lag", text)))
    waited = figures.metrics.get("read_lag_seconds")
    if waited and waited.p99 is not None and waited.p99 > READ_LAG_SUSPECT:
        text = (
            f"1% of the reads came {waited.p99 * 1e3:.1f} ms or more after the kernel had what they brought: the load generator "
            "was busy, and pieces that waited together share one time; use more ranks"
        )
        found.append(("suspect", Reason("read_lag", text)))
    stalled = max((report.stalled_seconds for report in figures.ranks), default=0.0)
    seconds = figures.windows.measured_end
    if stalled > STALLED_SUSPECT * seconds:
        text = f"a rank stood still for {stalled:.1f} s of {seconds:.0f}: what it read meanwhile looks slow, by its own fault"
        found.append((_grade(stalled > STALLED_INVALID * seconds), Reason("stalled", text)))
    return found


def _ranks(figures: Figures) -> _Found:
    """Were the ranks there, with time to spare?"""
    found: _Found = []
    judged = [report for report in figures.ranks if report.wall_seconds >= CPU_SECONDS]
    busiest = max(judged, key=lambda report: report.cpu, default=None)
    if busiest and busiest.cpu > CPU_SUSPECT:
        text = f"rank {busiest.rank} used {busiest.cpu:.0%} of its core: its times are late; use more ranks"
        found.append((_grade(busiest.cpu > CPU_INVALID), Reason("rank_cpu", text)))
    ranks, lost = figures.plan.ranks, [report.rank for report in figures.ranks if report.lost]
    if lost:
        text = f"{len(lost)} of {ranks} ranks were lost ({', '.join(map(str, lost[:8]))}): their load is missing"
        found.append((_grade(len(lost) > RANKS_LOST_INVALID * ranks), Reason("ranks_lost", text)))
    return found


def _service(figures: Figures) -> _Found:
    """Did the service do what it was asked?"""
    found: _Found = []
    counts, outcome = figures.counts, figures.outcome
    sent, failed, censored = counts.sent, counts.failed, counts.censored
    if outcome == "cut off":
        text = "the run was cut off: what was in flight then has no end, and what ranks last said is missing"
        found.append(("suspect", Reason("cut_off", text)))
    if outcome == "running":
        text = "the run goes on: what is in flight has no end yet, and the last second may be missing"
        found.append(("suspect", Reason("running", text)))
    if not counts.succeeded and (sent or outcome != "running"):
        found.append(("invalid", Reason("nothing_succeeded", f"none of {sent} requests succeeded")))
    elif failed > FAILED_SUSPECT * sent:
        text = f"{failed} of {sent} requests failed, and have no part in the latencies"
        found.append((_grade(failed > FAILED_INVALID * sent), Reason("failures", text)))
    if censored > CENSORED_SUSPECT * sent and outcome != "running":
        hint = ": give the drain more seconds" if outcome == "completed" else ""
        text = f"{censored} of {sent} requests were still in flight when the run ended{hint}"
        found.append(("suspect", Reason("censored", text)))
    if figures.steady and (code := figures.steady.fault):
        found.append(("suspect", Reason(code, figures.steady.text)))
    found += [*_answers(figures.warnings, counts.succeeded), *_prompts(figures), *_between(figures)]
    if left_out := sorted(name for name, replica in figures.replicas.items() if replica.left_out):
        text = f"replica {', '.join(left_out)} refused connections and was left out for some time"
        found.append(("suspect", Reason("replica_left_out", text)))
    return found


def _between(figures: Figures) -> _Found:
    """Does the engine count the same time to its first tokens as we do?"""
    theirs = figures.engine and figures.engine.ttft_seconds
    if not theirs or theirs.mean is None:
        return []
    ours = figures.metrics["ttft_seconds"]
    alike = abs(ours.count - theirs.count) <= COMPARED_SHARE * ours.count
    if ours.mean is None or min(ours.count, theirs.count) < COMPARED_COUNT or not alike:
        return []
    between = ours.mean - theirs.mean
    if between <= max(BETWEEN_SECONDS, BETWEEN_SHARE * ours.mean):
        return []
    text = (
        f"the mean TTFT is {ours.mean * 1e3:.0f} ms here and {theirs.mean * 1e3:.0f} ms by the engine's own count: "
        f"{between * 1e3:.0f} ms of it are spent outside the engine, in the network, its HTTP server or the load generator"
    )
    return [("suspect", Reason("server_ttft", text))]


def _prompts(figures: Figures) -> _Found:
    """Had prompts the tokens that were asked for?"""
    ratio = figures.tokens.prompt_ratio
    if ratio is None or abs(ratio - 1) <= PROMPTS_OFF_SUSPECT:
        return []
    hint = "" if figures.environment.vocabulary else ": their lengths are in words, since no tokenizer was known"
    text = f"prompts had {ratio:.3g} times the tokens that were asked for, by the server's count{hint}"
    return [("suspect", Reason("prompt_tokens", text))]


def _answers(warnings: dict[str, int], succeeded: int) -> _Found:
    """Are the answers what was asked for, and do they say what they hold?"""
    found: _Found = []
    empty = warnings.get("no_token", 0)
    if empty > ODD_SUSPECT * succeeded:
        text = f"{empty} of {succeeded} answers hold no token: nothing was generated that could be measured"
        found.append((_grade(empty == succeeded), Reason("no_tokens", text)))
    whole = warnings.get("not_streamed", 0)
    if whole > ODD_SUSPECT * succeeded:
        text = f"{whole} of {succeeded} answers came in one piece although a stream was asked for: they have no TTFT and no TPOT"
        found.append(("suspect", Reason("not_streamed", text)))
    wrong = warnings.get("usage", 0)
    if wrong > ODD_SUSPECT * succeeded:
        text = f"the usage of {wrong} of {succeeded} answers contradicts what was asked or what came: it is no count, above max_tokens, or below the number of chunks with text"
        found.append(("suspect", Reason("usage", text)))
    unknown = warnings.get("unknown", 0)
    if unknown > ODD_SUSPECT * succeeded:
        text = f"{unknown} of {succeeded} answers have parts that are neither an answer nor an error: tokens may be missing"
        found.append(("suspect", Reason("unknown", text)))
    if short := warnings.get("short", 0):
        text = f"{short} answers had fewer tokens than max_tokens although ignore_eos was asked for"
        found.append(("suspect", Reason("short_output", text)))
    return found


def _grade(invalid: bool) -> State:  # noqa: FBT001 - read at each call as the sentence it is
    return "invalid" if invalid else "suspect"
