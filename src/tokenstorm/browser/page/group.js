/** One group: live, and afterwards. */

import { html, useEffect, useMemo, useRef, useState } from "../vendor/htm.js";
import { spectrumChart } from "../charts/curve.js";
import { RunColumns } from "../charts/run.js";
import { sinceStart, withUnit } from "../charts/units.js";
import { GROUPS, PATIENCE, SILENCE, ask, askEvents, askJson, download, readLines } from "./api.js";
import { askedOf, stateOf } from "./groups.js";
import { Series } from "./series.js";
import { Asking, Chart, Charts, Doing, Stale, Table, Tag, Tile, sentence } from "./parts.js";

const PAUSES = [0.5, 1, 2, 4];
/** Which start of the job a line is of: a job that starts anew begins again at the first second. */
const startOf = (line) => line.attempt ?? 0;
const PERCENTILES = [["p50", 0.5], ["p90", 0.9], ["p95", 0.95], ["p99", 0.99], ["p999", 0.999]];
const SHOWN = [["ttft_seconds", "Time to first token"], ["latency_seconds", "Latency"], ["service_time_seconds", "Latency, uncorrected"],
    ["inter_chunk_seconds", "Time between chunks"], ["tpot_seconds", "Time per output token"], ["send_lag_seconds", "Send lag"]];

/** {info, run, seconds, results, fault, at}: history first, then events; asked again, from where it broke off, until the end.
 *  Each second's event tells how far the run is; the whole `info` is asked for when the group's status changes, and when
 *  the API has nothing new to tell. */
function useGroup(id) {
    const [state, setState] = useState({ seconds: 0 });
    const run = useRef(new RunColumns());
    const [turn, setTurn] = useState(0);
    useEffect(() => {
        const ending = new AbortController();
        const options = { signal: ending.signal, seconds: PATIENCE };
        const tell = (news) => setState((before) => ({ ...before, at: Date.now(), fault: null, ...news }));
        const last = () => run.current.last?.t ?? -1;
        const add = (line) => {
            if (isOfAnother(line)) run.current = new RunColumns();
            if (line.t > last()) run.current.add(line);
        };
        const isOfAnother = (line) => run.current.last && startOf(line) !== startOf(run.current.last);
        const addMissed = async () => {
            let shown = 0;
            const show = () => {
                shown = Date.now();
                tell({ seconds: run.current.times.length });
            };
            await readLines(`${GROUPS}/${id}/timeline?from=${last() + 1}`, (lines) => {
                lines.forEach(add);
                if (Date.now() - shown > 1000) show();
            }, options);
            show();
        };
        const refresh = async () => {
            const { info } = await askJson(`${GROUPS}/${id}`, options);
            tell({ info });
            return info;
        };
        const finish = async (info) => tell({ results: info.verdict ? await askJson(`${GROUPS}/${id}/results`, { signal: ending.signal }) : null });
        const takeSecond = async ({ so_far: progress, ...line }) => {
            if (isOfAnother(line)) run.current = new RunColumns();
            if (line.t > last() + 1) await addMissed();
            add(line);
            setState((before) => ({ ...before, at: Date.now(), fault: null, seconds: run.current.times.length, info: { ...before.info, progress } }));
        };
        const follow = async () => {
            const [info] = await Promise.all([refresh(), addMissed()]);
            if (info.status === "stopped") return finish(info);
            let over = false;
            let behind = false;
            let waiting = Promise.resolve();
            await askEvents(`${GROUPS}/${id}/events`, (event, data) => {
                over ||= event === "done";
                waiting = waiting.then(async () => {
                    if (event === "progress") await takeSecond(JSON.parse(data));
                    else behind = true;
                    if (behind && !over) await refresh();
                    behind = false;
                }).catch(() => { behind = true; });
            }, { signal: ending.signal, silence: SILENCE });
            await waiting;
            if (!over) throw new Error("the live updates broke off");
            await addMissed();
            return finish(await refresh());
        };
        (async () => {
            for (let round = 0; !ending.signal.aborted; round += 1) {
                try {
                    return await follow();
                } catch (fault) {
                    if (ending.signal.aborted) return undefined;
                    setState((before) => ({ ...before, fault }));
                    if (fault.status === 404 || fault.status === 401) return undefined;
                }
                await new Promise((done) => setTimeout(done, 1000 * PAUSES[Math.min(round, PAUSES.length - 1)]));
            }
            return undefined;
        })();
        return () => ending.abort();
    }, [id, turn]);
    return { ...state, run: run.current, again: () => setTurn((before) => before + 1) };
}

