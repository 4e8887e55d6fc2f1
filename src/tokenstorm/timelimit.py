"""A job's time limit, as people write it: minutes, or any of Slurm's forms of time."""

import math
import re
import reprlib
from datetime import time

FORMS = "minutes (90), or as Slurm has it: MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS (1:30:00, 2-12)"
_FORM = re.compile(r"(?:(\d{1,4})-)?(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?", re.ASCII)


def minutes(value: object) -> int:
    """Whole minutes, rounded up, of which an integer is that many. Raises ValueError that names unit and forms."""
    if isinstance(value, time):  # TOML has 08:00:00 as a time of day
        value = value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _FORM.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        message = f"must be {FORMS}, not {reprlib.repr(value)}"
        raise ValueError(message)
    days, *parts = (None if part is None else int(part) for part in found.groups())
    first, second, third = parts
    if days is not None:
        seconds = days * 86_400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    elif third is not None:
        seconds = (first or 0) * 3600 + (second or 0) * 60 + third
    else:
        seconds = (first or 0) * 60 + (second or 0)
    return math.ceil(seconds / 60)


def minutes_between(value: object, least: int, most: int) -> int:
    """As `minutes`, within bounds. Raises ValueError that names the unit."""
    found = minutes(value)
    if not least <= found <= most:
        message = f"must be from {least} to {most} minutes, not {found}"
        raise ValueError(message)
    return found
