/** uPlot with this product's axes, colours, cursor and keys. uPlot itself is a classic script and there as `uPlot`. */

import { colorOf, onThemeChange } from "./frame.js";
import { withUnit } from "./units.js";

const HEIGHT = 200;
const HALF_PIXEL = 0.5;
const FONT = "12px system-ui, sans-serif";

/** An axis of a chart. `format(values, unit)` makes the texts of its ticks. */
export function axisOf({ side, format, size, incrs, label, space, filter }) {
    return {
        scale: side === "left" ? "y" : "x",
        side: side === "left" ? 3 : 2,
        stroke: () => colorOf("text"),
        grid: { stroke: () => colorOf("grid"), width: 1, ...(filter && { filter }) },
        ticks: { stroke: () => colorOf("grid"), width: 1, size: 4, ...(filter && { filter }) },
        font: FONT,
        values: format && ((_plot, values) => format(values)),
        ...(label && { label, labelFont: FONT, labelSize: 18 }),
        ...(incrs && { incrs }),
        ...(space && { space }),
        ...(filter && { filter }),
        size: size ?? (side === "left" ? wideEnough : 28),
    };
}

/** The texts of an axis in one unit. */
export function ticksIn(unit) {
    return (values) => {
        const most = Math.max(...values.map((value) => Math.abs(value ?? 0)));
        return values.map((value) => (value === null ? "" : withUnit(value, unit, most)));
    };
}

/** A plot in `place` that follows its width and the theme. `make(width, height)` gives uPlot's options and data; the
 *  arrow keys move the cursor, Escape shows the whole again. Returns {set(data), again(), remove(), plot()}. `set` draws what
 *  can be seen: of columns that grew by less than half a pixel nothing can, and of a plot outside the window. */
export function livingPlot(place, make, height = HEIGHT) {
    let drawn = null;
    let last = null;  // the last moment that was drawn: the columns may grow before they are drawn again
    let waiting = null;
    let inSight = true;
    const lastOf = (data) => data[0][data[0].length - 1];
    const draw = (data) => {
        waiting = null;
        const { min, max } = drawn.scales.x;
        const grown = data[0] === drawn.data[0] && ((lastOf(data) - last) / (max - min)) * drawn.width;
        if (typeof grown === "number" && grown < HALF_PIXEL) return;
        const zoomed = isZoomed(drawn, last);
        last = lastOf(data);
        drawn.setData(data, !zoomed);
    };
    const again = () => {
        const { options, data } = make(Math.max(place.clientWidth, 120), height);
        drawn?.destroy();
        drawn = new uPlot(options, data, place);
        last = lastOf(data);
    };
    again();
    const resized = new ResizeObserver(() => {
        const width = Math.max(place.clientWidth, 120);
        if (width !== drawn.width) drawn.setSize({ width, height });
    });
    resized.observe(place);
    const seen = new IntersectionObserver((entries) => {
        inSight = entries[entries.length - 1].isIntersecting;
        if (inSight && waiting) draw(waiting);
    }, { rootMargin: "100px" });
    seen.observe(place);
    const endTheme = onThemeChange(() => drawn.redraw(false, true));
    const onKey = (event) => moveCursor(drawn, event);
    place.addEventListener("keydown", onKey);
    return {
        again,
        set: (data) => (inSight ? draw(data) : (waiting = data)),
        plot: () => drawn,
        remove: () => {
            resized.disconnect();
            seen.disconnect();
            endTheme();
            place.removeEventListener("keydown", onKey);
            drawn.destroy();
        },
    };
}

/** The indexes of points without a neighbour: no line shows them. */
export function lonePoints(plot, series) {
    const values = plot.data[series];
    const lone = [];
    for (let i = 0; i < values.length; i++) {
        if (values[i] != null && values[i - 1] == null && values[i + 1] == null) lone.push(i);
    }
    return lone.length ? lone : null;
}

function isZoomed(plot, last) {
    const { min, max } = plot.scales.x;
    const times = plot.data[0];
    return times.length > 1 && min != null && (min > times[0] || max < last);
}

function moveCursor(plot, event) {
    const times = plot.data[0];
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") {
        plot.setScale("x", { min: times[0], max: times[times.length - 1] });
    } else if (step !== undefined && times.length) {
        const at = (plot.cursor.idx ?? times.length - 1) + step;
        const index = Math.min(times.length - 1, Math.max(0, at));
        plot.setCursor({ left: plot.valToPos(times[index], "x"), top: 0 }, true, true);
        event.preventDefault();
    }
}

function wideEnough(plot, values, axis, cycle) {
    const known = plot.axes[axis];
    if (cycle > 1) return known._size;
    const longest = (values ?? []).reduce((most, text) => (text.length > most.length ? text : most), "");
    plot.ctx.font = known.font[0];
    return Math.ceil(plot.ctx.measureText(longest).width / devicePixelRatio) + 14;
}
