"""What the charts' modules compute, in node: no browser is needed for arithmetic."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import tokenstorm

CHARTS = Path(tokenstorm.__file__).parent / "browser" / "charts"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is missing; the page's own tests see the charts drawn")


def computed(program: str) -> Any:
    assert NODE
    done = subprocess.run(
        [NODE, "--input-type=module", "--eval", program],
        cwd=CHARTS,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_numbers_are_shown_with_three_digits_and_their_unit() -> None:
    cases: list[tuple[float | None, str, str]] = [
        (0.01234, "s", "12.3 ms"),
        (75.0, "s", "75 s"),
        (0, "s", "0 s"),
        (1234, "tokens/s", "1.23k tokens/s"),
    ]
    cases += [(0.985, "%", "98.5%"), (20, "1/s", "20/s"), (None, "s", "–"), (1500, "", "1500"), (25000, "", "25k")]  # noqa: RUF001
    cases += [(0.0000425, "s", "42.5 µs")]
    values = json.dumps([[value, unit] for value, unit, _ in cases])
    shown = computed(f"""
        import {{ withUnit, sinceStart }} from "./units.js";
        console.log(JSON.stringify([{values}.map(([value, unit]) => withUnit(value, unit)), [45, 90, 3900].map(sinceStart)]));
    """)
    assert shown == [[text for _, _, text in cases], ["45s", "1m 30s", "1h 5m"]]


def test_a_run_has_the_charts_that_it_has_values_for_with_its_phases_shaded() -> None:
    found = computed("""
        import { runCharts } from "./run.js";
        const line = (t, phase, more) => ({ t, phase, target_rps: 5, sent: 5, succeeded: 4, failed: 1, failed_by_kind: { timeout: 1 },
            output_tokens: 40, in_flight: 2, waiting: 0, ttft: { p50: 0.1, p90: 0.2, p99: 0.3 }, latency: { p50: null, p90: null, p99: null },
            ranks: { 0: { cpu: 0.1, loop_lag: 0.001 } }, engine: {}, gpus: [], ...more });
        const lines = [line(0, "warmup"), line(1, "measured", { gpus: [{ gpu: "GPU-1", watts: 400 }, { gpu: "GPU-1", watts: 420 }] }), line(2, "draining")];
        const charts = runCharts(lines, { plan: { warmup_seconds: 1, arrival: { stages: [{ rps: 5, seconds: 1 }] } } });
        console.log(JSON.stringify(charts));
    """)
    charts = {one["key"]: one["chart"] for one in found}
    assert charts.keys() == {"rates", "load", "ttft", "failures", "tokens", "cpu", "lag", "gpu-watts"}
    assert charts["gpu-watts"]["series"][0]["values"] == [None, 410, None]
    assert [(span["from"], span["to"], span["label"]) for span in charts["rates"]["spans"]] == [
        (0, 1, "warm-up"),
        (2, 3, "drain"),
        (1, 2, "5/s"),
    ]
    assert charts["rates"]["rest"] == 1


def test_phases_of_a_long_run_are_shaded_to_the_end_of_their_last_line() -> None:
    found = computed("""
        import { spansOf } from "./run.js";
        const lines = ["warmup", "warmup", "measured", "measured", "draining"].map((phase, index) => ({ t: 8 * index, phase }));
        console.log(JSON.stringify(spansOf(lines, { warmup_seconds: 16, arrival: { stages: [{ rps: 5, seconds: 24 }] } }, 8)));
    """)
    assert [(span["from"], span["to"]) for span in found] == [(0, 16), (32, 40), (16, 40)]
