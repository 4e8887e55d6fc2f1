/** Runs over one another: groups, and runs of `tokenstorm bench` on this machine. */

import { html, useEffect, useMemo, useState } from "../vendor/htm.js";
import { spectrumChart } from "../charts/curve.js";
import { roleOf } from "../charts/frame.js";
import { withUnit } from "../charts/units.js";
import { GROUPS, askJson, askLines } from "./api.js";
import { spectrumOf } from "./group.js";
import { stateOf } from "./groups.js";
import { Chart, Charts, Stale, Table, Tag, usePolled } from "./parts.js";

const RUNS = "/api/v1/runs";
const SHOWN = [
    ["answered", "Answered requests a second", "1/s", (line) => line.succeeded],
    ["ttft", "p99 time to first token", "s", (line) => line.ttft?.p99],
    ["latency", "p99 latency", "s", (line) => line.latency?.p99],
    ["tokens", "Output tokens a second", "tokens/s", (line) => line.output_tokens],
];

/** `#/compare?groups=1,2,5f3a…`: a number is a group, all else is the id of a run. */
export function Compare({ query }) {
    const groups = usePolled(`${GROUPS}?detail=true`, 0);
    const bench = usePolled(RUNS, 0);
    const chosen = (query.get("groups") ?? "").split(",").filter(Boolean);
    const runs = useRuns(chosen.join(","));
    const charts = useMemo(() => overlaid(runs), [runs]);
    const spectrum = useMemo(() => ({ title: "Latency by percentile", unit: "s", series: spectra(runs) }), [runs]);
    const choose = (id) => {
        const next = chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id];
        location.hash = `#/compare?groups=${next.join(",")}`;
    };
    const offered = [
        ...(groups.data?.groups ?? []).map(({ group_id: id, info }) => [String(id), nameOf(String(id), info.load_config.name)]).reverse(),
        ...(bench.data?.runs ?? []).map((run) => [run.run_id, nameOf(run.run_id, run.name)]),
    ];
    return html`
        <h1>Compare</h1>
        <${Stale} fault=${groups.fault ?? bench.fault} at=${groups.at} />
        <fieldset class="choices"><legend>Groups, and runs of tokenstorm bench</legend>
            ${offered.map(([id, name]) => html`<label key=${id}><input type="checkbox" checked=${chosen.includes(id)} onChange=${() => choose(id)} /> ${name}</label>`)}
            ${groups.data && bench.data && !offered.length && html`<span class="muted">There are none yet.</span>`}
        </fieldset>
        ${runs.length > 0 && html`<${Table} label="Numbers" rows=${runs.map(numbersOf)}
            head=${["Run", "Verdict", "Answered", "p50 TTFT", "p99 TTFT", "p50 latency", "p99 latency", "Output", "Failed"]} />`}
        ${charts.length > 0 && html`<${Charts} charts=${charts} group="compare" kind="wide" />`}
        ${spectrum.series.length > 0 && html`<${Chart} make=${spectrumChart} chart=${spectrum} />`}
        ${!chosen.length && html`<p class="panel">Choose some above: their runs lie over one another, each from its own start.</p>`}
    `;
}

/** [{id, name, info, lines, results}] of those that are chosen, in that order; one that is gone is left out. */
function useRuns(chosen) {
    const [runs, setRuns] = useState([]);
    useEffect(() => {
        let wanted = true;
        const load = async (id) => runs.find((run) => run.id === id && run.results) ?? (/^\d+$/.test(id) ? loadGroup(id) : loadRun(id));
        Promise.all(chosen.split(",").filter(Boolean).map((id) => load(id).catch(() => null)))
            .then((found) => wanted && setRuns(found.filter(Boolean)));
        return () => { wanted = false; };
    }, [chosen]);
    return runs;
}

async function loadGroup(id) {
    const [{ info }, lines] = await Promise.all([askJson(`${GROUPS}/${id}`), askLines(`${GROUPS}/${id}/timeline`)]);
    const results = info.verdict ? await askJson(`${GROUPS}/${id}/results`) : null;
    return { id, name: nameOf(id, info.load_config.name), info, lines, results };
}

async function loadRun(id) {
    const [results, lines] = await Promise.all([askJson(`${RUNS}/${id}/results`), askLines(`${RUNS}/${id}/timeline`)]);
    return { id, name: nameOf(id, results.plan.name), lines, results };
}

/** A row of the table: of its summary, or of its progress while it has none. */
function numbersOf({ id, name, info, results }) {
    const { rates, metrics, counts } = results ?? {};
    const so = info?.progress ?? {};
    const at = (metric, percentile, otherwise) => withUnit(metrics?.[metric]?.[percentile] ?? otherwise, "s");
    return [
        info ? html`<a href="#/groups/${id}">${name}</a>` : name,
        html`<${Tag} text=${results?.verdict.state ?? stateOf(info)} />`,
        withUnit(rates?.achieved_rps ?? so.achieved_rps, "1/s"),
        at("ttft_seconds", "p50"), at("ttft_seconds", "p99", so.ttft_p99_seconds),
        at("latency_seconds", "p50"), at("latency_seconds", "p99", so.latency_p99_seconds),
        withUnit(rates?.output_tokens_per_second ?? so.output_tokens_per_second, "tokens/s"),
        withUnit(counts?.failed ?? so.failed, ""),
    ];
}

function overlaid(runs) {
    const times = [...new Set(runs.flatMap(({ lines }) => lines.map(({ t }) => t)))].sort((a, b) => a - b);
    const charts = SHOWN.map(([key, title, unit, valueOf]) => {
        const series = runs.map(({ name, lines }, index) => {
            const known = new Map(lines.map((line) => [line.t, valueOf(line) ?? null]));
            return { name, role: roleOf(index), dash: index % 2 ? [6, 3] : undefined, values: times.map((t) => known.get(t) ?? null) };
        });
        return { key, chart: { title, unit, times, series, spans: [] } };
    });
    return charts.filter(({ chart }) => chart.series.some(({ values }) => values.some((value) => value !== null)));
}

function spectra(runs) {
    return runs
        .map(({ name, results }, index) => ({ name, role: roleOf(index), metric: results?.metrics.latency_seconds }))
        .filter(({ metric }) => metric?.count)
        .map(({ metric, ...rest }) => ({ ...rest, ...spectrumOf(metric) }));
}

function nameOf(id, name) {
    const short = id.slice(0, 8);
    return name ? `${short} · ${name}` : /^\d+$/.test(id) ? `group ${id}` : `run ${short}`;
}
