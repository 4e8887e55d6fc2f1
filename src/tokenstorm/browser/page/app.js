/** The page: which screen is shown, and the token where the site wants one. */

import { html, render, useEffect, useRef, useState } from "../vendor/htm.js";
import { hasToken, keepToken } from "./api.js";
import { Compare } from "./compare.js";
import { Group } from "./group.js";
import { Groups } from "./groups.js";
import { NewGroup } from "./newgroup.js";
import { NewService } from "./newservice.js";
import { Service } from "./service.js";
import { Services } from "./services.js";

const SCREENS = [
    [/^\/groups$/, "Groups", () => html`<${Groups} />`],
    [/^\/groups\/new$/, "New group", (_match, query) => html`<${NewGroup} query=${query} />`],
    [/^\/groups\/(\d+)$/, "Group", ([, id]) => html`<${Group} key=${id} id=${id} />`],
    [/^\/compare$/, "Compare", (_match, query) => html`<${Compare} query=${query} />`],
    [/^\/services$/, "Services", () => html`<${Services} />`],
    [/^\/services\/new$/, "New service", () => html`<${NewService} />`],
    [/^\/services\/([\w.-]+)$/, "Service", ([, id]) => html`<${Service} key=${id} id=${id} />`],
];

function useHash() {
    const [hash, setHash] = useState(location.hash);
    useEffect(() => {
        const changed = () => setHash(location.hash);
        addEventListener("hashchange", changed);
        return () => removeEventListener("hashchange", changed);
    }, []);
    const [path, query] = (hash.slice(1) || "/groups").split("?");
    return [path, new URLSearchParams(query)];
}

function TokenForm({ refused, taken }) {
    const field = useRef(null);
    useEffect(() => field.current.focus(), []);
    const keep = (event) => {
        event.preventDefault();
        keepToken(field.current.value);
        taken();
    };
    return html`
        <form class="panel narrow" onSubmit=${keep}>
            <h1>This site wants its token</h1>
            ${refused && html`<p class="notice bad" role="alert">That token was not taken.</p>`}
            <label for="token">The token that was printed at the start</label>
            <input id="token" type="password" autocomplete="off" required ref=${field} aria-describedby="token-about" />
            <p id="token-about" class="muted">It is kept until you close this tab.</p>
            <button type="submit" class="primary">Go on</button>
        </form>
    `;
}

function App() {
    const [path, query] = useHash();
    const [asking, setAsking] = useState(null);
    const main = useRef(null);
    const first = useRef(true);
    const screen = SCREENS.find(([pattern]) => pattern.test(path));
    useEffect(() => {
        const want = () => setAsking({ refused: hasToken() });
        addEventListener("token-wanted", want);
        return () => removeEventListener("token-wanted", want);
    }, []);
    useEffect(() => {
        document.title = `${screen?.[1] ?? "Nothing here"} · tokenstorm`;
        if (!first.current) main.current.focus();
        first.current = false;
    }, [path]);
    const here = (name) => (path.startsWith(`/${name}`) ? "page" : undefined);
    return html`
        <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>To the content</a>
        <header>
            <strong>tokenstorm</strong>
            <nav aria-label="Screens">
                <a href="#/groups" aria-current=${here("groups")}>Groups</a>
                <a href="#/compare" aria-current=${here("compare")}>Compare</a>
                <a href="#/services" aria-current=${here("services")}>Services</a>
                <a href="/docs">API</a>
            </nav>
        </header>
        <main id="main" tabindex="-1" ref=${main}>
            ${asking
                ? html`<${TokenForm} refused=${asking.refused} taken=${() => setAsking(null)} />`
                : (screen?.[2](path.match(screen[0]), query) ?? html`<p>There is nothing here: <a href="#/groups">all groups</a>.</p>`)}
        </main>
    `;
}

render(html`<${App} />`, document.getElementById("app"));
