"""Does a search find what a service carries? Against simulated engines whose capacity their own model tells.

    python benchmarks/capacity.py [--seeds 10] [--presets slow medium fast] [--fields requests_per_second num_clients]

Each search is a real `bench --search` with short windows. A line of JSON for each: the true capacity, the bracket, how far
the highest value that held is from the truth, whether the bracket holds it, and the runs it took.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from modelled import Modelled
from tokenstorm.simulator.settings import PRESETS

SHARE = 0.9
TOKENS, PROMPT = 50, "A prompt of some words."
CASES = {"slow": (0.050, "8", "4"), "medium": (0.0145, "4", "2"), "fast": (0.0023, "4", "1")}
"""Of each preset: the TPOT in seconds to keep, the window and the warm-up in seconds."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--presets", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--fields", nargs="+", default=["requests_per_second", "num_clients"])
    args = parser.parse_args()
    all_right = True
    for preset in args.presets:
        for field in args.fields:
            truth = true_capacity(preset, field)
            for seed in range(1, args.seeds + 1):
                found = search(preset, field, seed, truth)
                print(json.dumps(found), flush=True)
                all_right = all_right and bool(found["right"])
    return 0 if all_right else 1


def true_capacity(preset: str, field: str) -> float:
    """By the model alone."""
    tpot = CASES[preset][0]
    model = Modelled(PRESETS[preset], prompt_tokens=6, output_tokens=TOKENS, tpot=tpot, seconds=60, warmup=10)
    if field == "num_clients":
        return model.capacity("clients", 1, 2 * PRESETS[preset].max_num_seqs, SHARE)
    return model.capacity("rate", 0.5, 300, SHARE)


def search(preset: str, field: str, seed: int, truth: float) -> dict[str, object]:
    """One search by the command."""
    tpot, seconds, warmup = CASES[preset]
    engine = [sys.executable, "-m", "tokenstorm.simulator", "--port", "0", "--preset", preset, "--seed", str(seed)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(engine, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout
        try:
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address
            options = ["--search", f"{field}=4", "--slo", f"tpot={tpot * 1e3:g}ms", "--attain", f"{SHARE:.0%}"]
            options += ["--duration", seconds, "--warmup", warmup, "--drain", "10", "--max-tokens", str(TOKENS)]
            options += ["--ignore-eos", "--prompt", PROMPT, "--seed", str(seed), "--run-dir", f"{folder}/series"]
            command = [sys.executable, "-m", "tokenstorm", "bench", address[0], *options, "--json"]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if not done.stdout:
                print(done.stderr, file=sys.stderr)
            summary = json.loads(done.stdout)
        finally:
            process.terminate()
    found, points = summary["capacity"], summary["points"]
    held, failed = found["held"], found["failed"]
    holds = (
        held is not None and failed is not None and held <= truth + (field == "num_clients") * 0.5 and truth < failed
    )
    off = None if held is None else held / truth - 1
    pauses = [point["pause_seconds"] for point in points if point["pause_seconds"] is not None]
    return {
        "preset": preset,
        "field": field,
        "seed": seed,
        "truth": round(truth, 2),
        "held": held,
        "failed": failed,
        "off": None if off is None else round(off, 4),
        "bracket_holds": holds,
        "runs": len(points),
        "unfit": sum(point["state"] == "unfit" for point in points),
        "ended": found["ended"],
        "longest_pause": round(max(pauses, default=0.0), 2),
        "right": holds and off is not None and abs(off) <= 0.05 and len(points) <= 12,
    }


if __name__ == "__main__":
    sys.exit(main())
