"""Several runs in one job: what is varied or searched for, as a frozen value and as `series.json`.

A series is a plan and how its runs differ from it. Which run comes next follows from the series and the runs there are,
alone: so a series that was cut off goes on where it ended.
"""

from pathlib import Path

import msgspec

from tokenstorm.errors import NOT_JSON, OtherVersion, PlanError
from tokenstorm.misfits import load_error
from tokenstorm.plan import SeriesPlan, listed
from tokenstorm.written import refuse_later_version, refuse_other_version


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
