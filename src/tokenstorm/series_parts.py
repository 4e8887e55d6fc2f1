"""What is varied, searched for or repeated in a series, as a request and `series.json` have it."""

from typing import Annotated, Literal

from msgspec import Meta

from tokenstorm.strict import Misfit, NotNegative, Positive, Strict, doc

MOST_POINTS = 1000
SEARCH_RUNS = 12
"""What a search takes as a rule."""
BETWEEN_SECONDS = 5.0
"""What the start and the end of a run take at most, as a rule."""
Value = int | float | str | bool | None
Searched = Literal["requests_per_second", "num_clients"]


class Search(Strict, frozen=True, kw_only=True):
    """Find the highest rate, or the most clients, at which the objectives still hold: double from `start`, then bisect."""

    field: Annotated[Searched, doc("What is searched for")]
    start: Annotated[Positive, doc("The first value that is tried; it should hold")] = 1.0
    most: Annotated[Positive | None, doc("Try no value above this")] = None
    precision: Annotated[
        float,
        Meta(ge=0.005, le=1),
        doc("How far apart the highest value that held and the lowest that failed may be at the end, as a share"),
    ] = 0.05
    most_runs: Annotated[Annotated[int, Meta(ge=4, le=100)], doc("End after so many runs, with what is known")] = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most is not None and self.most < self.start:
            message = f"{self.most:g} is below `start` ({self.start:g})"
            raise Misfit(message, "most", ["start"])
        if self.field == "num_clients" and self.start != round(self.start):
            message = f"must be a whole number of clients, not {self.start:g}"
            raise Misfit(message, "start")


class Series(Strict, frozen=True, kw_only=True):
    """How the runs of a series differ: a `sweep` over values, or a `search` for the capacity.

    A sweep over several fields takes each value of one with each of the others. Neither of the two, with `repeats`: the same
    load again and again.
    """

    sweep: Annotated[
        dict[
            Annotated[str, Meta(min_length=1, max_length=200)],
            Annotated[tuple[Value, ...], Meta(min_length=1, max_length=MOST_POINTS)],
        ],
        Meta(max_length=8),
        doc(
            "Fields of the load and their values; a part of one by its path, as in `arrival.burstiness`",
            None,
            {"requests_per_second": [1, 2, 4, 8]},
        ),
    ] = {}  # noqa: RUF012 - msgspec gives each its own
    search: Annotated[Search | None, doc("Search for the capacity")] = None
    repeats: Annotated[Annotated[int, Meta(ge=1, le=100)], doc("How often a sweep runs each point")] = 1
    order: Annotated[
        Literal["random", "given"],
        doc("`random`: each repeat runs all points in an order of its own, from the seed, so that drift is no effect"),
    ] = "random"
    cooldown_seconds: Annotated[NotNegative, doc("A pause between two runs")] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sweep and self.search:
            message = "give `sweep` or `search`, not both"
            raise Misfit(message, also=["sweep", "search"])
        if self.search and self.repeats != 1:
            message = "belongs to a `sweep`: a search repeats what it has to"
            raise Misfit(message, "repeats", ["sweep"])
        if not self.sweep and not self.search and self.repeats == 1:
            message = "give `sweep`, `search` or `repeats`: this is a single run"
            raise Misfit(message, also=["sweep", "search", "repeats"])
        points = self.repeats
        for field, values in self.sweep.items():
            points *= len(values)
            if len(set(map(repr, values))) < len(values):
                message = "names a value twice: use `repeats`"
                raise Misfit(message, f"sweep.{field}", ["repeats"])
        if points > MOST_POINTS:
            message = f"{points} runs are too many: {MOST_POINTS} at most"
            raise Misfit(message, "sweep")

    def seconds_at_most(self, warmup: float, length: float, drain: float) -> float:
        """About what all runs take, where each has such a window: for the time limit of a job, which ends a series in order."""
        if self.search is not None:  # windows near the edge are longer, and few runs there are not saturated
            return SEARCH_RUNS * (1.5 * max(length + warmup, 1.2 * length) + drain / 2 + BETWEEN_SECONDS)
        runs = self.repeats
        for field, values in self.sweep.items():
            runs *= len(values)
            if field == "duration_seconds":
                length = max(float(value) for value in values if isinstance(value, int | float))
        return runs * (warmup + length + drain + BETWEEN_SECONDS + self.cooldown_seconds)
