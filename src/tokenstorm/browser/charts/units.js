/** Numbers as people read them. A unit is one of: "s" (seconds), "1/s", "tokens/s", "tokens", "%" (a share of 1), "W", "J",
 *  "MB", "°C", "MHz", or "" for a plain count. */

const SCALES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** A number with three significant digits and no more zeros than it needs. */
export function plainNumber(value) {
    const size = Math.abs(value);
    if (size === 0) return "0";
    const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : Math.min(8, 2 - Math.floor(Math.log10(size)));
    return String(Number(value.toFixed(digits)));
}

/** `value` in `unit`: "12.5 ms", "1.2k/s", "98%". `scale` is the size by which the prefix is chosen: that of the largest
 *  number beside it, so that all ticks of an axis have one unit. A missing value is a dash. */
export function withUnit(value, unit, scale = value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    if (unit === "s" && value) return withSeconds(value, Math.abs(scale));
    if (value === 0) return unit === "%" || unit.startsWith("1/") ? `0${unit.replace("1/", "/")}` : `0 ${unit}`.trim();
    if (unit === "%") return `${plainNumber(value * 100)}%`;
    const [by, prefix] = SCALES.find(([size]) => Math.abs(scale) >= size * (unit === "" ? 10 : 1)) ?? [1, ""];
    const number = `${plainNumber(value / by)}${prefix}`;
    if (unit === "") return number;
    return unit.startsWith("1/") ? number + unit.slice(1) : `${number} ${unit}`;
}

function withSeconds(value, scale) {
    if (scale < 1e-3) return `${plainNumber(value * 1e6)} µs`;
    if (scale < 1) return `${plainNumber(value * 1e3)} ms`;
    return `${plainNumber(value)} s`;
}

/** A time since the start: "45s", "1m 30s", "1h 5m". */
export function sinceStart(seconds) {
    const sign = seconds < 0 ? "-" : "";
    const whole = Math.abs(seconds);
    const hours = Math.floor(whole / 3600);
    const minutes = Math.floor((whole % 3600) / 60);
    const rest = Number((whole % 60).toFixed(whole < 10 ? 2 : 0));
    const parts = [hours && `${hours}h`, minutes && `${minutes}m`, (rest || !(hours || minutes)) && `${rest}s`];
    return sign + parts.filter(Boolean).join(" ");
}
