/** The runs of a group that is a series, as they come, with what is known of the capacity. */

import { html, useEffect, useMemo, useState } from "../vendor/htm.js";
import { curveChart } from "../charts/curve.js";
import { withUnit } from "../charts/units.js";
import { GROUPS, PATIENCE, askJson } from "./api.js";
import { Chart, Table, Tag } from "./parts.js";

const EVERY = 3000;
const UNITS = { requests_per_second: "/s", num_clients: " clients" };
const BOUNDS = { ttft_seconds: "TTFT", tpot_seconds: "time per output token", latency_seconds: "latency", inter_chunk_p99_seconds: "time between chunks", backlog: "a growing backlog", failures: "failed requests" };

/** The series of a group, asked for again and again until the group is over; null before its first run has ended. */
function useSeries(id, over) {
    const [series, setSeries] = useState(null);
    useEffect(() => {
        const ending = new AbortController();
        (async () => {
            while (!ending.signal.aborted) {
                try {
                    setSeries(await askJson(`${GROUPS}/${id}/series`, { signal: ending.signal, seconds: PATIENCE }));
                    if (over) return;
                } catch (fault) {
                    if (ending.signal.aborted || (over && fault.status === 404)) return;
                }
                await new Promise((done) => setTimeout(done, EVERY));
            }
        })();
        return () => ending.abort();
    }, [id, over]);
    return series;
}

export function Series({ id, over }) {
    const series = useSeries(id, over);
    const curve = useMemo(() => series && curveOf(series.points), [series]);
    if (!series) return html`<h2>Runs</h2><p class="panel">${over ? "No run of the series came to its end." : "The first run of the series has not ended yet."}</p>`;
    const { points, of, capacity } = series;
    const rows = [...points].sort((one, other) => loadOf(one) - loadOf(other) || one.number - other.number);
    return html`
        <h2>Runs: ${points.length}${of ? ` of ${of}` : ""}</h2>
        ${capacity && html`<p class="notice" id="capacity">${capacityWords(capacity)}</p>`}
        ${points.length > 1 && html`<${Chart} make=${curveChart} chart=${curve} />`}
        <${Table} label="Runs of the series" head=${["run", "load", "state", "good", "answered", "p50 TTFT", "p95 TTFT", "p95 TPOT", "verdict"]} rows=${rows.map(rowOf)} />
    `;
}

/** By what the runs are ordered: the field that is searched for or varied, where it is one number. */
function loadOf({ values, achieved_rps: rate }) {
    const [value, ...others] = Object.values(values);
    return others.length || typeof value !== "number" ? rate : value;
}

function nameOf({ values, repeat }) {
    const words = Object.entries(values).map(([field, value]) => (UNITS[field] ? `${value}${UNITS[field]}` : `${field} ${value}`));
    return [...words, ...(repeat > 1 || !words.length ? [`repeat ${repeat}`] : [])].join(", ");
}

function rowOf(point) {
    const share = point.attainment?.share;
    return [
        point.number, nameOf(point), point.state ? [point.state, ...point.bound_by.map((bound) => BOUNDS[bound] ?? bound)].join(": ") : "–",
        share === undefined ? "–" : `${Math.floor(share * 1000) / 10}%`, withUnit(point.achieved_rps, "1/s"),
        withUnit(point.ttft.p50, "s"), withUnit(point.ttft.p95, "s"), withUnit(point.tpot.p95, "s"), html`<${Tag} text=${point.verdict.state} />`,
    ];
}

function capacityWords({ field, held, failed, bound_by: bounds, sure, reason }) {
    const unit = UNITS[field];
    const by = bounds.length ? `, bound by ${bounds.map((bound) => BOUNDS[bound] ?? bound).join(", ")}` : "";
    return `Capacity: ${held === null ? "nothing" : held + unit} held, ${failed === null ? "nothing failed" : `${failed}${unit} failed`}${by}${sure ? "" : " (not sure yet)"}. ${reason[0].toUpperCase()}${reason.slice(1)}.`;
}

function curveOf(points) {
    const line = (name, role, of) => ({ name, role, points: points.map((point, n) => [point.achieved_rps * (1 + n * 1e-9), of(point)]).filter(([, value]) => value !== null).sort(([one], [other]) => one - other) });
    return { title: "TTFT against the rate answered", x: { unit: "1/s", label: "requests a second answered" }, y: { unit: "s" }, series: [line("p50", "p50", ({ ttft }) => ttft.p50), line("p95", "p90", ({ ttft }) => ttft.p95), line("p99", "p99", ({ ttft }) => ttft.p99)] };
}
