/** Counts by value, as bars: lengths of prompts and answers, latencies. Plain SVG.
 *
 *  histogramChart(element, chart, {height}) → {update(chart), remove()}
 *
 *  chart = {
 *      title: "Output length",
 *      unit: "tokens",                     // of the edges, as in units.js
 *      counted: "requests",                // what is counted
 *      edges: [0, 10, 20],                 // ascending; one more than there are counts
 *      counts: [3, 8],
 *      role: "c1",                         // a colour of colors.css
 *  } */

import { chartFrame } from "./frame.js";
import { plainNumber, withUnit } from "./units.js";

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";
const ROOM = { left: 52, right: 28, top: 10, bottom: 26 };

export function histogramChart(element, chart, { height = 200 } = {}) {
    const frame = chartFrame(element, chart);
    let now = chart;
    const again = () => {
        frame.plot.replaceChildren(barsOf(now, Math.max(frame.plot.clientWidth, 120), height));
        frame.describe(barsSentence(now));
    };
    again();
    let width = frame.plot.clientWidth;
    const resized = new ResizeObserver(() => {
        if (frame.plot.clientWidth !== width) {
            width = frame.plot.clientWidth;
            again();
        }
    });
    resized.observe(frame.plot);
    return {
        update(next) {
            now = next;
            again();
        },
        remove() {
            resized.disconnect();
            frame.remove();
        },
    };
}

function barsOf({ edges, counts, unit, counted, role }, width, height) {
    const svg = shape("svg", { width, height, "aria-hidden": "true", "font-size": 12, "font-family": "system-ui, sans-serif" });
    const most = Math.max(1, ...counts);
    const [first, last] = [edges[0] ?? 0, edges[edges.length - 1] ?? 1];
    const across = (value) => ROOM.left + ((value - first) / (last - first || 1)) * (width - ROOM.left - ROOM.right);
    const up = (count) => height - ROOM.bottom - (count / most) * (height - ROOM.bottom - ROOM.top);
    for (const count of [0, most / 2, most]) {
        if (!Number.isInteger(count)) continue;
        const y = up(count);
        svg.append(shape("line", { x1: ROOM.left, x2: width - ROOM.right, y1: y, y2: y, stroke: "var(--chart-grid)" }));
        svg.append(said(plainNumber(count), { x: ROOM.left - 6, y: y + 4, "text-anchor": "end" }));
    }
    counts.forEach((count, index) => {
        const [left, right] = [across(edges[index]), across(edges[index + 1])];
        const bar = shape("rect", {
            x: left + 0.5,
            width: Math.max(1, right - left - 1),
            y: up(count),
            height: up(0) - up(count),
            fill: `var(--chart-${role})`,
        });
        const title = shape("title", {});
        title.textContent = `${withUnit(edges[index], unit)} to ${withUnit(edges[index + 1], unit)}: ${count} ${counted}`;
        bar.append(title);
        svg.append(bar);
    });
    const every = Math.ceil(edges.length / Math.max(2, Math.floor((width - ROOM.left) / 90)));
    edges.forEach((value, index) => {
        if (index % every) return;
        svg.append(said(withUnit(value, unit, last), { x: across(value), y: height - 8, "text-anchor": "middle" }));
    });
    return svg;
}

function barsSentence({ edges, counts, unit, counted }) {
    const all = counts.reduce((sum, count) => sum + count, 0);
    if (!all) return `no ${counted} yet`;
    const top = counts.indexOf(Math.max(...counts));
    return `${all} ${counted}, most of them from ${withUnit(edges[top], unit)} to ${withUnit(edges[top + 1], unit)}`;
}

function said(text, about) {
    const made = shape("text", { fill: "var(--chart-text)", ...about });
    made.textContent = text;
    return made;
}

function shape(tag, about) {
    const made = document.createElementNS(SVG_NAMESPACE, tag);
    for (const [name, value] of Object.entries(about)) made.setAttribute(name, String(value));
    return made;
}
