"""The metrics of several engines as one Prometheus text: each sample with the label of its replica."""

import re
from collections.abc import Mapping

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?(\s.*)")
_SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_created")


def merge(texts: Mapping[str, str]) -> str:
    """`texts` are the engines' own, by replica. Families stay together, as the format wants, each described once."""
    described: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, text in texts.items():
        label = 'replica="' + replica.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                name = line.split(maxsplit=3)[2]
                lines = described.setdefault(name, [])
                if not any(other.split()[1] == line.split()[1] for other in lines):
                    lines.append(line)
            elif match := _SAMPLE.fullmatch(line):
                labels = f"{label},{match[2]}" if match[2] else label
                family = _family(match[1], described)
                samples.setdefault(family, []).append(f"{match[1]}{{{labels}}}{match[3]}")
    return "".join(f"{line}\n" for name in samples for line in (*described.get(name, ()), *samples[name]))


def _family(name: str, described: Mapping[str, object]) -> str:
    """The family of a sample: `x_bucket` belongs to `x`, if there is one."""
    if name in described:
        return name
    shorter = (name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix))
    return next((base for base in shorter if base in described), name)
