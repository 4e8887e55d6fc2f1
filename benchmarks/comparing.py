"""Does `compare` find what is there, and nothing else? Against two simulators of which one is 5 % slower.

    python benchmarks/comparing.py FOLDER [--alike 40] [--slower 10] [--repeats 5] [--seconds 1.5]

A/A: pairs of series of the same simulator, one after the other. A/B: the same against one whose steps take 5 % longer. Says how
many pairs showed a difference, and how many intervals of the change of the TPOT hold the truth. FOLDER keeps the series; one that
is there is not run again.
"""

import argparse
import contextlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenstorm.report.comparing import Compared, compare
from tokenstorm.report.sides import Side, side_of
from tokenstorm.simulator.settings import PRESETS

SLOWER = 1.05
LOAD = ["--num-clients", "2", "--max-tokens", "24", "--ignore-eos"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--alike", type=int, default=40)
    parser.add_argument("--slower", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    args = parser.parse_args()
    with simulator(1.0) as usual, simulator(SLOWER) as slower:
        for kind, pairs, other in (("slower", args.slower, slower), ("alike", args.alike, usual)):
            for pair in range(pairs):
                for side, url in (("a", usual), ("b", other)):
                    bench(args.folder / f"{kind}{pair}" / side, url, args.repeats, args.seconds)
    told(args.folder, "alike", args.alike)
    told(args.folder, "slower", args.slower)


@contextlib.contextmanager
def simulator(factor: float) -> Iterator[str]:
    """Start one whose steps take so many times as long as usual; its address."""
    usual = PRESETS["medium"]
    names = ("step_base_ms", "step_per_sequence_ms", "step_per_prefill_token_ms")
    words = [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(usual, name) * factor))]
    command = [sys.executable, "-m", "tokenstorm.simulator", "--port", "0", "--preset", "medium", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        found = re.search(r"http://[^ ]+", process.stdout.readline())
        assert found, "the simulator did not start"
        try:
            yield found[0]
        finally:
            process.terminate()


def bench(folder: Path, url: str, repeats: int, seconds: float) -> None:
    if not (folder / "series_summary.json").exists():
        length = ["--warmup", "0.3", "--duration", str(seconds), "--repeats", str(repeats)]
        command = [sys.executable, "-m", "tokenstorm", "bench", url, *LOAD, *length]
        subprocess.run([*command, "--run-dir", str(folder)], check=False, stdout=subprocess.DEVNULL)


def told(folder: Path, kind: str, pairs: int) -> None:
    """Compare all pairs, and print how often each number differs."""
    before, after, held, number = Counter[str](), Counter[str](), 0, 0
    for pair in range(pairs):
        first, second = (side_of(folder / f"{kind}{pair}" / side, side) for side in ("a", "b"))
        rows = {one.measure: one for one in differing(first, second)}
        number += 1
        before.update(name for name, one in rows.items() if one.difference and one.difference.p < 0.05)
        after.update(f"{name} {one.change}" for name, one in rows.items() if one.change in {"better", "worse"})
        apart = rows["tpot_p50"].difference
        truth = SLOWER - 1 if kind == "slower" else 0.0
        held += bool(apart and apart.ratio_ci and apart.ratio_ci.low <= truth <= apart.ratio_ci.high)
    print(f"{kind}: {number} pairs; the interval of the TPOT's change holds the truth in {held}")
    print(f"  significant before correction: {dict(before)}")
    print(f"  significant after it: {dict(after)}")


def differing(first: Side, second: Side) -> list[Compared]:
    return compare(first, [second], [], force=False).versus[0].points[0].measures


if __name__ == "__main__":
    main()
