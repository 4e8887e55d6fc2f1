"""What was asked, sent and answered a second, and why arrivals were not sent: in words that nobody misreads."""

from tokenstorm.metrics.summary import Summary
from tokenstorm.report.figures import figure
from tokenstorm.result import EXHAUSTED


def rate_words(summary: Summary) -> str:
    """As in `sent 10/s of 10 asked; answered 8.8/s inside the window (the other 12 answers came in the drain)`.

    The sent rate is what the load generator did, the answered one what the service did in the measured window.
    """
    rates, counts = summary.rates, summary.counts
    sent = "" if rates.sent_rps is None else f"sent {figure(rates.sent_rps)}/s"
    asked = "" if rates.requested_rps is None else f" of {figure(rates.requested_rps)} asked" if sent else ""
    seconds = summary.windows.measured_end - summary.windows.measured_start
    later = counts.succeeded - round(rates.achieved_rps * seconds)
    answered = f"answered {figure(rates.achieved_rps)}/s"
    if later > 0 and summary.outcome != "running":
        answered += f" inside the window (the other {later} came in the drain)"
    return "; ".join(filter(None, (sent + asked, answered)))


def unsent_words(summary: Summary) -> str:
    """Why arrivals were not sent, with how many for each reason; empty where all were."""
    unsent = summary.counts.unsent
    exhausted = summary.counts.failed_by_kind.get(EXHAUSTED, 0)
    own = min(unsent, max(0, summary.client.not_sent_by_generator - exhausted))
    reasons = (
        (unsent - own, "the window ended before" if summary.plan.closed_loop else "every client was busy"),
        (own, "the load generator's fault"),
    )
    return ", ".join(f"{count}: {reason}" for count, reason in reasons if count)
