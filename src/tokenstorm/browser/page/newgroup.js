/** The form for a group, made from the schema of its request. */

import { html, useEffect, useMemo, useState } from "../vendor/htm.js";
import { GROUPS, SERVER, askJson } from "./api.js";
import { Field, bodyOf, faultsOf, fieldOf, typedOf } from "./fields.js";
import { sentence } from "./parts.js";
import { Snippets, curlOf, groupCommand, pythonCall } from "./snippets.js";

const FIRST = ["num_clients", "requests_per_second", "duration_seconds", "prompts", "max_tokens", "name", "start", "warmup_seconds"];
const START = { num_clients: "10", requests_per_second: "2", duration_seconds: "60", prompts: "Explain in a few sentences what a supercomputer is used for." };

/** {fields, options, services, fault}: what the form is made from. */
function useDescription() {
    const [found, setFound] = useState({});
    useEffect(() => {
        const schemas = askJson("/openapi.json");
        const services = askJson(`${SERVER}/services`).then(({ services: all }) => all, () => []);
        Promise.all([schemas, askJson("/options.json"), services]).then(([{ components }, options, all]) => {
            const { properties } = components.schemas.GroupRequest;
            const fields = Object.entries(properties).map(([name, schema]) => fieldOf(name, schema));
            setFound({ fields, options, services: all.filter(({ status }) => ["pending", "configuring", "starting", "running"].includes(status)) });
        }).catch((fault) => setFound({ fault }));
    }, []);
    return found;
}

export function NewGroup({ query }) {
    const { fields, options, services, fault } = useDescription();
    const [typed, setTyped] = useState(START);
    const [refused, setRefused] = useState(null);
    const [preview, setPreview] = useState(null);
    const [busy, setBusy] = useState(false);
    const like = query.get("like");
    useEffect(() => {
        if (!fields) return;
        if (like) {
            askJson(`${GROUPS}/${like}`).then(({ info }) => {
                const known = fields.map((field) => [field.name, typedOf(field, info.load_config[field.name])]);
                setTyped(Object.fromEntries(known.filter(([name, text]) => text !== undefined && name !== "seed")));
            }, setRefused);
        } else if (query.get("service") ?? services[0]) {
            setTyped((before) => ({ ...before, service_id: query.get("service") ?? services[0].id }));
        }
    }, [fields]);
    const { body, faults } = useMemo(() => bodyOf(fields ?? [], typed), [fields, typed]);
    if (fault) return html`<p class="notice bad" role="alert">${sentence(fault.message)}</p>`;
    if (!fields) return html`<p role="status">Asking what a group may have …</p>`;
    const said = { ...faultsOf(refused), ...faults };
    const change = (name, text) => setTyped({ ...typed, [name]: text });
    const send = async (path) => {
        setBusy(true);
        setRefused(null);
        setPreview(null);
        try {
            return await askJson(`${GROUPS}${path}`, { method: "POST", body });
        } catch (error) {
            setRefused(error);
            return null;
        } finally {
            setBusy(false);
        }
    };
    const create = async (event) => {
        event.preventDefault();
        const made = await send("");
        if (made) location.hash = `#/groups/${made.group_id}`;
    };
    const show = (names) => fields.filter(({ name }) => names(name)).map((field) => html`
        <${Field} key=${field.name} field=${field} typed=${typed[field.name]} fault=${said[field.name]} change=${change} />`);
    const more = (name) => !FIRST.includes(name) && !["service_id", "target_url"].includes(name);
    const open = Object.keys(said).some(more) || Boolean(like);
    return html`
        <h1>New group</h1>
        <form onSubmit=${create} noValidate>
            ${refused && html`<p class="notice bad" role="alert">${refused.errors.length ? "Some fields are not right: see those that are marked." : sentence(refused.message)}</p>`}
            <fieldset class="fields">
                <legend>What is loaded</legend>
                <${Target} services=${services} typed=${typed} said=${said} change=${change} />
            </fieldset>
            <fieldset class="fields"><legend>Load</legend>${FIRST.flatMap((name) => show((one) => one === name))}</fieldset>
            <details class="panel" open=${open}>
                <summary>All other fields</summary>
                <div class="fields">${show(more)}</div>
            </details>
            <div class="actions">
                <button type="submit" class="primary" disabled=${busy || Object.keys(faults).length > 0}>${body.start === "manual" ? "Create and hold" : "Start"}</button>
                <button type="button" disabled=${busy || Object.keys(faults).length > 0} onClick=${async () => setPreview(await send("/dry-run"))}>Show what it would submit</button>
            </div>
        </form>
        ${preview && html`<section class="panel" aria-label="What it would submit"><h2>What it would submit</h2>
            <pre tabindex="0" aria-label="The script">${preview.script ?? JSON.stringify(preview, null, 2)}</pre></section>`}
        <${Snippets} forms=${{ command: groupCommand(body, options), curl: curlOf(GROUPS, masked(body)), python: pythonCall("create_group", masked(body)) }} />
    `;
}

function Target({ services, typed, said, change }) {
    const own = { name: "target_url", kind: "text", about: "Or an engine of your own, with or without /v1, as the cluster reaches it." };
    const about = services.length ? "One that runs, or that starts: then the group waits for it." : "There is no service: start one on the screen Services, or name an address.";
    return html`
        <div class="field">
            <label for="field-service_id">service</label>
            <select id="field-service_id" value=${typed.service_id ?? ""} aria-describedby="field-service_id-about" onInput=${(event) => change("service_id", event.target.value)}>
                <option value="">none</option>
                ${typed.service_id && !services.some(({ id }) => id === typed.service_id) && html`<option value=${typed.service_id}>${typed.service_id}</option>`}
                ${services.map(({ id, recipe_name: recipe, status }) => html`<option value=${id}>${id} · ${recipe} · ${status}</option>`)}
            </select>
            <p id="field-service_id-about" class="about">${about}</p>
            ${said.service_id && html`<p class="fault">${said.service_id}</p>`}
        </div>
        <${Field} field=${own} typed=${typed.target_url} fault=${said.target_url} change=${change} />
    `;
}

function masked(body) {
    return body.api_key === undefined ? body : { ...body, api_key: "…" };
}
