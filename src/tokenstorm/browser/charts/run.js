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
const KINDS = ["c2", "c7", "c5", "c4", "c1", "c3", "c6", "c8"];

/** What is drawn: `put` hands the values of a line to `take(name, value)`, `series` makes a chart's series of the columns. */
const CHARTS = [
    { key: "rates", title: "Requests a second", unit: "1/s", series: fixed({ asked: "asked", sent: "sent", answered: "answered" }),
        put: (line, take) => { take("asked", line.target_rps); take("sent", line.sent); take("answered", line.succeeded); } },
    { key: "load", title: "Requests in flight and waiting", unit: "", series: fixed({ "in flight": "sent", "waiting for a client": "failed" }),
        put: (line, take) => { take("in flight", line.in_flight); take("waiting for a client", line.waiting); } },
    ...[["ttft", "Time to first token"], ["inter_chunk", "Time between chunks"], ["latency", "Latency"]].map(([key, title]) => ({
        key, title, unit: "s", series: bands,
        put: (line, take) => PERCENTILES.forEach((percentile) => take(percentile, line[key]?.[percentile])),
    })),
    { key: "failures", title: "Failed requests a second, by kind", unit: "1/s", empty: 0,
        series: (columns) => sorted(columns).map((name, index) => ({ name, role: KINDS[index % 8], kind: "area", values: columns.get(name) })),
        put: (line, take) => entriesOf(line.failed_by_kind, take) },
    { key: "tokens", title: "Output tokens a second", unit: "tokens/s", series: fixed({ output: "answered" }),
        put: (line, take) => take("output", line.output_tokens) },
    ...[["cpu", "Load generator: CPU of each rank", "%", "cpu"], ["lag", "Load generator: longest loop lag of each rank", "s", "loop_lag"]]
        .map(([key, title, unit, field]) => ({
            key, title, unit,
            series: each((name) => `rank ${name}`, (one, other) => one - other),
            put: (line, take) => entriesOf(line.ranks, (rank, told) => take(rank, told[field])),
        })),
    ...[["running", "requests running", ""], ["waiting", "requests queued", ""], ["kv_usage", "KV cache in use", "%"],
        ["hit_rate", "prefix cache hit rate", "%"], ["preemptions", "requests put back", ""], ["acceptance", "drafted tokens accepted", "%"],
    ].map(([field, title, unit]) => ({
        key: `engine-${field}`, title: `Engine: ${title}`, unit,
        series: each((name) => `replica ${name}`),
        isShown: field === "preemptions" ? (columns) => [...columns.values()].some((values) => values.some(Boolean)) : undefined,
        put: (line, take) => entriesOf(line.engine, (replica, told) => take(replica, told[field])),
    })),
    ...[["watts", "power", "W"], ["utilization", "busy", "%"], ["celsius", "temperature", "°C"]].map(([field, title, unit]) => ({
        key: `gpu-${field}`, title: `GPUs: ${title}`, unit,
        series: each((name) => name.slice(0, 12)),
        put: (line, take) => means(line.gpus, field, take),
    })),
];

export function runCharts(lines, options) {
    const columns = new RunColumns();
    lines.forEach((line) => columns.add(line));
    return columns.charts(options);
}

/** A run's values as columns, to which a second is added in a time that does not grow with the run. `times` are the seconds;
 *  `last` is the last line, `failed` how many requests failed so far, by kind. */
export class RunColumns {
    constructor() {
        this.times = [];
        this.last = null;
        this.failed = {};
        this.phases = new Map();
        this.measured = undefined;
        this.parts = CHARTS.map(() => new Map());
    }

    add(line) {
        const at = this.times.length;
        CHARTS.forEach(({ put, empty = null }, number) => {
            const columns = this.parts[number];
            put(line, (name, value) => {
                if (value == null) return;
                if (!columns.has(name)) columns.set(name, new Array(at).fill(empty));
                columns.get(name)[at] = value;
            });
            for (const values of columns.values()) if (values.length === at) values.push(empty);
        });
        this.times.push(line.t);
        this.last = line;
        entriesOf(line.failed_by_kind, (kind, count) => { this.failed[kind] = (this.failed[kind] ?? 0) + count; });
        if (line.phase === "measured") this.measured = at;
        const phase = this.phases.get(line.phase);
        if (phase) phase.to = line.t;
        else this.phases.set(line.phase, { from: line.t, to: line.t });
    }

    /** [{key, chart}]. Their arrays grow as lines are added. */
    charts({ plan = {}, step = 1 } = {}) {
        const same = { times: this.times, spans: this.spans(plan, step), rest: this.measured };
        return CHARTS.map(({ key, title, unit, series, isShown = () => true }, number) => {
            const columns = this.parts[number];
            const shown = columns.size && isShown(columns) ? series(columns) : [];
            return { key, chart: { title, unit, series: shown, ...same } };
        }).filter(({ chart }) => chart.series.length);
    }

    /** Warm-up and drain as the lines tell them, stages as they were planned. */
    spans(plan, step) {
        const spans = [];
        for (const [phase, label, role] of [["warmup", "warm-up", "warmup"], ["draining", "drain", "drain"]]) {
            const found = this.phases.get(phase);
            if (found) spans.push({ from: found.from, to: found.to + step, label, role });
        }
        const end = this.last ? this.last.t + step : 0;
        let from = plan.warmup_seconds ?? 0;
        (plan.arrival?.stages ?? []).forEach(({ rps, seconds }, index) => {
            const to = Math.min(from + seconds, end);
            if (to > from) spans.push({ from, to, label: `${plainNumber(rps)}/s`, role: index % 2 ? "stage" : "none" });
            from += seconds;
        });
        return spans;
    }
}

/** The series of these names, each with its role, of which there are values. */
function fixed(roles) {
    return (columns) => Object.entries(roles).filter(([name]) => columns.has(name)).map(([name, role]) => ({ name, role, values: columns.get(name) }));
}

function bands(columns) {
    const [p50, p90, p99] = PERCENTILES.map((percentile) => columns.get(percentile) ?? []);
    return [
        { role: "p90", kind: "band", low: p50, values: p90 },
        { role: "p99", kind: "band", low: p90, values: p99 },
        ...[p50, p90, p99].map((values, index) => ({ name: PERCENTILES[index], role: PERCENTILES[index], values })),
    ];
}

/** A series for each of many equal things. */
function each(nameOf, order) {
    return (columns) => sorted(columns, order).map((name, index) => ({ name: nameOf(name), role: roleOf(index), values: columns.get(name) }));
}

function sorted(columns, order) {
    return [...columns.keys()].sort(order);
}

function entriesOf(object, take) {
    for (const name in object) take(name, object[name]);
}

/** The mean of what each GPU told in a second. */
function means(readings, field, take) {
    const sums = new Map();
    for (const reading of readings ?? []) {
        const value = reading[field];
        if (value == null) continue;
        const [sum, count] = sums.get(reading.gpu) ?? [0, 0];
        sums.set(reading.gpu, [sum + value, count + 1]);
    }
    for (const [gpu, [sum, count]] of sums) take(gpu, sum / count);
}
