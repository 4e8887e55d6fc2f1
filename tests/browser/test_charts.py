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


def test_seconds_that_are_added_one_by_one_make_the_charts_that_all_together_make() -> None:
    """A page adds them as they come, and what begins late, such as a replica or a kind of failure, has nothing before."""
    one_by_one, together = computed("""
        import { RunColumns, runCharts } from "./run.js";
        const lines = [0, 1, 2, 3].map((t) => ({ t, phase: t < 1 ? "warmup" : "measured", sent: t, failed_by_kind: t === 2 ? { reset: 3 } : {},
            engine: t > 1 ? { "n.10": { running: t }, "n.2": { running: 1 } } : {}, ranks: { [t]: { cpu: 0.5 } } }));
        const columns = new RunColumns();
        const seen = lines.map((line) => { columns.add(line); return JSON.stringify(columns.charts()); });
        console.log(JSON.stringify([seen, lines.map((_, index) => JSON.stringify(runCharts(lines.slice(0, index + 1))))]));
    """)
    assert one_by_one == together
    charts = {one["key"]: one["chart"] for one in json.loads(one_by_one[-1])}
    assert charts["failures"]["series"][0]["values"] == [0, 0, 3, 0]
    assert [series["values"] for series in charts["engine-running"]["series"]] == [
        [None, None, 2, 3],
        [None, None, 1, 1],
    ]
    assert [series["name"] for series in charts["cpu"]["series"]] == ["rank 0", "rank 1", "rank 2", "rank 3"]


def test_phases_of_a_long_run_are_shaded_to_the_end_of_their_last_line() -> None:
    found = computed("""
        import { runCharts } from "./run.js";
        const lines = ["warmup", "warmup", "measured", "measured", "draining"].map((phase, index) => ({ t: 8 * index, phase, sent: 1 }));
        const plan = { warmup_seconds: 16, arrival: { stages: [{ rps: 5, seconds: 24 }] } };
        console.log(JSON.stringify(runCharts(lines, { plan, step: 8 })[0].chart.spans));
    """)
    assert [(span["from"], span["to"]) for span in found] == [(0, 16), (32, 40), (16, 40)]
