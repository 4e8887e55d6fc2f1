/** Draws a comparison: its data lie in the page as JSON, each chart in the place that names it, the sides over one another. */

import { spectrumChart } from "../charts/curve.js";
import { roleOf } from "../charts/frame.js";
import { timeChart } from "../charts/time.js";

const SHOWN = [
    ["Answered requests a second", "1/s", (line) => line.succeeded],
    ["p99 time to first token", "s", (line) => line.ttft?.p99],
    ["p99 latency", "s", (line) => line.latency?.p99],
    ["Output tokens a second", "tokens/s", (line) => line.output_tokens],
];

const { sides } = JSON.parse(document.getElementById("story").textContent);
const styled = (index) => ({ name: sides[index].name, role: roleOf(index), dash: index % 2 ? [6, 3] : undefined });

const overTime = document.getElementById("over-time");
const times = [...new Set(sides.flatMap(({ lines }) => lines.map(({ t }) => t)))].sort((one, other) => one - other);
for (const [title, unit, valueOf] of SHOWN) {
    const series = sides.map(({ lines }, index) => {
        const known = new Map(lines.map((line) => [line.t, valueOf(line) ?? null]));
        return { ...styled(index), values: times.map((t) => known.get(t) ?? null) };
    });
    if (overTime && series.some(({ values }) => values.some((value) => value !== null))) timeChart(overTime, { title, unit, times, series, spans: [] });
}
for (const [id, title] of [["latency", "Latency by percentile"], ["ttft", "Time to first token by percentile"]]) {
    const place = document.querySelector(`[data-chart="${id}"]`);
    const series = sides.flatMap(({ curves }, index) => (curves[id] ? [{ ...styled(index), ...curves[id] }] : []));
    if (place && series.length) spectrumChart(place, { title, unit: "s", series });
}
