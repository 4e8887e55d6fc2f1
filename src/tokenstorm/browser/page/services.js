/** All services, newest first. */

import { html } from "../vendor/htm.js";
import { SERVER } from "./api.js";
import { Stale, Tag, ageOf, usePolled } from "./parts.js";

export function Services() {
    const { data, fault, at } = usePolled(`${SERVER}/services`, 2);
    const all = (data?.services ?? []).slice().reverse();
    return html`
        <div class="title">
            <h1>Services</h1>
            <div class="actions"><a class="button primary" href="#/services/new">New service</a></div>
        </div>
        <${Stale} fault=${fault} at=${at} />
        ${!data && !fault && html`<p role="status">Asking for the services …</p>`}
        ${data && !all.length && html`<p class="panel">There are no services yet. <a href="#/services/new">Start one from a recipe</a>.</p>`}
        ${all.length > 0 && html`
            <table class="cards" aria-label="Services">
                <thead><tr>${["Service", "State", "Recipe", "Engine", "Model", "Replicas", "Job", "Age"].map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
                <tbody>${all.map((one) => html`
                    <tr key=${one.id}>
                        <td data-label="Service"><a href="#/services/${one.id}">${one.id}</a></td>
                        <td data-label="State" title=${one.reason}><${Tag} text=${one.status} /></td>
                        <td data-label="Recipe">${one.recipe_name}</td>
                        <td data-label="Engine">${one.engine}</td>
                        <td data-label="Model">${one.model}</td>
                        <td data-label="Replicas">${one.healthy_replicas} of ${one.total_replicas}</td>
                        <td data-label="Job">${one.job_id ?? "–"}</td>
                        <td data-label="Age">${one.created_at ? ageOf(one.created_at) : "–"}</td>
                    </tr>`)}</tbody>
            </table>`}
    `;
}
