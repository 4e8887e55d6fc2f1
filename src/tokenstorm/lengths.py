"""How long prompts and answers are: a number, or a distribution."""

from typing import Literal

from tokenstorm.strict import Count, Misfit, NotNegative, Positive, Strict


class Length(Strict, frozen=True, kw_only=True):
    """How long a prompt is: `n`, or `low` to `high` (uniform), or `mean` and `stddev` (normal)."""

    kind: Literal["fixed", "uniform", "normal"] = "fixed"
    n: Count | None = None
    low: Count | None = None
    high: Count | None = None
    mean: Positive | None = None
    stddev: NotNegative | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = {"fixed": ("n",), "uniform": ("low", "high"), "normal": ("mean", "stddev")}[self.kind]
        for name in ("n", "low", "high", "mean", "stddev"):
            if (getattr(self, name) is None) == (name in needed):
                message = f"a `{self.kind}` length takes {' and '.join(f'`{field}`' for field in needed)}, nothing else"
                raise Misfit(message)
        if self.low is not None and self.high is not None and self.low > self.high:
            message = f"`low` ({self.low}) is above `high` ({self.high})"
            raise Misfit(message)
