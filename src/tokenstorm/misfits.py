"""What is wrong with a load, in plain words, from what msgspec found."""

import re

import msgspec

from tokenstorm.errors import PlanError
from tokenstorm.strict import Misfit

_BOUNDS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_UNKNOWN, _MISSING = "Object contains unknown field ", "Object missing required field "


def load_error(error: msgspec.ValidationError) -> PlanError:
    """What msgspec, or a part of the load itself, found; msgspec tells the place at the end of its text."""
    what, _, place = str(error).rpartition(" - at `$")
    what, place = (what, place.rstrip("`").lstrip(".")) if what else (place, "")
    if isinstance(misfit := error.__cause__, Misfit):
        also = [_joined(place, field) for field in misfit.also]
        return PlanError(str(misfit), _joined(place, misfit.field) or None, also)
    for beginning, said in ((_UNKNOWN, "there is no such field"), (_MISSING, "it is missing")):
        if what.startswith(beginning):
            name = what.removeprefix(beginning).strip("`")
            return PlanError(said, _joined(place, name))
    if what == "Invalid enum value 2" and place == "schema":
        what = "Another version of tokenstorm wrote this: it must be 1"
    if bound := re.fullmatch(r"Expected `(?:int|float)` (>=|<=|>|<) (-?[\d.e+]+)", what):
        what = f"Must be {_BOUNDS[bound[1]]} {float(bound[2]):g}"
    what = what.replace("Expected `str` of length >= 1", "Must not be empty")
    return PlanError(f"{what[0].lower()}{what[1:]}", place or None)


def _joined(place: str, field: str) -> str:
    return ".".join(filter(None, (place, field)))
