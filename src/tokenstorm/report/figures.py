"""Numbers for people: durations, figures, percentiles with their marks; and the warning that they are of no real engine."""

from decimal import Decimal

from tokenstorm.metrics.summary import Metric

SIMULATED = "SIMULATED ENGINE: these numbers say nothing about real hardware"
"""What stands on top wherever numbers of a simulated engine are shown."""


def duration(seconds: float | None) -> str:
    """Seconds for a person: three digits and a unit."""
    if seconds is None:
        return "-"
    if not seconds:
        return "0"
    if seconds < 0.001:  # noqa: PLR2004 - a thousandth
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.{_decimals(seconds * 1e3)}f} ms"
    return f"{seconds:.{_decimals(seconds)}f} s"


def _decimals(value: float) -> int:
    return 2 if value < 10 else 1 if value < 100 else 0  # noqa: PLR2004 - three digits in all


def figure(value: float | None) -> str:
    """Four digits, and no exponent; "unknown" for None, which is not 0."""
    if value is None:
        return "unknown"
    if value >= 10_000:  # noqa: PLR2004 - four digits
        return f"{value:.0f}"
    return format(Decimal(f"{value:.4g}"), "f")  # 9999.7 and 0.00001 would have one


def measured(value: float | None, unit: str, *, signed: bool = False) -> str:
    """A number with its unit: seconds are told as durations, shares (of unit %) as percents."""
    if value is None:
        return "-"
    sign = "-" if value < 0 else "+" if signed else ""
    match unit:
        case "s":
            return sign + duration(abs(value))
        case "%":
            return f"{sign}{abs(value):.2%}"
    return f"{sign}{figure(abs(value))} {unit}".rstrip()


def many(number: int, what: str) -> str:
    """A number and what it counts, as in `1 client` and `2 clients`."""
    return f"{number} {what}{'s' * (number != 1)}"


def percentile(metric: Metric, quantile: str) -> str:
    """`~` marks too few samples, `>` a lower bound."""
    if not metric.count:
        return "-"
    mark = (">" if metric.lower_bound[quantile] else "") + ("" if metric.enough[quantile] else "~")
    return mark + duration(getattr(metric, quantile))