export function Group({ id }) {
    const { info, run, seconds, results, fault, at, again } = useGroup(id);
    const charts = useMemo(() => run.charts({ plan: results?.plan ?? info?.load_config }), [run, seconds, results]);
    if (fault?.status === 404) return html`<p class="notice bad" role="alert">${sentence(fault.message)} <a href="#/groups">All groups</a>.</p>`;
    if (!info) return html`<${Stale} fault=${fault} at=${at} /><p role="status">Asking for group ${id} …</p>`;
    const load = info.load_config;
    return html`
        <div class="title">
            <h1>Group ${id}${load.name ? ` · ${load.name}` : ""}</h1>
            <div class="actions"><${Actions} id=${id} info=${info} again=${again} /></div>
        </div>
        <${Stale} fault=${fault} at=${at} />
        ${info.engine === "simulated" && html`<p class="notice warn">Simulated engine: these numbers say nothing about real hardware.</p>`}
        <p class="facts">
            <${Tag} text=${stateOf(info)} />${info.verdict && html`<${Tag} text=${info.verdict} />`}
            <span>${load.service_id ?? load.target_url}</span><span>${info.num_clients} clients</span>
            ${info.job_id && html`<span>job ${info.job_id}</span>`}
            ${info.progress && info.status === "running" && html`<span>${info.progress.phase}, ${sinceStart(Math.round(info.progress.elapsed_seconds))}</span>`}
            ${info.progress?.age_seconds && html`<span class="tag warn">${Math.round(info.progress.age_seconds)} s old: its launcher is not reached</span>`}
        </p>
        ${info.reason && html`<p class="notice">${sentence(info.reason)}</p>`}
        ${run.last?.left_out?.length > 0 && html`<p class="notice warn">Left out because they refused: ${run.last.left_out.join(", ")}.</p>`}
        ${info.status === "running" && html`<progress aria-label="How much of the run is over" max="1" value=${info.progress?.fraction ?? 0}></progress>`}
        <${Tiles} info=${info} />
        ${load.series && html`<${Series} id=${id} over=${info.status === "stopped"} />`}
        ${results ? html`<${Reasons} verdict=${results.verdict} />` : html`<${Reasons} verdict=${info.progress?.verdict} when=" so far" />`}
        ${charts.length > 0 && html`<h2>Over time</h2><${Charts} charts=${charts} group="group-${id}" />`}
        ${!charts.length && info.status !== "stopped" && html`<p class="panel">The charts begin with the first second of the run.</p>`}
        ${results ? html`<${Results} results=${results} />` : html`<${SoFar} progress=${info.progress} failed=${run.failed} />`}
        ${info.status === "stopped" && info.verdict && html`<${Downloads} id=${id} />`}
        <${Plan} load=${load} info=${info} />
        <${Logs} id=${id} />
    `;
}

function Actions({ id, info, again }) {
    const act = (path, method = "POST") => async () => {
        await ask(`${GROUPS}/${id}${path}`, { method });
        again();
    };
    const remove = async () => {
        await ask(`${GROUPS}/${id}`, { method: "DELETE" });
        location.hash = "#/groups";
    };
    return html`
        ${info.progress?.phase === "holding" && html`<${Doing} label="Run" kind="primary" act=${act("/run")} />`}
        ${info.status !== "stopped" && html`<${Asking} label="Stop" answer="Stop it" act=${act("/stop")}
            question="Stop group ${id}? No more is sent, what was sent is waited for, and everything is kept." />`}
        <a class="button" href="#/groups/new?like=${id}">Once more</a>
        <a class="button" href="#/compare?groups=${id}">Compare</a>
        <${Asking} label="Delete" answer="Delete it" act=${remove}
            question="Delete group ${id}? It is stopped if it runs, and leaves the list. Its result files stay on the disk." />
    `;
}

