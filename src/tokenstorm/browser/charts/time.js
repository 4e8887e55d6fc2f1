/** A chart over time.
 *
 *  timeChart(element, chart, {group, height}) → {update(chart), remove()}
 *
 *  chart = {
 *      title: "Requests a second",
 *      about: "one sentence, or nothing",
 *      unit: "1/s",                        // as in units.js; of all values
 *      times: [0, 1, 2, …],                // seconds since the start of the run, ascending
 *      series: [
 *          {name: "asked", role: "asked", values: [10, null, …]},               // a line; null where nothing is known
 *          {role: "p99", kind: "band", low: […], values: […]},                  // between two lines; not in the legend
 *          {name: "timeout", role: "c1", kind: "area", values: […]},            // areas lie one on the other, in order
 *      ],
 *      rest: 58,                           // optional: whose values the legend has without a cursor; else the last ones
 *      spans: [{from: 0, to: 10, label: "warm-up", role: "warmup"}],            // shaded; role: warmup, stage, drain, steady
 *  }
 *
 *  A role is a colour of colors.css. All charts of one `group` (any string) share their cursor and zoom: a drag
 *  zooms, a double click or Escape shows the whole. `update` takes the whole chart again and keeps the zoom. */

import { chartFrame, colorOf, dashOf, fillLegend, sentenceOf, write } from "./frame.js";
import { axisOf, livingPlot, lonePoints, ticksIn } from "./plot.js";
import { sinceStart, withUnit } from "./units.js";

const AREA = 0.75;
const BAND = 0.18;
const WHOLE = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

export function timeChart(element, chart, { group = "run", height } = {}) {
    const frame = chartFrame(element, chart);
    let now = chart;
    let show = null;
    const tell = (plot) => {
        const at = plot.cursor.idx;
        show(valuesAt(now, at));
        write(frame.where, at == null ? "" : `at ${sinceStart(now.times[at])}`);
    };
    const parts = () => {
        show = fillLegend(frame.legend, named(now.series).map(legendEntry));
        show(valuesAt(now, null));
        frame.describe(sentenceOf(named(now.series), now.unit));
    };
    parts();
    const living = livingPlot(
        frame.plot,
        (width, tall) => ({ options: timeOptions(() => now, width, tall, group, tell), data: columnsOf(now) }),
        height,
    );
    return {
        update(next) {
            const same = shapeOf(next) === shapeOf(now);
            now = next;
            if (same) {
                living.set(columnsOf(now));
                tell(living.plot());
                frame.describe(sentenceOf(named(now.series), now.unit));
            } else {
                parts();
                living.again();
            }
        },
        remove() {
            living.remove();
            frame.remove();
        },
    };
}

function timeOptions(current, width, height, group, tell) {
    const chart = current();
    return {
        width,
        height,
        padding: [12, 12, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: group }, points: { size: 7 }, y: false, drag: { x: true, y: false } },
        scales: {
            x: { time: false },
            y: { range: (_plot, _least, most) => [0, most > 0 ? most * 1.08 : 1] },
        },
        axes: [
            axisOf({ side: "bottom", format: (values) => values.map(sinceStart), incrs: STEPS, space: 64 }),
            axisOf({ side: "left", format: ticksIn(chart.unit), incrs: chart.unit === "" ? WHOLE : undefined }),
        ],
        series: [{}, ...chart.series.flatMap(lineOf)],
        bands: bandsOf(chart.series),
        hooks: { drawClear: [(plot) => shade(plot, current().spans ?? [])], setCursor: [tell] },
    };
}

function lineOf(series, index, all) {
    const points = { show: false, filter: lonePoints, size: 5 };
    if (series.kind === "band") {
        return [{ points: { show: false } }, { points: { show: false } }];
    }
    const area = series.kind === "area";
    const ink = () => colorOf(series.role);
    const lowest = area && all.findIndex(({ kind }) => kind === "area") === index;
    return [{
        stroke: ink,
        width: area ? 1 : 2,
        dash: area ? undefined : dashOf(series, index),
        points: { ...points, fill: ink },
        ...(lowest && { fill: () => faint(series.role, AREA) }),
    }];
}

/** What uPlot fills between two lines: a band between its edges, an area down to the one below it. The lowest fills itself. */
function bandsOf(all) {
    const bands = [];
    let column = 1;
    let below = null;
    for (const series of all) {
        if (series.kind === "band") {
            bands.push({ series: [column + 1, column], fill: () => faint(series.role, BAND) });
            column += 2;
            continue;
        }
        if (series.kind === "area") {
            if (below !== null) bands.push({ series: [column, below], fill: () => faint(series.role, AREA) });
            below = column;
        }
        column += 1;
    }
    return bands;
}

/** uPlot's columns: times, then one for a line, two for a band, and for an area the sum with those below it. */
function columnsOf({ times, series }) {
    const columns = [times];
    let below = null;
    for (const one of series) {
        if (one.kind === "band") {
            columns.push(one.low, one.values);
        } else if (one.kind === "area") {
            const under = below;
            below = one.values.map((value, index) => (value ?? 0) + (under ? under[index] : 0));
            columns.push(below);
        } else {
            columns.push(one.values);
        }
    }
    return columns;
}

function shapeOf({ series }) {
    return JSON.stringify(series.map(({ name, role, kind }) => [name, role, kind]));
}

function legendEntry(series, index) {
    const fill = series.kind === "area" ? AREA : undefined;
    return { name: series.name, role: series.role, fill, dash: dashOf(series, index)?.map((length) => length / 2).join(" ") };
}

/** Each series' value at the cursor; without one its last up to `rest`. */
function valuesAt({ series, unit, rest }, index) {
    return named(series).map(({ values }) => {
        let at = index ?? rest ?? values.length - 1;
        while (index == null && at > 0 && values[at] == null) at -= 1;
        return withUnit(values[at], unit);
    });
}

/** What the legend tells of: a band lies between lines that have names. */
function named(series) {
    return series.filter(({ kind }) => kind !== "band");
}

function shade(plot, spans) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, 0, bbox.width, bbox.top + bbox.height);
    ctx.clip();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textBaseline = "bottom";
    ctx.textAlign = "left";
    let free = -Infinity;
    for (const { from, to, label, role } of spans) {
        const left = plot.valToPos(from, "x", true);
        const right = plot.valToPos(to, "x", true);
        ctx.fillStyle = colorOf(`span-${role}`);
        ctx.fillRect(left, bbox.top, right - left, bbox.height);
        const start = Math.max(left, bbox.left) + 3;
        const wide = ctx.measureText(label ?? "").width;
        if (label && start > free && start + wide < bbox.left + bbox.width) {
            ctx.fillStyle = colorOf("text");
            ctx.fillText(label, start, bbox.top);
            free = start + wide + 8;
        }
    }
    ctx.restore();
}

function faint(role, share) {
    const color = colorOf(role);
    const hex = color.length === 4 ? color.replace(/[0-9a-f]/gi, "$&$&") : color;
    return hex.startsWith("#") ? hex + Math.round(share * 255).toString(16).padStart(2, "0") : hex;
}
