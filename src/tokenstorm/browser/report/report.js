/** Draws the charts of a report: its data lie in the page as JSON, each chart in the place that names it. */

import { curveChart, spectrumChart } from "../charts/curve.js";
import { histogramChart } from "../charts/histogram.js";
import { runCharts } from "../charts/run.js";
import { timeChart } from "../charts/time.js";

const story = JSON.parse(document.getElementById("story").textContent);

const overTime = document.getElementById("over-time");
if (overTime) {
    const { lines, step } = story.over_time;
    for (const { chart } of runCharts(lines, { plan: story.plan, step })) timeChart(overTime, chart);
}
for (const spectrum of story.spectra) {
    draw(spectrum.id, (place) => spectrumChart(place, { ...spectrum, unit: "s" }));
}
for (const { name, edges, counts } of story.lengths) {
    const title = name === "prompt" ? "Length of prompts" : "Length of answers";
    const chart = { title, unit: "tokens", counted: "requests", edges, counts, role: "c1" };
    draw(`lengths-${name}`, (place) => histogramChart(place, chart));
}
draw("curve-latency", (place) => curveChart(place, stageCurve("Latency and TTFT against the rate asked for", "s", [
    { name: "latency p50", role: "p50", of: ({ metrics }) => metrics.latency_seconds.p50 },
    { name: "latency p99", role: "p99", of: ({ metrics }) => metrics.latency_seconds.p99 },
    { name: "TTFT p99", role: "c3", of: ({ metrics }) => metrics.ttft_seconds.p99 },
])));
draw("curve-rate", (place) => curveChart(place, stageCurve("Rate answered against the rate asked for", "1/s", [
    { name: "asked", role: "asked", of: (stage) => stage.requested_rps },
    { name: "answered", role: "answered", of: (stage) => stage.achieved_rps },
])));

function draw(id, make) {
    const place = document.querySelector(`[data-chart="${id}"]`);
    if (place) make(place);
}

/** One point a stage, at the rate that was asked for: a hair beside it, since of two at one place the cursor reaches only one. */
function stageCurve(title, unit, lines) {
    const asked = story.stages.filter(({ requested_rps }) => requested_rps > 0);
    const stages = asked.sort((one, other) => one.requested_rps - other.requested_rps);
    const series = lines.map(({ of, ...line }) => ({
        ...line,
        points: stages.map((stage, index) => [stage.requested_rps * (1 + index * 1e-9), of(stage)]).filter(([, value]) => value !== null),
    }));
    return { title, x: { unit: "1/s", label: "requests a second asked for" }, y: { unit }, series };
}
