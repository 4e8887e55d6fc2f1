/** The charts of one run, from its timeline: the same for the page and for the report.
 *
 *  runCharts(lines, {plan, step}) → [{key, chart}], each `chart` as timeChart of time.js wants it. Only what has values is there.
 *
 *  `lines` are the lines of timeline.jsonl, ascending by `t`, with or without their histograms (docs/runs.md);
 *  `plan` tells where warm-up, stages and drain lie: {warmup_seconds, arrival: {stages: [{rps, seconds}]}}, all optional;
 *  `step` is how many seconds each line stands for. */

import { roleOf } from "./frame.js";
import { plainNumber } from "./units.js";

const PERCENTILES = ["p50", "p90", "p99"];
const ENGINE = [
    ["running", "Engine: requests running", ""],
    ["waiting", "Engine: requests queued", ""],
    ["kv_usage", "Engine: KV cache in use", "%"],
    ["hit_rate", "Engine: prefix cache hit rate", "%"],
    ["preemptions", "Engine: requests put back", ""],
    ["acceptance", "Engine: drafted tokens accepted", "%"],
];

const GPUS = [
    ["watts", "GPUs: power", "W"],
    ["utilization", "GPUs: busy", "%"],
    ["celsius", "GPUs: temperature", "°C"],
];

export function runCharts(lines, { plan = {}, step = 1 } = {}) {
    const times = lines.map((line) => line.t);
    const spans = spansOf(lines, plan, step);
    const measured = lines.findLastIndex((line) => line.phase === "measured");
    const rest = measured < 0 ? undefined : measured;
    const made = [...rates(lines), ...percentiles(lines), ...failures(lines), ...tokens(lines), ...ranks(lines), ...engine(lines), ...gpus(lines)];
    return made
        .filter(({ chart }) => chart.series.some(({ values }) => values.some((value) => value != null)))
        .map(({ key, chart }) => ({ key, chart: { ...chart, times, spans, rest } }));
}

/** Warm-up and drain as the lines tell them, stages as they were planned. */
export function spansOf(lines, plan, step = 1) {
    const spans = [];
    for (const [phase, label, role] of [["warmup", "warm-up", "warmup"], ["draining", "drain", "drain"]]) {
        const times = lines.filter((line) => line.phase === phase).map((line) => line.t);
        if (times.length) spans.push({ from: times[0], to: times[times.length - 1] + step, label, role });
    }
    const end = lines.length ? lines[lines.length - 1].t + step : 0;
    let from = plan.warmup_seconds ?? 0;
    (plan.arrival?.stages ?? []).forEach(({ rps, seconds }, index) => {
        const to = Math.min(from + seconds, end);
        if (to > from) spans.push({ from, to, label: `${plainNumber(rps)}/s`, role: index % 2 ? "stage" : "none" });
        from += seconds;
    });
    return spans;
}

function rates(lines) {
    const of = (name) => lines.map((line) => line[name]);
    const rate = [
        { name: "asked", role: "asked", values: of("target_rps") },
        { name: "sent", role: "sent", values: of("sent") },
        { name: "answered", role: "answered", values: of("succeeded") },
    ];
    const load = [
        { name: "in flight", role: "sent", values: of("in_flight") },
        { name: "waiting for a client", role: "failed", values: of("waiting") },
    ];
    return [
        { key: "rates", chart: { title: "Requests a second", unit: "1/s", series: rate.filter(hasValues) } },
        { key: "load", chart: { title: "Requests in flight and waiting", unit: "", series: load } },
    ];
}

function percentiles(lines) {
    const charts = [["ttft", "Time to first token"], ["inter_chunk", "Time between chunks"], ["latency", "Latency"]];
    return charts.map(([name, title]) => {
        const of = (percentile) => lines.map((line) => line[name]?.[percentile] ?? null);
        const [p50, p90, p99] = PERCENTILES.map(of);
        const series = [
            { role: "p90", kind: "band", low: p50, values: p90 },
            { role: "p99", kind: "band", low: p90, values: p99 },
            ...PERCENTILES.map((role) => ({ name: role, role, values: of(role) })),
        ];
        return { key: name, chart: { title, unit: "s", series } };
    });
}

function failures(lines) {
    const kinds = [...new Set(lines.flatMap((line) => Object.keys(line.failed_by_kind ?? {})))].sort();
    const series = kinds.map((kind, index) => ({
        name: kind,
        role: ["c2", "c7", "c5", "c4", "c1", "c3", "c6", "c8"][index % 8],
        kind: "area",
        values: lines.map((line) => line.failed_by_kind?.[kind] ?? 0),
    }));
    return [{ key: "failures", chart: { title: "Failed requests a second, by kind", unit: "1/s", series } }];
}

function tokens(lines) {
    const values = lines.map((line) => line.output_tokens);
    const series = [{ name: "output", role: "answered", values }];
    return [{ key: "tokens", chart: { title: "Output tokens a second", unit: "tokens/s", series } }];
}

function ranks(lines) {
    const names = [...new Set(lines.flatMap((line) => Object.keys(line.ranks ?? {})))].sort((a, b) => a - b);
    const of = (field) => names.map((rank, index) => ({
        name: `rank ${rank}`,
        role: roleOf(index),
        values: lines.map((line) => line.ranks?.[rank]?.[field] ?? null),
    }));
    return [
        { key: "cpu", chart: { title: "Load generator: CPU of each rank", unit: "%", series: of("cpu") } },
        { key: "lag", chart: { title: "Load generator: longest loop lag of each rank", unit: "s", series: of("loop_lag") } },
    ];
}

/** What each replica's engine said of itself. */
function engine(lines) {
    const replicas = [...new Set(lines.flatMap((line) => Object.keys(line.engine ?? {})))].sort();
    return ENGINE.map(([field, title, unit]) => {
        const series = replicas.map((name, index) => ({
            name: `replica ${name}`,
            role: roleOf(index),
            values: lines.map((line) => line.engine?.[name]?.[field] ?? null),
        }));
        const shown = field === "preemptions" ? series.filter(({ values }) => values.some(Boolean)) : series;
        return { key: `engine-${field}`, chart: { title, unit, series: shown } };
    });
}

/** What each GPU told: the mean of the second's readings. */
function gpus(lines) {
    const names = [...new Set(lines.flatMap((line) => (line.gpus ?? []).map(({ gpu }) => gpu)))].sort();
    return GPUS.map(([field, title, unit]) => {
        const series = names.map((name, index) => ({
            name: name.slice(0, 12),
            role: roleOf(index),
            values: lines.map((line) => meanOf((line.gpus ?? []).filter(({ gpu }) => gpu === name).map((reading) => reading[field]))),
        }));
        return { key: `gpu-${field}`, chart: { title, unit, series } };
    });
}

function meanOf(values) {
    const known = values.filter((value) => value != null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function hasValues({ values }) {
    return values.some((value) => value != null);
}
