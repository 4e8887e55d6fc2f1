"""How long prompts, answers, pauses and conversations are: a number, or a distribution."""

from collections.abc import Callable, Mapping
from math import cos, exp, fsum, log, log1p, sqrt, tau
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from tokenstorm.strict import Count, Misfit, NotNegative, Option, Positive, Strict, doc

Draw = Callable[[], float]
"""Gives numbers from 0 to below 1, evenly."""

Source = Literal["questions", "made up", "file", "trace"]
"""Where prompts come from: a list, our words, a file that may hold conversations, a recorded trace."""

INSTEAD: Final = {
    "requests_per_second": "sessions_per_second",
    "request_count": "sessions",
    "think_time_seconds": "think_seconds",
    "no_repeat": "sessions",
    "models": None,
}
"""What is said of requests, and in which field of a conversation it is said there; None: nowhere."""

_NEEDED = {
    "fixed": ("n",),
    "uniform": ("low", "high"),
    "normal": ("mean", "stddev"),
    "lognormal": ("mean", "stddev"),
    "histogram": ("bins",),
}
_BOUNDED = ("normal", "lognormal")
"""Kinds whose values are kept between `low` and `high` where these are given."""


class Bin(Strict, frozen=True, kw_only=True):
    """Lengths from `low` to `high`, each as likely, and how often this bin is drawn beside the others."""

    low: Count
    high: Count
    weight: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_turned(self.low, self.high)


