/** All groups, newest first. */

import { html, useState } from "../vendor/htm.js";
import { withUnit } from "../charts/units.js";
import { GROUPS, askJson } from "./api.js";
import { Doing, Stale, Tag, ageOf, usePolled } from "./parts.js";

export function Groups() {
    const { data, fault, at, again } = usePolled(`${GROUPS}?detail=true`, 1);
    const [words, setWords] = useState("");
    const [status, setStatus] = useState("");
    const [chosen, setChosen] = useState(new Set());
    const all = (data?.groups ?? []).slice().reverse();
    const shown = all.filter((group) => fits(group, words, status));
    const held = all.filter(({ group_id, info }) => chosen.has(group_id) && info.progress?.phase === "holding");
    const choose = (id) => {
        const next = new Set(chosen);
        if (!next.delete(id)) next.add(id);
        setChosen(next);
    };
    const runTogether = async () => {
        await askJson(`${GROUPS}/run`, { method: "POST", body: { group_ids: held.map(({ group_id }) => group_id) } });
        again();
    };
    return html`
        <div class="title">
            <h1>Groups</h1>
            <div class="actions">
                ${chosen.size > 1 && html`<a class="button" href="#/compare?groups=${[...chosen].join(",")}">Compare ${chosen.size}</a>`}
                ${held.length > 0 && html`<${Doing} label="Run ${held.length} held" act=${runTogether} />`}
                <a class="button primary" href="#/groups/new">New group</a>
            </div>
        </div>
        <${Stale} fault=${fault} at=${at} />
        <form class="filter" role="search" onSubmit=${(event) => event.preventDefault()}>
            <label>Filter <input type="search" value=${words} onInput=${(event) => setWords(event.target.value)} /></label>
            <label>State
                <select value=${status} onChange=${(event) => setStatus(event.target.value)}>
                    <option value="">all</option><option>pending</option><option>running</option><option>stopped</option>
                </select>
            </label>
            <span class="muted" role="status">${data ? `${shown.length} of ${all.length}` : "asking …"}</span>
        </form>
        ${data && !all.length && html`<p class="panel">There are no groups yet. <a href="#/groups/new">Send load to a service</a>.</p>`}
        ${shown.length > 0 && html`
            <table class="cards" aria-label="Groups">
                <thead><tr>
                    <th scope="col"><span class="hidden">Choose</span></th><th scope="col">Group</th><th scope="col">State</th>
                    <th scope="col">Verdict</th><th scope="col" class="number">Asked</th><th scope="col" class="number">Answered</th>
                    <th scope="col" class="number">p99 TTFT</th><th scope="col" class="number">p99 latency</th>
                    <th scope="col" class="number">Output</th><th scope="col" class="number">Failed</th>
                    <th scope="col">Service</th><th scope="col" class="number">Age</th>
                </tr></thead>
                <tbody>${shown.map((group) => html`<${Row} key=${group.group_id} group=${group} chosen=${chosen.has(group.group_id)} choose=${choose} />`)}</tbody>
            </table>`}
    `;
}

function Row({ group: { group_id: id, info }, chosen, choose }) {
    const { progress, load_config: load } = info;
    const number = (value, unit) => withUnit(value, unit);
    return html`
        <tr>
            <td class="choose"><input type="checkbox" aria-label="Choose group ${id}" checked=${chosen} onChange=${() => choose(id)} /></td>
            <td data-label="Group"><a href="#/groups/${id}">${id}${load.name ? ` · ${load.name}` : ""}</a></td>
            <td data-label="State" title=${info.reason}><${Tag} text=${stateOf(info)} /></td>
            <td data-label="Verdict"><${Tag} text=${info.verdict} /></td>
            <td data-label="Asked" class="number">${askedOf(load, progress)}</td>
            <td data-label="Answered" class="number">${number(progress?.achieved_rps, "1/s")}</td>
            <td data-label="p99 TTFT" class="number">${number(progress?.ttft_p99_seconds, "s")}</td>
            <td data-label="p99 latency" class="number">${number(progress?.latency_p99_seconds, "s")}</td>
            <td data-label="Output" class="number">${number(progress?.output_tokens_per_second, "tokens/s")}</td>
            <td data-label="Failed" class="number">${number(progress?.failed, "")}</td>
            <td data-label="Service"><span>${load.service_id ?? load.target_url}${info.engine === "simulated" && html` <span class="tag warn">simulated</span>`}</span></td>
            <td data-label="Age" class="number">${ageOf(info.created_at)}</td>
        </tr>
    `;
}

/** The outcome of a group that is over, the phase of one that runs. */
export function stateOf({ status, outcome, progress }) {
    if (status === "stopped") return outcome ?? status;
    return progress?.phase === "holding" ? "holding" : status;
}

/** The rate that is asked for; at this moment, of a load that changes. */
export function askedOf(load, progress) {
    const { requests_per_second: rate, arrival, trace } = load;
    const open = rate != null || arrival?.ramp || arrival?.stages || (trace && !trace.lengths_only);
    if (!open) return "closed loop";
    return withUnit(progress?.requested_rps ?? rate, "1/s");
}

function fits({ group_id: id, info }, words, status) {
    if (status && info.status !== status) return false;
    const load = info.load_config;
    const labels = Object.entries(load.labels ?? {}).flat();
    const text = [id, load.name, load.service_id, load.target_url, load.model, stateOf(info), info.verdict, ...labels].join(" ").toLowerCase();
    return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}
