"""Slurm's way to write many node names in few characters: `n[1-3,07-09],login1`."""

import re
from collections.abc import Iterator

_PART = re.compile(r"((?:[^,\[]|\[[^\]]*\])+)")
_RANGE = re.compile(r"([^\[]*)\[([^\]]*)\](.*)")


def expand(text: str) -> tuple[str, ...]:
    """The names, in order. What is no list of nodes (`(null)`, nothing) has none."""
    if text in {"", "(null)", "None assigned"}:
        return ()
    return tuple(name for part in _PART.findall(text) for name in _names(part))


def _names(part: str) -> Iterator[str]:
    found = _RANGE.fullmatch(part)
    if found is None:
        yield part
        return
    before, ranges, after = found.groups()
    for span in ranges.split(","):
        for number in _numbers(span):
            for rest in _names(after) if after else ("",):
                yield f"{before}{number}{rest}"


def _numbers(span: str) -> Iterator[str]:
    """What is no range of numbers stands for itself: node names are for people to read, and nothing depends on them."""
    first, _, last = span.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        yield span
        return
    for number in range(int(first), int(last or first) + 1):
        yield f"{number:0{len(first)}d}"
