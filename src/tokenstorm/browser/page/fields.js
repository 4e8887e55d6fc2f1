/** Forms made from a description of their fields: of OpenAPI's schemas, or of a recipe's parameters.
 *
 *  A field: {name, kind, about, fallback, choices, least, most}; kind: text, number, integer, yesno, choice, lines, json, secret. */

import { html } from "../vendor/htm.js";

/** The field that a property of a JSON schema describes. */
export function fieldOf(name, schema) {
    const { enum: choices, ...plain } = plainOf(schema);
    const several = plain.type === "array" && plain.items?.type === "string";
    const kinds = { boolean: "yesno", integer: "integer", number: "number", string: choices ? "choice" : "text" };
    let kind = several ? "lines" : (kinds[plain.type] ?? "json");
    if (plain.format === "password") kind = "secret";
    if ((schema.anyOf ?? []).some((one) => one.$ref) && kind === "choice") kind = "text";
    const least = plain.minimum ?? plain.exclusiveMinimum;
    return { name, kind, about: schema.description ?? "", fallback: schema.default, choices, least, most: plain.maximum };
}

function plainOf(schema) {
    const forms = (schema.anyOf ?? [schema]).filter((one) => one.type !== "null");
    return forms.find((one) => one.type) ?? forms[0] ?? {};
}

/** Stands for what is in a field of numbers and is none: the browser does not tell its text. */
const UNREADABLE = Symbol("unreadable");

/** What was typed, as what is sent: undefined for nothing. Raises `SyntaxError` for what is no JSON, or no number. */
export function valueOf({ kind, name }, typed) {
    if (typed === UNREADABLE) throw new SyntaxError("no number");
    if (typed === undefined || typed === "") return undefined;
    switch (kind) {
        case "integer":
        case "number": {
            const number = Number(typed);
            return Number.isNaN(number) ? typed : number;
        }
        case "yesno":
            return typed === "yes";
        case "lines":
            return linesOf(typed);
        case "json":
            return JSON.parse(typed);
        default:
            return name === "arrival" && typed.trim().startsWith("{") ? JSON.parse(typed) : typed;
    }
}

/** One text a line, or a JSON list of texts, which may have lines of their own. */
function linesOf(typed) {
    try {
        const listed = JSON.parse(typed);
        if (Array.isArray(listed) && listed.every((one) => typeof one === "string")) return listed;
    } catch {
        // it is plain lines
    }
    return typed.split("\n").filter((line) => line.trim());
}

/** What is sent, as it is typed: `valueOf` makes the same of it again. */
export function typedOf({ kind }, value) {
    if (value === undefined || value === null) return undefined;
    if (kind === "yesno") return value ? "yes" : "no";
    if (kind === "lines" && Array.isArray(value)) {
        const lines = value.join("\n");
        return JSON.stringify(linesOf(lines)) === JSON.stringify(value) ? lines : JSON.stringify(value);
    }
    return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** {body, faults}: the typed values of all fields as a body; what is no JSON is a fault of its field. */
export function bodyOf(fields, typed) {
    const body = {};
    const faults = {};
    for (const field of fields) {
        try {
            const value = valueOf(field, typed[field.name]);
            if (value !== undefined) body[field.name] = value;
        } catch (error) {
            faults[field.name] = typed[field.name] === UNREADABLE ? "is not a number" : `is not JSON: ${error.message}`;
        }
    }
    return { body, faults };
}

/** One field with its label, what it means, its default and what the API said of it. */
export function Field({ field, typed, fault, change }) {
    const { name, kind, about, fallback, choices, least, most } = field;
    const id = `field-${name}`;
    const shared = {
        id,
        name,
        "aria-describedby": `${id}-about${fault ? ` ${id}-fault` : ""}`,
        "aria-invalid": fault ? "true" : undefined,
        onInput: ({ target }) => change(name, target.validity.badInput ? UNREADABLE : target.value),
    };
    const hint = fallback === undefined || fallback === null || fallback === "" || typeof fallback === "object" ? "" : String(fallback);
    return html`
        <div class="field">
            <label for=${id}>${name}</label>
            ${inputOf({ kind, choices, least, most, hint, typed: typeof typed === "string" ? typed : "", shared })}
            <p id="${id}-about" class="about">${marked(about)}${hint && kind !== "choice" && kind !== "yesno" ? ` (default ${hint})` : ""}</p>
            ${fault && html`<p id="${id}-fault" class="fault">${fault}</p>`}
        </div>
    `;
}

/** What stands between backticks as code. */
function marked(text) {
    return text.split("`").map((part, index) => (index % 2 ? html`<code>${part}</code>` : part));
}

function inputOf({ kind, choices, least, most, hint, typed, shared }) {
    if (kind === "yesno" || (kind === "choice" && choices)) {
        const offered = kind === "yesno" ? ["yes", "no"] : choices;
        const usual = kind === "yesno" ? { true: "yes", false: "no" }[hint] : hint;
        return html`<select ...${shared} value=${typed}>
            <option value="">${usual ? `${usual} (default)` : "not set"}</option>
            ${offered.map((choice) => html`<option value=${String(choice)}>${String(choice)}</option>`)}
        </select>`;
    }
    if (kind === "lines") return html`<textarea ...${shared} rows="4" value=${typed} placeholder="one a line, or a JSON list"></textarea>`;
    if (kind === "json") return html`<textarea ...${shared} rows="2" value=${typed} placeholder="JSON" spellcheck=${false}></textarea>`;
    if (kind === "integer" || kind === "number") {
        return html`<input ...${shared} type="number" step=${kind === "integer" ? 1 : "any"} min=${least} max=${most} value=${typed} placeholder=${hint} />`;
    }
    return html`<input ...${shared} type=${kind === "secret" ? "password" : "text"} value=${typed} placeholder=${hint} autocomplete="off" />`;
}

/** The faults of a 422 by field: `stages.0.rps` stands beside the field that it is in. */
export function faultsOf(refused) {
    const found = {};
    for (const { field, message } of refused?.errors ?? []) {
        const [name, ...rest] = field.split(".");
        const words = rest.length ? `${rest.join(".")}: ${message}` : message;
        found[name] = found[name] ? `${found[name]}; ${words}` : words;
    }
    return found;
}
