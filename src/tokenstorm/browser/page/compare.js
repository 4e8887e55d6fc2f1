/** Runs over one another: groups that are over, or go on. */

import { html, useEffect, useMemo, useState } from "../vendor/htm.js";
import { spectrumChart } from "../charts/curve.js";
import { roleOf } from "../charts/frame.js";
import { withUnit } from "../charts/units.js";
import { GROUPS, askJson, askLines } from "./api.js";
import { spectrumOf } from "./group.js";
import { stateOf } from "./groups.js";
import { Chart, Charts, Stale, Table, Tag, usePolled } from "./parts.js";

const SHOWN = [
    ["answered", "Answered requests a second", "1/s", (line) => line.succeeded],
    ["ttft", "p99 time to first token", "s", (line) => line.ttft?.p99],
    ["latency", "p99 latency", "s", (line) => line.latency?.p99],
    ["tokens", "Output tokens a second", "tokens/s", (line) => line.output_tokens],
];

export function Compare({ query }) {
    const { data, fault, at } = usePolled(`${GROUPS}?detail=true`, 0);
    const chosen = (query.get("groups") ?? "").split(",").filter(Boolean).map(Number);
    const runs = useRuns(chosen.join(","));
    const charts = useMemo(() => overlaid(runs), [runs]);
    const spectrum = useMemo(() => ({ title: "Latency by percentile", unit: "s", series: spectra(runs) }), [runs]);
    const choose = (id) => {
        const next = chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id];
        location.hash = `#/compare?groups=${next.join(",")}`;
    };
    const all = (data?.groups ?? []).slice().reverse();
    const rows = runs.map(({ id, info, results }) => [
        html`<a href="#/groups/${id}">${nameOf(id, info)}</a>`, html`<${Tag} text=${info.verdict ?? stateOf(info)} />`, withUnit(info.progress?.achieved_rps, "1/s"),
        withUnit(results?.metrics.ttft_seconds?.p50, "s"), withUnit(info.progress?.ttft_p99_seconds, "s"),
        withUnit(results?.metrics.latency_seconds?.p50, "s"), withUnit(info.progress?.latency_p99_seconds, "s"),
        withUnit(info.progress?.output_tokens_per_second, "tokens/s"), withUnit(info.progress?.failed, ""),
    ]);
    return html`
        <h1>Compare</h1>
        <${Stale} fault=${fault} at=${at} />
        <fieldset class="choices"><legend>Groups</legend>
            ${all.map(({ group_id: id, info }) => html`<label><input type="checkbox" checked=${chosen.includes(id)} onChange=${() => choose(id)} /> ${nameOf(id, info)}</label>`)}
            ${data && !all.length && html`<span class="muted">There are none yet.</span>`}
        </fieldset>
        ${rows.length > 0 && html`<${Table} label="Numbers" rows=${rows}
            head=${["Group", "Verdict", "Answered", "p50 TTFT", "p99 TTFT", "p50 latency", "p99 latency", "Output", "Failed"]} />`}
        ${charts.length > 0 && html`<${Charts} charts=${charts} group="compare" />`}
        ${spectrum.series.length > 0 && html`<${Chart} make=${spectrumChart} chart=${spectrum} />`}
        ${!chosen.length && html`<p class="panel">Choose groups above: their runs lie over one another, each from its own start.</p>`}
    `;
}

/** [{id, info, lines, results}] of the groups that are chosen, in that order; one that is gone is left out. */
function useRuns(chosen) {
    const [runs, setRuns] = useState([]);
    useEffect(() => {
        let wanted = true;
        const load = async (id) => {
            const known = runs.find((run) => run.id === id && run.results);
            if (known) return known;
            const [{ info }, lines] = await Promise.all([askJson(`${GROUPS}/${id}`), askLines(`${GROUPS}/${id}/timeline`)]);
            const results = info.verdict ? await askJson(`${GROUPS}/${id}/results`) : null;
            return { id, info, lines, results };
        };
        const ids = chosen.split(",").filter(Boolean).map(Number);
        Promise.all(ids.map((id) => load(id).catch(() => null))).then((found) => wanted && setRuns(found.filter(Boolean)));
        return () => { wanted = false; };
    }, [chosen]);
    return runs;
}

function overlaid(runs) {
    const times = [...new Set(runs.flatMap(({ lines }) => lines.map(({ t }) => t)))].sort((a, b) => a - b);
    const charts = SHOWN.map(([key, title, unit, valueOf]) => {
        const series = runs.map(({ id, info, lines }, index) => {
            const known = new Map(lines.map((line) => [line.t, valueOf(line) ?? null]));
            return { name: nameOf(id, info), role: roleOf(index), dash: index % 2 ? [6, 3] : undefined, values: times.map((t) => known.get(t) ?? null) };
        });
        return { key, chart: { title, unit, times, series, spans: [] } };
    });
    return charts.filter(({ chart }) => chart.series.some(({ values }) => values.some((value) => value !== null)));
}

function spectra(runs) {
    return runs
        .map(({ id, info, results }, index) => ({ name: nameOf(id, info), role: roleOf(index), metric: results?.metrics.latency_seconds }))
        .filter(({ metric }) => metric?.count)
        .map(({ metric, ...rest }) => ({ ...rest, ...spectrumOf(metric) }));
}

function nameOf(id, info) {
    return info.load_config.name ? `${id} · ${info.load_config.name}` : `group ${id}`;
}
