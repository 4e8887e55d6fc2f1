"""Which requests met their objectives, and what they add up to."""

import msgspec

from tokenstorm.load_parts import Slo
from tokenstorm.result import Result


class Good(msgspec.Struct):
    """The good requests: how many of the measured ones, and what of all of them lies inside the window."""

    count: int = 0
    done_in_window: int = 0
    output_tokens_in_window: float = 0.0


class Goodput(msgspec.Struct, frozen=True):
    """Requests that met all objectives: how many, their share of all that were scheduled, and a second of the window.

    Scheduled are the failed, the censored and the unsent ones too; those that were given up on purpose are left out. `ratio` is None where nothing was scheduled, the tokens
    where nobody counted them. `met` says whether the share is the one that the objectives ask for.
    """

    good: int
    ratio: float | None
    rps: float
    output_tokens_per_second: float | None
    met: bool


def is_good(result: Result, slo: Slo, inter_chunk_p99: int | None) -> bool:
    """Whether a request succeeded and met all objectives. `inter_chunk_p99` is its own, in nanoseconds."""
    sent, done = result.sent, result.done
    if sent is None or done is None or result.error is not None:
        return False
    first = result.first_token
    return (
        _meets(None if first is None else first - sent, slo.ttft_seconds)
        and _meets(result.tpot, slo.tpot_seconds)
        and _meets(done - result.scheduled, slo.latency_seconds)
        and _meets(inter_chunk_p99, slo.inter_chunk_p99_seconds)
    )


def _meets(nanoseconds: int | None, seconds: float | None) -> bool:
    return seconds is None or (nanoseconds is not None and nanoseconds <= round(seconds * 1e9))