function Tiles({ info: { load_config: load, progress, status } }) {
    if (!progress || (status === "stopped" && !progress.sent)) return null;
    return html`
        <dl class="tiles">
            <${Tile} label="Asked" value=${askedOf(load, progress)} />
            <${Tile} label="Answered" value=${withUnit(progress.achieved_rps, "1/s")} />
            <${Tile} label="p99 time to first token" value=${withUnit(progress.ttft_p99_seconds, "s")} />
            <${Tile} label="p99 latency" value=${withUnit(progress.latency_p99_seconds, "s")} />
            <${Tile} label="Output" value=${withUnit(progress.output_tokens_per_second, "tokens/s")} />
            <${Tile} label="Failed" value=${withUnit(progress.failed, "")} note=${`of ${progress.sent} sent`} />
            ${status === "running" && html`<${Tile} label="In flight" value=${withUnit(progress.in_flight, "")} />`}
        </dl>
    `;
}

function Reasons({ verdict, when = "" }) {
    if (!verdict) return null;
    const kind = { valid: "good", suspect: "warn", invalid: "bad" }[verdict.state];
    return html`
        <section class="notice ${kind}" aria-label="Verdict">
            <strong>Verdict${when}: ${verdict.state}.</strong>
            ${verdict.reasons.length ? html`<ul>${verdict.reasons.map(({ text }) => html`<li>${text}</li>`)}</ul>` : " Nothing speaks against these numbers."}
        </section>
    `;
}

function Results({ results }) {
    const { metrics, replicas, ranks, counts, failures } = results;
    const spectrum = useMemo(() => ({
        title: "Latency by percentile",
        unit: "s",
        series: [["latency_seconds", "latency", "c1"], ["service_time_seconds", "uncorrected", "c2"], ["ttft_seconds", "time to first token", "c3"]]
            .filter(([name]) => metrics[name]?.count)
            .map(([name, label, role]) => ({ name: label, role, ...spectrumOf(metrics[name]) })),
    }), [results]);
    const rows = SHOWN.filter(([name]) => metrics[name]?.count).map(([name, label]) => [
        label, withUnit(metrics[name].count, ""), withUnit(metrics[name].mean, "s"),
        ...PERCENTILES.map(([key]) => `${metrics[name].lower_bound?.[key] ? "≥ " : ""}${withUnit(metrics[name][key], "s")}`),
    ]);
    const { energy } = results;
    return html`
        <h2>Results</h2>
        <${Table} label="Percentiles" head=${["", "Samples", "Mean", "p50", "p90", "p95", "p99", "p99.9"]} rows=${rows} />
        ${spectrum.series.length > 0 && html`<${Chart} make=${spectrumChart} chart=${spectrum} />`}
        <${Failures} counts=${counts.failed_by_kind} words=${failures} />
        ${energy && html`<h3>Energy</h3><${Energy} energy=${energy} />`}
        <${Replicas} replicas=${Object.entries(replicas).map(([name, one]) => [name, { ...one, ...one.counts }])} />
        <h3>Ranks</h3>
        <${Table} label="Ranks" head=${["Rank", "Node", "CPU", "Longest loop lag", "Lost"]}
            rows=${ranks.map((rank) => [rank.rank, rank.host, withUnit(rank.cpu, "%"),
                withUnit(rank.loop_lag_max_seconds, "s"), rank.lost ? "yes" : "no"])} />
    `;
}

/** While a run goes on: what failed, and what each replica got. */
function SoFar({ progress, failed }) {
    const replicas = Object.entries(progress?.replicas ?? {});
    if (!replicas.length) return null;
    return html`
        <h2>So far</h2>
        <${Failures} counts=${failed} words=${progress.failures} />
        <${Replicas} replicas=${replicas} />
    `;
}

/** `counts` and the `words` of one failure, by kind. */
function Failures({ counts, words }) {
    const kinds = Object.entries(counts ?? {});
    if (!kinds.length) return null;
    return html`<h3>Failures</h3><${Table} label="Failures" head=${["Kind", "Requests", "For example"]}
        rows=${kinds.map(([kind, count]) => [kind, count, words?.[kind]])} />`;
}

/** [[name, {url, sent, failed, left_out}]] */
function Replicas({ replicas }) {
    const all = replicas.reduce((sum, [, { sent }]) => sum + sent, 0);
    return html`<h3>Replicas</h3><${Table} label="Replicas" head=${["Replica", "Address", "Sent", "Share", "Failed", "Left out"]}
        rows=${replicas.map(([name, { url, sent, failed, left_out: leftOut }]) => [
            name, url, sent, withUnit(sent / Math.max(1, all), "%"), failed, leftOut ? "yes" : "no"])} />`;
}