class Length(Strict, frozen=True, kw_only=True):
    """A length: `n`, or drawn anew for each request.

    `low` to `high` (uniform), or from a histogram's `bins`; or by the `mean` and `stddev` of the lengths themselves (normal,
    lognormal), then kept between `low` and `high` where these are given.
    """

    kind: Literal["fixed", "uniform", "normal", "lognormal", "histogram"] = "fixed"
    n: Count | None = None
    low: Count | None = None
    high: Count | None = None
    mean: Positive | None = None
    stddev: NotNegative | None = None
    bins: Annotated[tuple[Bin, ...], Meta(min_length=1, max_length=1000)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = _NEEDED[self.kind]
        free = ("low", "high") if self.kind in _BOUNDED else ()
        for name in ("n", "low", "high", "mean", "stddev", "bins"):
            if name not in free and (getattr(self, name) is None) == (name in needed):
                takes = " and ".join(f"`{field}`" for field in needed)
                rest = "and `low` and `high` as bounds" if free else "nothing else"
                message = f"a `{self.kind}` length takes {takes}, {rest}"
                raise Misfit(message)
        if self.low is not None and self.high is not None:
            _refuse_turned(self.low, self.high)

    @property
    def expected(self) -> float:
        """The mean, as far as no bounds cut the lengths off."""
        match self:
            case Length(kind="uniform", low=int(low), high=int(high)):
                return (low + high) / 2
            case Length(kind="histogram", bins=tuple(bins)):
                return fsum(one.weight * (one.low + one.high) / 2 for one in bins) / fsum(one.weight for one in bins)
            case Length(mean=float(mean)):
                return mean
        return float(self.n or 0)

    def draw(self, draw: Draw) -> int:
        """A length of this kind, from `draw` alone: the same numbers give the same length in every version."""
        match self:
            case Length(kind="uniform", low=int(low), high=int(high)):
                return _between(low, high, draw)
            case Length(kind="normal", mean=float(mean), stddev=float(stddev)):
                return self._bounded(mean + stddev * _standard_normal(draw))
            case Length(kind="lognormal", mean=float(mean), stddev=float(stddev)):
                return self._bounded(_lognormal(mean, stddev, draw))
            case Length(kind="histogram", bins=tuple(bins)):
                found = bins[weighted([one.weight for one in bins], draw)]
                return _between(found.low, found.high, draw)
            case Length(n=int(n)):
                return n
        message = f"no way to draw a length from {self}"
        raise AssertionError(message)

    def _bounded(self, value: float) -> int:
        return max(self.low or 1, min(round(value), self.high or MOST))


MOST = 2**31
"""No length is above this."""


class Pair(Strict, frozen=True, kw_only=True):
    """One part of a mix: the lengths of its prompts and answers, and how often it is drawn beside the others."""

    input: Count | Length
    output: Count | Length
    weight: Positive = 1.0


class SharedPrefix(Strict, frozen=True, kw_only=True):
    """Groups of requests that begin alike: `prefix` tokens that all of a group share, then a `question` of each request's own.

    With `zipf` group n is asked as often as 1 / n to that power says; 0 is evenly.
    """

    groups: Annotated[int, Meta(ge=1, le=1_000_000)]
    prefix: Count
    question: Count | Length
    output: Count | Length | None = None
    zipf: Annotated[float, Meta(ge=0, le=10)] = 0.0

    @property
    def popularity(self) -> list[float]:
        """How likely the next request is of each group."""
        weights = [(1 + number) ** -self.zipf for number in range(self.groups)]
        total = fsum(weights)
        return [weight / total for weight in weights]

    def ideal_reuse(self, requests: float | None) -> float:
        """The share of prompt tokens that a prefix cache without limits has, where so many requests come: each group's first one
        finds nothing. None is for ever.
        """
        missed = 0.0
        if requests is not None:
            first = fsum(1 - (1 - share) ** requests for share in self.popularity)  # groups of which one comes
            missed = min(1.0, first / max(requests, 1.0))
        return self.prefix * (1 - missed) / (self.prefix + length_of(self.question).expected)


class Pause(Strict, frozen=True, kw_only=True):
    """A time in seconds, drawn anew each time: between `low` and `high` (uniform), or by its `mean` (exponential), or by its
    `mean` and `stddev` (lognormal).
    """

    kind: Literal["uniform", "exponential", "lognormal"]
    low: NotNegative | None = None
    high: NotNegative | None = None
    mean: Positive | None = None
    stddev: NotNegative | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = {"uniform": ("low", "high"), "exponential": ("mean",), "lognormal": ("mean", "stddev")}[self.kind]
        for name in ("low", "high", "mean", "stddev"):
            if (getattr(self, name) is None) == (name in needed):
                takes = " and ".join(f"`{field}`" for field in needed)
                message = f"a time of the kind `{self.kind}` takes {takes}, and nothing else"
                raise Misfit(message)
        if self.low is not None and self.high is not None:
            _refuse_turned(self.low, self.high)

    def draw(self, draw: Draw) -> float:
        """A time in seconds, from `draw` alone: the same numbers give the same time in every version."""
        match self:
            case Pause(kind="uniform", low=float(low), high=float(high)):
                return low + draw() * (high - low)
            case Pause(kind="lognormal", mean=float(mean), stddev=float(stddev)):
                return _lognormal(mean, stddev, draw)
        return -log1p(-draw()) * (self.mean or 0.0)


class Conversation(Strict, frozen=True, kw_only=True):
    """Sessions of turns: each turn says the whole conversation so far, and is due when the answer before it has ended, and the
    user has thought. Sessions arrive as `sessions_per_second` says; without that each client has one after the other.
    """

    turns: Annotated[
        Count | Length | None,
        doc(
            "Of each session; of recorded conversations at most so many, and without it all that they have",
            None,
            5,
            {"kind": "uniform", "low": 2, "high": 8},
        ),
    ] = None
    history: Annotated[
        Literal["live", "recorded"],
        doc(
            "What stands in the conversation so far: what the engine answered in this run (`live`), or the answers of the "
            "recorded conversation",
            Option("--history"),
        ),
    ] = "live"
    first: Annotated[
        Count | Length | None,
        doc("How long the first question is, where it is not as long as the others (made-up text)", None, 800),
    ] = None
    think_seconds: Annotated[
        NotNegative | Pause,
        doc(
            "From the end of an answer to the session's next turn",
            None,
            2.5,
            {"kind": "exponential", "mean": 5},
        ),
    ] = 0.0
    sessions: Annotated[
        Count | None, doc("End after so many measured sessions", Option("--sessions", "N", "the run"))
    ] = None
    sessions_per_second: Annotated[
        Positive | None,
        doc(
            "How many sessions begin; without it each client begins its next one when its last one ended",
            Option("--sessions-per-second", "R"),
        ),
    ] = None

    def fits(self, load: Mapping[str, Any], source: Source | None) -> None:
        """Refuse what makes no sense beside it in a load: what is said of single requests is said of sessions or turns here."""
        for name, other in INSTEAD.items():
            if load[name]:
                follow = f"in a conversation requests follow answers: give `{other}` of the conversation instead"
                message = follow if other else "each of several models would get some turns of a session: give one"
                raise Misfit(message, name, [f"conversation.{other}"])
        if load["endpoint"] != "chat":
            message = 'must be "chat": a conversation is told in messages'
            raise Misfit(message, "endpoint", ["conversation"])
        arrival = load["arrival"]
        kind = getattr(arrival, "kind", arrival)
        changing = getattr(arrival, "ramp", None) or getattr(arrival, "stages", None)
        if changing or (kind != "constant" and not self.sessions_per_second):
            message = (
                f"arrivals of sessions are {kind} at one rate, without a ramp or stages: give `sessions_per_second`"
            )
            raise Misfit(message, "arrival", ["conversation.sessions_per_second"])
        if source == "trace":
            message = "the requests of a trace leave when it says, and follow no answers: leave one of the two out"
            raise Misfit(message, "conversation", ["trace"])
        if source not in {"questions", "made up"}:
            return
        if self.turns is None:
            message = (
                "prompts that are no recorded conversations do not tell how many turns a session has: give a number"
            )
            raise Misfit(message, "conversation.turns")
        if self.history == "recorded":
            message = "only recorded conversations have answers: use the engine's own (`live`)"
            raise Misfit(message, "conversation.history")
        if self.first is not None and source == "questions":
            message = "only made-up text has a length that can be chosen: leave this out"
            raise Misfit(message, "conversation.first")


Talk = Annotated[
    Conversation | None,
    doc(
        "Ask in sessions of so many turns (or of `all` that were recorded), each with the conversation so far",
        Option("--turns", "LENGTH|all"),
        {"turns": 5, "think_seconds": 2, "sessions_per_second": 3},
    ),
]
"""The field of a load that asks in conversations."""


def length_of(given: int | Length) -> Length:
    """A length, where a number alone may be given."""
    return given if isinstance(given, Length) else Length(n=given)


def weighted(weights: list[float], draw: Draw) -> int:
    """A place in a list, each as likely as its weight says."""
    left = draw() * fsum(weights)
    for place, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return place
    return len(weights) - 1


def _between(low: int, high: int, draw: Draw) -> int:
    return low + int(draw() * (high - low + 1))


def _lognormal(mean: float, stddev: float, draw: Draw) -> float:
    variance = log1p((stddev / mean) ** 2)  # of the logarithm
    return exp(log(mean) - variance / 2 + sqrt(variance) * _standard_normal(draw))


def _standard_normal(draw: Draw) -> float:
    return sqrt(-2 * log1p(-draw())) * cos(tau * draw())  # Box and Muller, 1958


def _refuse_turned(low: float, high: float) -> None:
    if low > high:
        message = f"`low` ({low:g}) is above `high` ({high:g})"
        raise Misfit(message)
