/** What a form is about to do, as a command line, as the `curl` of it, and as Python. */

import { html, useState } from "../vendor/htm.js";
import { hasToken } from "./api.js";

/** A word for a POSIX shell. */
export function shellWord(text) {
    return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** A JSON value as Python writes it. */
export function pythonOf(value) {
    if (value === null) return "None";
    if (typeof value === "boolean") return value ? "True" : "False";
    if (Array.isArray(value)) return `[${value.map(pythonOf).join(", ")}]`;
    if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${pythonOf(one)}`).join(", ")}}`;
    return JSON.stringify(value);
}

/** An option with its value; one that begins with a dash would be taken for an option itself. */
function given(option, value) {
    return value.startsWith("-") ? [`${option}=${shellWord(value)}`] : [option, shellWord(value)];
}

export function curlOf(path, body) {
    const token = hasToken() ? ' \\\n  -H "authorization: Bearer $TOKENSTORM_TOKEN"' : "";
    return `curl ${shellWord(location.origin + path)}${token} \\\n  --json ${shellWord(JSON.stringify(body))}`;
}

/** `tokenstorm group create …`; `options` says how each field is typed. A key is never on a command line. */
export function groupCommand({ service_id: service, target_url: url, ...body }, options) {
    const words = ["tokenstorm", "group", "create"];
    const missing = [];
    if (service !== undefined) words.push(shellWord(String(service)));
    if (url !== undefined) words.push("--target-url", shellWord(url));
    for (const [name, value] of Object.entries(body)) {
        const option = options[name];
        if (name === "prompts") words.push(...value.flatMap((prompt) => given("--prompt", prompt)));
        else if (name === "api_key") words.push("--api-key-env", "ENGINE_KEY");
        else if (name === "labels" || name === "columns") words.push(...Object.entries(value).flatMap(([key, one]) => given(option, `${key}=${one}`)));
        else if (!option || typeof value === "object") missing.push(name);
        else if (typeof value === "boolean") words.push(value ? option : option.replace(/^--/, "--no-"));
        else words.push(...given(option, String(value)));
    }
    const note = missing.length ? `\n# not on the command line: ${missing.join(", ")}` : "";
    return words.join(" ") + note;
}

export function serviceCommand(recipe, config) {
    const words = ["tokenstorm", "service", "create", shellWord(recipe)];
    for (const [name, value] of Object.entries(config)) {
        words.push("--set", shellWord(`${name}=${typeof value === "string" ? value : JSON.stringify(value)}`));
    }
    return words.join(" ");
}

export function pythonCall(call, fields) {
    const lines = Object.entries(fields).map(([name, value]) => `    ${name}=${pythonOf(value)},\n`);
    return `from tokenstorm.sdk import Client\n\nwith Client() as client:\n    client.${call}(\n${lines.map((line) => `    ${line}`).join("")}    )`;
}

/** The three, one at a time. `forms` is {command, curl, python}. */
export function Snippets({ forms }) {
    const names = Object.keys(forms);
    const [shown, setShown] = useState(names[0]);
    const [copied, setCopied] = useState(false);
    const copy = async () => {
        await navigator.clipboard.writeText(forms[shown]);
        setCopied(true);
        setTimeout(() => setCopied(false), 1500);
    };
    return html`
        <section class="panel snippets" aria-label="The same without this page">
            <div class="title">
                <h2>The same without this page</h2>
                <div class="actions">
                    ${names.map((name) => html`<button type="button" aria-pressed=${shown === name ? "true" : "false"} onClick=${() => setShown(name)}>${name}</button>`)}
                    <button type="button" onClick=${copy}>${copied ? "copied" : "copy"}</button>
                </div>
            </div>
            <pre tabindex="0" aria-label=${shown}>${forms[shown]}</pre>
        </section>
    `;
}
