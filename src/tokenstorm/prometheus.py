"""Prometheus text, format 0.0.4."""

from collections.abc import Iterable, Mapping
from typing import Literal

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, object]


def family(name: str, kind: Literal["counter", "gauge"], text: str, samples: Iterable[tuple[Labels, float]]) -> str:
    """The lines of one metric: what it means, and a value for each set of labels."""
    return _described(name, kind, text, [_sample(name, labels, value) for labels, value in samples])


def histogram(
    name: str, text: str, labels: Labels, buckets: Iterable[tuple[float, int]], *, count: int, total: float
) -> str:
    """The lines of one histogram; `buckets` are upper bounds, each with how many samples do not exceed it."""
    lines = [_sample(f"{name}_bucket", {**labels, "le": bound}, below) for bound, below in (*buckets, ("+Inf", count))]
    lines += [_sample(f"{name}_sum", labels, total), _sample(f"{name}_count", labels, count)]
    return _described(name, "histogram", text, lines)


def _described(name: str, kind: str, text: str, lines: list[str]) -> str:
    return "\n".join((f"# HELP {name} {text}", f"# TYPE {name} {kind}", *lines, ""))


def _sample(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{label}="{_escape(str(text))}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