/** The energy of all boards over the measured window, or why there is no number. */
function Energy({ energy }) {
    if (!energy.valid) return html`<p class="notice warn">${energy.reasons.map(({ text }) => sentence(text)).join(" ")}</p>`;
    return html`
        <dl class="tiles">
            <${Tile} label="Energy" value=${withUnit(energy.joules, "J")} />
            <${Tile} label="Power, on average" value=${withUnit(energy.average_watts, "W")} />
            <${Tile} label="Per output token" value=${withUnit(energy.joules_per_output_token, "J")} />
            <${Tile} label="Per successful request" value=${withUnit(energy.joules_per_request, "J")} />
        </dl>
    `;
}

/** The percentiles of a summary as a spectrum: as many as have samples enough. */
export function spectrumOf(metric) {
    const known = PERCENTILES.filter(([key]) => metric[key] != null && metric.enough?.[key] !== false);
    return { quantiles: [0, ...known.map(([, quantile]) => quantile)], values: [metric.min, ...known.map(([key]) => metric[key])] };
}

export function Downloads({ id }) {
    const files = [
        ["Every request (CSV)", `/requests?format=csv`, "requests.csv"],
        ["Every request (JSONL)", `/requests?format=jsonl`, "requests.jsonl"],
        ["Every second (JSONL)", "/timeline", "timeline.jsonl"],
        ["Summary (JSON)", "/results", "summary.json"],
        ["Report (page)", "/report", "report.html"],
    ];
    return html`
        <h2>Downloads</h2>
        <div class="actions">${files.map(([label, path, name]) => html`
            <${Doing} label=${label} act=${() => download(`${GROUPS}/${id}${path}`, `group-${id}-${name}`)} />`)}
        </div>
    `;
}

function Plan({ load, info }) {
    const fields = { ...load, run_id: info.run_id, run_dir: info.run_dir, created_at: info.created_at, started_at: info.started_at, ended_at: info.ended_at };
    const shown = Object.entries(fields).filter(([, value]) => value != null && value !== "" && JSON.stringify(value) !== "{}");
    return html`
        <details class="panel">
            <summary>What was asked for</summary>
            <dl class="plan">${shown.map(([name, value]) => html`<dt>${name}</dt><dd>${typeof value === "string" ? value : JSON.stringify(value)}</dd>`)}</dl>
        </details>
    `;
}

function Logs({ id }) {
    const [open, setOpen] = useState(false);
    return html`
        <details class="panel" onToggle=${(event) => setOpen(event.target.open)}>
            <summary>Logs of its job</summary>
            ${open && html`<${FollowedLogs} path="${GROUPS}/${id}/logs" label="Logs of the job" />`}
        </details>
    `;
}

/** Logs that follow: `{logs, next}` of a call that takes `after`. */
export function FollowedLogs({ path, label }) {
    const [text, setText] = useState(null);
    const [fault, setFault] = useState(null);
    const place = useRef(null);
    useEffect(() => {
        const ending = new AbortController();
        let timer;
        let after = "";
        const read = async () => {
            try {
                const joint = path.includes("?") ? "&" : "?";
                const found = await askJson(`${path}${after && `${joint}after=${encodeURIComponent(after)}`}`, { signal: ending.signal, seconds: PATIENCE });
                const grown = after !== found.next;
                after = found.next;
                setFault(null);
                setText((before) => ((before ?? "") + found.logs).slice(-500_000));
                if (grown && found.logs && place.current) requestAnimationFrame(() => place.current?.scrollTo(0, place.current.scrollHeight));
            } catch (error) {
                if (ending.signal.aborted) return;
                setFault(error);
            }
            timer = setTimeout(read, 1000);
        };
        read();
        return () => {
            ending.abort();
            clearTimeout(timer);
        };
    }, [path]);
    return html`
        ${fault && html`<p class="notice bad" role="alert">${sentence(fault.message)}</p>`}
        <pre class="logs" tabindex="0" role="log" aria-label=${label} ref=${place}>${text === null ? "asking …" : text || "nothing yet"}</pre>
    `;
}
