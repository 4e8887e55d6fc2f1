/** What several screens use: data that is asked for again and again, tags, tiles, questions, charts. */

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/htm.js";
import { timeChart } from "../charts/time.js";
import { PATIENCE, askJson } from "./api.js";

/** `{data, fault, at}` of a call that is repeated every `seconds`; `again()` asks at once. Old data stays when a call fails. */
export function usePolled(path, seconds) {
    const [state, setState] = useState({});
    const [turn, setTurn] = useState(0);
    useEffect(() => {
        const ending = new AbortController();
        let timer;
        const ask = async () => {
            try {
                const data = await askJson(path, { signal: ending.signal, seconds: PATIENCE });
                setState({ data, at: Date.now() });
            } catch (fault) {
                if (ending.signal.aborted) return;
                setState((before) => ({ ...before, fault }));
            }
            if (!ending.signal.aborted && seconds) timer = setTimeout(ask, seconds * 1000);
        };
        ask();
        return () => {
            ending.abort();
            clearTimeout(timer);
        };
    }, [path, seconds, turn]);
    return { ...state, again: () => setTurn((before) => before + 1) };
}

/** Says what is wrong with the figures that are shown, and how old they are. */
export function Stale({ fault, at }) {
    const [, tick] = useState(0);
    useEffect(() => {
        if (!fault) return undefined;
        const timer = setInterval(() => tick((before) => before + 1), 1000);
        return () => clearInterval(timer);
    }, [fault]);
    if (!fault) return null;
    const old = at ? ` What you see is ${ageOf(at)} old.` : "";
    return html`<p class="notice bad" role="alert">${sentence(fault.message)}${old} Trying again.</p>`;
}

/** A text as a sentence: with a full stop, and with a capital where it begins with a plain word. */
export function sentence(text) {
    const whole = /^[a-z]+[ ,]/.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text;
    return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

/** How long ago that was: "5 s", "3 min", "2 h", "4 d". */
export function ageOf(moment) {
    const seconds = Math.max(0, (Date.now() - new Date(moment)) / 1000);
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
        if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${Math.floor(seconds)} s`;
}

const TAGS = { valid: "good", suspect: "warn", invalid: "bad", completed: "good", running: "note", failed: "bad", pending: "warn" };

export function Tag({ text }) {
    return text ? html`<span class="tag ${TAGS[text] ?? "note"}">${text}</span>` : html`<span class="muted">–</span>`;
}

export function Tile({ label, value, note }) {
    return html`<div class="tile"><dt>${label}</dt><dd>${value}${note && html`<small>${note}</small>`}</dd></div>`;
}

/** A button that asks first, in a dialog, and says there what went wrong. */
export function Asking({ label, question, answer, act, kind = "danger" }) {
    const dialog = useRef(null);
    const [fault, setFault] = useState(null);
    const go = async (event) => {
        event.preventDefault();
        try {
            await act();
            dialog.current?.close();
        } catch (error) {
            setFault(error);
        }
    };
    return html`
        <button type="button" class=${kind} onClick=${() => { setFault(null); dialog.current.showModal(); }}>${label}</button>
        <dialog ref=${dialog} aria-label=${label}>
            <form method="dialog" onSubmit=${go}>
                <p>${question}</p>
                ${fault && html`<p class="notice bad" role="alert">${sentence(fault.message)}</p>`}
                <div class="actions">
                    <button type="submit" class=${kind}>${answer}</button>
                    <button type="button" onClick=${() => dialog.current.close()}>Leave it</button>
                </div>
            </form>
        </dialog>
    `;
}

/** A button for a call; what went wrong stands beside it. */
export function Doing({ label, act, kind = "" }) {
    const [fault, setFault] = useState(null);
    const [busy, setBusy] = useState(false);
    const go = async () => {
        setBusy(true);
        setFault(null);
        try {
            await act();
        } catch (error) {
            setFault(error);
        }
        setBusy(false);
    };
    return html`
        <button type="button" class=${kind} disabled=${busy} onClick=${go}>${label}</button>
        ${fault && html`<span class="notice bad" role="alert">${sentence(fault.message)}</span>`}
    `;
}

/** A table whose cells know their column's name, which a narrow screen shows instead of the head. */
export function Table({ label, head, rows }) {
    return html`
        <table class="cards" aria-label=${label}>
            <thead><tr>${head.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
            <tbody>${rows.map((cells) => html`<tr>${cells.map((cell, index) => html`<td data-label=${head[index]}>${cell ?? "–"}</td>`)}</tr>`)}</tbody>
        </table>
    `;
}

/** The charts of a run: [{key, chart}]. One is drawn a frame, so that the page stays quick while they change. */
export function Charts({ charts, group, kind = "" }) {
    const place = useRef(null);
    const drawn = useRef(new Map());
    const wanted = useRef([]);
    useLayoutEffect(() => {
        wanted.current = charts.slice();
        const keys = new Set(charts.map(({ key }) => key));
        for (const [key, chart] of drawn.current) {
            if (!keys.has(key)) {
                chart.remove();
                drawn.current.delete(key);
            }
        }
        let frame = requestAnimationFrame(function draw() {
            const next = wanted.current.shift();
            if (!next) return;
            const known = drawn.current.get(next.key);
            if (known) known.update(next.chart);
            else drawn.current.set(next.key, timeChart(place.current, next.chart, { group }));
            frame = requestAnimationFrame(draw);
        });
        return () => cancelAnimationFrame(frame);
    }, [charts]);
    useEffect(() => () => drawn.current.forEach((chart) => chart.remove()), []);
    return html`<div class="charts ${kind}" ref=${place}></div>`;
}

/** One chart of any kind: `make(element, chart)` as in the modules of charts/. */
export function Chart({ make, chart }) {
    const place = useRef(null);
    const drawn = useRef(null);
    useEffect(() => {
        if (drawn.current) drawn.current.update(chart);
        else drawn.current = make(place.current, chart);
    }, [chart]);
    useEffect(() => () => drawn.current?.remove(), []);
    return html`<div ref=${place}></div>`;
}
