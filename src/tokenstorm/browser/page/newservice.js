/** The form for a service, made from the parameters of its recipe. */

import { html, useEffect, useMemo, useState } from "../vendor/htm.js";
import { SERVER, askJson } from "./api.js";
import { Field, bodyOf, faultsOf } from "./fields.js";
import { sentence, usePolled } from "./parts.js";
import { Snippets, curlOf, pythonCall, serviceCommand } from "./snippets.js";

const KINDS = { string: "text", integer: "integer", number: "number", boolean: "yesno", strings: "lines" };
const RESOURCES = {
    nodes: "Nodes of its job",
    cpu: "Cores on each node",
    gpu: "GPUs on each node",
    memory_mb: "Memory on each node, such as 64G",
    time_limit: "Minutes that it may run",
};

export function NewService() {
    const { data, fault } = usePolled(`${SERVER}/recipes`, 0);
    const [name, setName] = useState("");
    const [typed, setTyped] = useState({});
    const [refused, setRefused] = useState(null);
    const [busy, setBusy] = useState(false);
    const recipes = data?.recipes ?? [];
    useEffect(() => {
        if (!name && recipes.length) setName((recipes.find((one) => one.engine === "simulated") ?? recipes[0]).name);
    }, [data]);
    const recipe = recipes.find((one) => one.name === name);
    const fields = useMemo(() => (recipe ? fieldsOf(recipe) : []), [recipe]);
    const { body: plain, faults } = useMemo(() => bodyOf(fields, typed), [fields, typed]);
    if (fault) return html`<p class="notice bad" role="alert">${sentence(fault.message)}</p>`;
    if (!recipe) return html`<p role="status">Asking for the recipes …</p>`;
    const config = configOf(plain);
    const said = { ...faultsOf(refused), ...faults };
    const create = async (event) => {
        event.preventDefault();
        setBusy(true);
        setRefused(null);
        try {
            const made = await askJson(`${SERVER}/services`, { method: "POST", body: { recipe_name: name, config } });
            location.hash = `#/services/${made.id}`;
        } catch (error) {
            setRefused(error);
        }
        setBusy(false);
    };
    return html`
        <h1>New service</h1>
        <form onSubmit=${create} noValidate>
            ${refused && html`<p class="notice bad" role="alert">${refused.errors.length ? "Some fields are not right: see those that are marked." : sentence(refused.message)}</p>`}
            <div class="panel field">
                <label for="recipe">Recipe</label>
                <select id="recipe" value=${name} aria-describedby="recipe-about" onInput=${(event) => { setName(event.target.value); setTyped({}); setRefused(null); }}>
                    ${recipes.map((one) => html`<option value=${one.name}>${one.name}</option>`)}
                </select>
                <p id="recipe-about" class="about">${recipe.description}</p>
            </div>
            <fieldset class="fields"><legend>Parameters, and what its job asks for</legend>
                ${fields.map((field) => html`<${Field} key=${field.name} field=${field} typed=${typed[field.name]}
                    fault=${said[field.name] ?? said[field.name.replace("resources.", "")]}
                    change=${(one, text) => setTyped({ ...typed, [one]: text })} />`)}
            </fieldset>
            <div class="actions"><button type="submit" class="primary" disabled=${busy || Object.keys(faults).length > 0}>Start</button></div>
        </form>
        <${Snippets} forms=${{
            command: serviceCommand(name, plain),
            curl: curlOf(`${SERVER}/services`, { recipe_name: name, config }),
            python: pythonCall("create_service", { recipe_name: name, config }),
        }} />
    `;
}

function fieldsOf({ parameters, resources }) {
    const own = parameters.map((one) => ({
        name: one.name,
        kind: one.choices.length ? "choice" : KINDS[one.type],
        about: one.description,
        fallback: one.default,
        choices: one.choices.length ? one.choices : undefined,
        least: one.minimum ?? undefined,
        most: one.maximum ?? undefined,
    }));
    const asked = Object.keys(RESOURCES).filter((name) => resources[name] !== undefined).map((name) => ({
        name: `resources.${name.replace("memory_mb", "memory")}`,
        kind: name === "memory_mb" ? "text" : "integer",
        about: RESOURCES[name],
        fallback: name === "memory_mb" ? (resources[name] && `${resources[name]}M`) : resources[name],
        least: 0,
    }));
    return [...own, ...asked];
}

/** `resources.nodes` as it is nested in the config. */
function configOf(plain) {
    const config = {};
    for (const [name, value] of Object.entries(plain)) {
        const [place, field] = name.startsWith("resources.") ? [(config.resources ??= {}), name.slice(10)] : [config, name];
        place[field] = value;
    }
    return config;
}
