/** Points on two axes, joined by lines: percentile spectra, and a curve with a point for each stage or run.
 *
 *  curveChart(element, chart, {height}) → {update(chart), remove()}
 *
 *  chart = {
 *      title: "Latency against load",
 *      x: {unit: "1/s", label: "answered"},    // an axis: a unit of units.js, and what it is, in words
 *      y: {unit: "s", label: "p99 latency"},
 *      series: [{name: "run 1", role: "c1", points: [[10, 0.2], [20, 0.3]]}],     // by ascending x
 *  }
 *
 *  spectrumChart(element, chart, {height}) → {update(chart), remove()}
 *
 *  The percentile spectrum as HdrHistogram draws it: the axis is 1 / (1 - quantile) in powers of ten, so that p50, p90,
 *  p99 and p99.9 are equally far apart.
 *
 *  chart = {
 *      title: "Latency by percentile",
 *      unit: "s",
 *      series: [{name: "latency", role: "c1", quantiles: [0, 0.5, 0.9, …], values: [0.1, …]}],   // both ascending, quantiles < 1
 *  } */

import { chartFrame, colorOf, dashOf, fillLegend, write } from "./frame.js";
import { axisOf, livingPlot, ticksIn } from "./plot.js";
import { withUnit } from "./units.js";

export function curveChart(element, chart, { height } = {}) {
    const scales = { x: { time: false, range: aroundAll }, y: { range: fromZero } };
    return xyChart(element, chart, { height, scales, formatX: ticksIn(chart.x.unit), points: true });
}

export function spectrumChart(element, chart, { height } = {}) {
    const scales = { x: { time: false, distr: 3, log: 10, range: wholeDecades }, y: { range: fromZero } };
    return xyChart(element, asCurve(chart), { height, scales, formatX: percentTicks, filterX: decadesOnly, points: false, adapt: asCurve });
}

function xyChart(element, chart, { height, scales, formatX, filterX, points, adapt = (same) => same }) {
    const frame = chartFrame(element, chart);
    let now = chart;
    let show = null;
    const parts = () => {
        show = fillLegend(frame.legend, now.series.map(({ name, role, dash }) => ({ name, role, dash: dash?.join(" ") })));
        frame.describe(xySentence(now));
    };
    const tell = (plot) => {
        show(readings(now, plot));
        write(frame.where, whereAt(now, plot));
    };
    parts();
    const living = livingPlot(
        frame.plot,
        (width, tall) => ({ options: xyOptions(now, width, tall, { scales, formatX, filterX, points, tell }), data: joined(now.series) }),
        height,
    );
    return {
        update(next) {
            now = adapt(next);
            parts();
            living.again();
        },
        remove() {
            living.remove();
            frame.remove();
        },
    };
}

function xyOptions(chart, width, height, { scales, formatX, filterX, points, tell }) {
    return {
        width,
        height: height + 18,
        padding: [12, 28, 0, 0],
        legend: { show: false },
        cursor: { points: { size: 7 }, y: false, drag: { x: false, y: false } },
        scales,
        axes: [
            axisOf({ side: "bottom", format: formatX, label: chart.x.label, space: 48, filter: filterX }),
            axisOf({ side: "left", format: ticksIn(chart.y.unit), label: chart.y.label }),
        ],
        series: [{}, ...chart.series.map((series, index) => {
            const ink = () => colorOf(series.role);
            return { stroke: ink, width: 2, spanGaps: true, dash: dashOf(series, index), points: { show: points, size: 7, fill: ink } };
        })],
        hooks: { setCursor: [tell] },
    };
}

function joined(series) {
    const tables = series.map(({ points }) => [points.map(([x]) => x), points.map(([, y]) => y)]);
    return tables.length ? uPlot.join(tables) : [[]];
}

function readings({ series, y }, plot) {
    const index = plot.cursor.idx;
    return series.map((_one, n) => {
        const value = index == null ? null : plot.data[n + 1][index];
        return value == null ? "" : withUnit(value, y.unit);
    });
}

function whereAt({ x }, plot) {
    const at = plot.cursor.idx == null ? null : plot.data[0][plot.cursor.idx];
    return at == null ? "" : `at ${x.name ? x.name(at) : withUnit(at, x.unit)}`;
}

function xySentence({ series, y }) {
    const parts = series.filter(({ points }) => points.length).map(({ name, points }) => {
        const last = points[points.length - 1][1];
        return `${name} from ${withUnit(points[0][1], y.unit)} to ${withUnit(last, y.unit)}`;
    });
    return parts.join("; ") || "no values yet";
}

function asCurve({ title, about, unit, series }) {
    const drawn = series.map(({ quantiles, values, ...rest }) => ({
        ...rest,
        points: quantiles.map((quantile, index) => [1 / (1 - quantile), values[index]]),
    }));
    return { title, about, x: { unit: "", label: "percentile", name: percentName }, y: { unit }, series: drawn };
}

/** 10 → "p90", 1000 → "p99.9". */
function percentName(inverse) {
    return `p${Number((100 * (1 - 1 / inverse)).toFixed(Math.max(0, Math.ceil(Math.log10(inverse)) - 1)))}`;
}

function percentTicks(inverses) {
    return inverses.map((inverse) => (inverse === null ? "" : percentName(inverse)));
}

function decadesOnly(_plot, inverses) {
    return inverses.map((inverse) => (Math.abs(Math.log10(inverse) - Math.round(Math.log10(inverse))) < 1e-9 ? inverse : null));
}

function wholeDecades(_plot, _least, most) {
    return [1, 10 ** Math.max(1, Math.ceil(Math.log10(most || 10) - 1e-9)) * (1 + 1e-6)];
}

function fromZero(_plot, _least, most) {
    return [0, most > 0 ? most * 1.08 : 1];
}

function aroundAll(_plot, least, most) {
    const room = (most - least || Math.abs(most) || 1) * 0.06;
    return [least >= 0 ? Math.max(0, least - room) : least - room, most + room];
}
