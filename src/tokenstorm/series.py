"""Several runs in one job: what is varied or searched for, as a frozen value and as `series.json`.

A series is a plan and how its runs differ from it. Which run comes next follows from the series and the runs there are,
alone: so a series that was cut off goes on where it ended.
"""

from pathlib import Path
from typing import Literal

import msgspec

from tokenstorm import __version__
from tokenstorm.errors import NOT_JSON, OtherVersion, PlanError
from tokenstorm.misfits import load_error
from tokenstorm.plan import Plan, listed
from tokenstorm.series_parts import Series
from tokenstorm.strict import Count, Misfit, Strict
from tokenstorm.written import refuse_later_version, refuse_other_version

SCHEMA: Literal[1] = 1


class SeriesPlan(Strict, frozen=True, kw_only=True):
    """`series.json`: the plan from which each run's own is made, and how they differ.

    `ranks` None means the fewest that carry each run on the machine of the driver.
    """

    schema: Literal[1] = SCHEMA
    tokenstorm: str = __version__
    plan: Plan
    series: Series
    ranks: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.series.search and self.plan.slo is None:
            message = "a search needs objectives"
            raise Misfit(message, "plan.slo", ["plan.slo"])
        if self.series.search and (self.plan.measured_seconds is None or self.plan.request_count is not None):
            message = "a search sets the length of each run: give `duration_seconds`, and no count"
            raise Misfit(message, "plan.request_count", ["plan.duration_seconds"])
        if self.plan.start == "manual":
            message = "a series starts its runs itself: leave `manual` out"
            raise Misfit(message, "plan.start")


def read_series(path: Path) -> SeriesPlan:
    """Read `series.json`; a `PlanError` says what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"cannot read the series {path}: {error.strerror}"
        raise PlanError(message) from None
    try:
        refuse_other_version(data, str(path))
        return msgspec.json.decode(data, type=SeriesPlan)
    except OtherVersion as error:
        raise PlanError(str(error)) from None
    except msgspec.ValidationError as error:
        refuse_later_version(data, str(path), str(load_error(error)))
        message = f"{path}: {load_error(error)}"
        raise PlanError(message) from None
    except NOT_JSON as error:
        message = f"{path} is not JSON: {error}"
        raise PlanError(message) from None


def encode_series(series: SeriesPlan) -> bytes:
    """The series as `series.json` holds it."""
    fields = {name: getattr(series, name) for name in series.__struct_fields__}
    return msgspec.json.format(msgspec.json.encode({**fields, "plan": listed(series.plan)}), indent=2) + b"\n"
