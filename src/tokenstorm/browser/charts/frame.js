/** What every chart has around it: a figure with a title, a legend with values, and a plot that can have the focus. */

import { withUnit } from "./units.js";

const SVG = "http://www.w3.org/2000/svg";

/** The colour of a role, as colors.css has it now: light or dark. */
export function colorOf(role) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--chart-${role}`).trim() || "#808080";
}

/** Call `draw` when the reader changes between light and dark; returns the function that ends it. */
export function onThemeChange(draw) {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", draw);
    return () => dark.removeEventListener("change", draw);
}

/** The role of the n-th of many equal things: replicas, ranks, runs. */
export function roleOf(n) {
    return `c${(n % 8) + 1}`;
}

/** The dashes by which a series is told from others without its colour. */
export function dashOf(series, index) {
    if (series.dash) return series.dash;
    return { asked: [6, 4], p90: [6, 3], p50: [2, 3] }[series.role] ?? (index >= 8 ? [8, 3] : undefined);
}

/** A figure inside `element`: {plot, legend, where, describe(text), remove()}. Texts are text, never HTML. */
export function chartFrame(element, { title, about }) {
    const figure = add(element, "figure", "chart");
    const caption = add(figure, "figcaption", "");
    add(caption, "span", "").textContent = title;
    const where = add(caption, "span", "chart-value");
    if (about) add(figure, "p", "chart-about").textContent = about;
    const legend = add(figure, "ul", "chart-legend");
    const plot = add(figure, "div", "chart-plot");
    plot.tabIndex = 0;
    plot.setAttribute("role", "img");
    const describe = (text) => plot.setAttribute("aria-label", `${title}: ${text}`);
    return { plot, legend, where, describe, remove: () => figure.remove() };
}

/** The legend anew: `entries` are [{name, role, dash, fill}]. Returns a function that shows one value for each. */
export function fillLegend(legend, entries) {
    legend.replaceChildren();
    const values = entries.map((entry) => {
        const item = add(legend, "li", "");
        item.append(swatch(entry));
        add(item, "span", "").textContent = entry.name;
        return add(item, "span", "chart-value");
    });
    return (texts) => texts.forEach((text, index) => write(values[index], text));
}

/** Put a text where another may be, if it is another. */
export function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

/** A sentence for those who do not see the plot: the last and the largest value of each series. */
export function sentenceOf(series, unit) {
    const parts = series.map(({ name, values }) => {
        let last = null;
        let most = -Infinity;
        for (const value of values) {
            if (value == null) continue;
            last = value;
            if (value > most) most = value;
        }
        return last === null ? `${name} has no values` : `${name} last ${withUnit(last, unit)}, at most ${withUnit(most, unit)}`;
    });
    return parts.join("; ") || "no values yet";
}

function swatch({ role, dash, fill }) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("width", "18");
    svg.setAttribute("height", "10");
    svg.setAttribute("aria-hidden", "true");
    const shape = document.createElementNS(SVG, fill ? "rect" : "line");
    const about = fill
        ? { x: 1, y: 1, width: 16, height: 8, fill: `var(--chart-${role})`, "fill-opacity": fill }
        : { x1: 0, y1: 5, x2: 18, y2: 5, stroke: `var(--chart-${role})`, "stroke-width": 2.5, "stroke-dasharray": dash ?? "" };
    for (const [name, value] of Object.entries(about)) shape.setAttribute(name, String(value));
    svg.append(shape);
    return svg;
}

function add(parent, tag, name) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    parent.append(made);
    return made;
}
