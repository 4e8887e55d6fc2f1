/** One service: how it stands, its replicas, a prompt, its logs and its engine's metrics. */

import { html, useEffect, useRef, useState } from "../vendor/htm.js";
import { SERVER, ask, askEvents } from "./api.js";
import { FollowedLogs } from "./group.js";
import { Asking, Stale, Table, Tag, ageOf, sentence, usePolled } from "./parts.js";

const OVER = new Set(["completed", "failed", "cancelled", "timeout"]);

export function Service({ id }) {
    const { data, fault, at, again } = usePolled(`${SERVER}/services/${id}`, 2);
    if (fault?.status === 404 && !data) return html`<p class="notice bad" role="alert">${sentence(fault.message)} <a href="#/services">All services</a>.</p>`;
    if (!data) return html`<${Stale} fault=${fault} at=${at} /><p role="status">Asking for service ${id} …</p>`;
    const over = OVER.has(data.status);
    const stop = async () => {
        await ask(`${SERVER}/services/${id}`, { method: "DELETE" });
        again();
    };
    return html`
        <div class="title">
            <h1>Service ${id}</h1>
            <div class="actions">
                ${!over && html`<a class="button primary" href="#/groups/new?service=${id}">Load it</a>`}
                ${!over && html`<${Asking} label="Stop" answer="Stop it" act=${stop} question="Stop service ${id}? Its job is cancelled, and groups that load it end." />`}
            </div>
        </div>
        <${Stale} fault=${fault} at=${at} />
        ${data.note && html`<p class="notice warn">${sentence(data.note)}</p>`}
        <p class="facts">
            <${Tag} text=${data.status} /><span>${data.recipe_name}</span><span>${data.engine}</span><span>${data.model}</span>
            <span>${data.healthy_replicas} of ${data.total_replicas} replicas answer</span>
            ${data.job_id && html`<span>job ${data.job_id}</span>`}
            ${data.created_at && html`<span>${ageOf(data.created_at)} old</span>`}
        </p>
        ${data.reason && html`<p class="notice">${sentence(data.reason)}</p>`}
        <${Replicas} service=${data} />
        ${data.status === "running" && html`<${Prompt} id=${id} model=${data.model} />`}
        <details class="panel" open><summary>Logs</summary><${FollowedLogs} path="${SERVER}/services/${id}/logs" label="Logs of the service" /></details>
        ${data.status === "running" && html`<${Metrics} id=${id} />`}
    `;
}

function Replicas({ service }) {
    const { data } = usePolled(`${SERVER}/service-groups/${service.id}`, 2);
    if (!data?.node_jobs?.length) return service.endpoint ? html`<p class="panel">It answers at <code>${service.endpoint}</code>.</p>` : null;
    const rows = data.node_jobs.flatMap(({ node, replicas }) => replicas.map((one) => [one.id, node, html`<${Tag} text=${one.status} />`, one.endpoint ?? "–", one.reason || "–"]));
    return html`<h2>Replicas</h2><${Table} label="Replicas" head=${["Replica", "Node", "State", "Address", "Reason"]} rows=${rows} />`;
}

function Prompt({ id, model }) {
    const [text, setText] = useState("Explain in a few sentences what a supercomputer is used for.");
    const [answer, setAnswer] = useState(null);
    const [fault, setFault] = useState(null);
    const running = useRef(null);
    useEffect(() => () => running.current?.abort(), []);
    const send = async (event) => {
        event.preventDefault();
        running.current?.abort();
        const ending = new AbortController();
        running.current = ending;
        setAnswer("");
        setFault(null);
        const body = { messages: [{ role: "user", content: text }], max_tokens: 200, stream: true, ...(model && { model }) };
        try {
            await askEvents(`${SERVER}/vllm/${id}/v1/chat/completions`, (_event, data) => {
                if (data === "[DONE]") return;
                const said = JSON.parse(data);
                if (said.error) throw new Error(said.error.message);
                const { delta = {} } = said.choices?.[0] ?? {};
                setAnswer((before) => before + (delta.reasoning_content ?? "") + (delta.content ?? ""));
            }, { method: "POST", body, signal: ending.signal });
        } catch (error) {
            if (!ending.signal.aborted) setFault(error);
        }
    };
    return html`
        <h2>Ask it</h2>
        <form class="panel" onSubmit=${send}>
            <label for="prompt">Prompt</label>
            <textarea id="prompt" rows="3" value=${text} onInput=${(event) => setText(event.target.value)}></textarea>
            <div class="actions"><button type="submit" class="primary">Send</button></div>
            ${fault && html`<p class="notice bad" role="alert">${sentence(fault.message)}</p>`}
            ${answer !== null && html`<div class="answer" role="status" aria-label="Answer">${answer || "…"}</div>`}
        </form>
    `;
}

function Metrics({ id }) {
    const [open, setOpen] = useState(false);
    const [text, setText] = useState("");
    useEffect(() => {
        if (!open) return undefined;
        const read = () => ask(`${SERVER}/services/${id}/metrics`).then((answer) => answer.text()).then(setText, (error) => setText(error.message));
        read();
        const timer = setInterval(read, 2000);
        return () => clearInterval(timer);
    }, [open, id]);
    const samples = text.split("\n").filter((line) => line && !line.startsWith("#") && !/_bucket\{/.test(line)).join("\n");
    return html`
        <details class="panel" onToggle=${(event) => setOpen(event.target.open)}>
            <summary>What its engine says of itself (without the buckets of histograms)</summary>
            ${open && html`<pre class="logs" tabindex="0" aria-label="Metrics of the engine">${samples || "asking …"}</pre>`}
        </details>
    `;
}
