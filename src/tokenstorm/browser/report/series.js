/** Draws the charts of a series: all that they show lies in the page as JSON, each chart in the place that names it. */

import { curveChart } from "../charts/curve.js";

for (const { id, ...chart } of JSON.parse(document.getElementById("charts").textContent)) {
    const place = document.querySelector(`[data-chart="${id}"]`);
    if (place) curveChart(place, chart);
}
