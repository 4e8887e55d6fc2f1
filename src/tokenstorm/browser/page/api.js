/** The calls of the page: JSON, JSON lines and events, with the token where the site wants one. */

/** Seconds after which a call that is repeated anyway is given up: something on the way took it and says nothing. */
export const PATIENCE = 20;
/** Seconds without a byte after which a stream of events is dead: the API says something every 5 s. */
export const SILENCE = 12;

const TOKEN = "tokenstorm-token";
export const GROUPS = "/api/v1/client-groups";
/** The Server API, as the Client API hands it on. */
export const SERVER = "/server/api/v1";

/** What an API refused, or why nobody answered (status 0). `errors` are [{field, message}] of a 422. */
export class Refused extends Error {
    constructor(status, detail, errors = []) {
        super(detail);
        this.status = status;
        this.errors = errors;
    }
}

export function keepToken(token) {
    sessionStorage.setItem(TOKEN, token.trim());
}

export function hasToken() {
    return Boolean(sessionStorage.getItem(TOKEN));
}

/** A call's answer, a Response, whole within `seconds` where they are given. Raises `Refused`. A token that is wanted and
 *  not known is asked for by the page. */
export async function ask(path, { method = "GET", body, signal, seconds, headers = {} } = {}) {
    if (seconds) signal = AbortSignal.any([AbortSignal.timeout(seconds * 1000), ...(signal ? [signal] : [])]);
    const token = sessionStorage.getItem(TOKEN);
    const all = { ...headers, ...(token && { authorization: `Bearer ${token}` }) };
    if (body !== undefined) all["content-type"] = "application/json";
    let answer;
    try {
        answer = await fetch(path, { method, headers: all, signal, ...(body !== undefined && { body: JSON.stringify(body) }) });
    } catch (error) {
        if (signal?.aborted) throw faultOf(error);
        throw new Refused(0, "the Client API does not answer");
    }
    if (answer.ok) return answer;
    if (answer.status === 401 && (await isOurToken(path, all))) dispatchEvent(new Event("token-wanted"));
    const problem = await answer.json().catch(() => ({}));
    const detail = problem.detail ?? problem.error?.message ?? `it answered ${answer.status}`;
    throw new Refused(answer.status, detail, problem.errors ?? []);
}

/** Whether it is the Client API that wants a token: what is below /server/ may be refused by those behind it too. */
async function isOurToken(path, headers) {
    if (!path.startsWith("/server/")) return true;
    const own = await fetch("/metrics", { method: "HEAD", headers }).catch(() => null);
    return own?.status === 401;
}

/** What is said of a call that was given up because its time was over. */
function faultOf(error) {
    return error?.name === "TimeoutError" ? new Refused(0, "the Client API does not answer in time") : error;
}

export async function askJson(path, options) {
    const answer = await ask(path, options);
    return answer.json().catch((error) => { throw faultOf(error); });
}

/** Milliseconds after which the lines of an answer leave the page a moment for something else. */
const TURN = 20;

/** Every line of a JSON lines answer. */
export async function askLines(path, options) {
    const lines = [];
    await readLines(path, (some) => lines.push(...some), options);
    return lines;
}

/** The lines of a JSON lines answer as they come: `take(lines)` for some at a time. */
export async function readLines(path, take, options) {
    const reader = (await ask(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let began = performance.now();
    for (;;) {
        const { done, value } = await reader.read().catch((error) => { throw faultOf(error); });
        const whole = rest + (value ?? "");
        const end = done ? whole.length : whole.lastIndexOf("\n") + 1;
        rest = whole.slice(end);
        if (end) take(JSON.parse(`[${whole.slice(0, end).trimEnd().replaceAll("\n", ",")}]`));
        if (done) return;
        if (performance.now() - began > TURN) {
            await new Promise((go) => setTimeout(go));
            began = performance.now();
        }
    }
}

/** Server-sent events, until they end: `take(event, data)` for each, its data as text; `take("comment", "")` where the API
 *  only says that it is there. Raises `Refused` when nothing comes for `silence` seconds, where they are given. */
export async function askEvents(path, take, { signal, silence, ...options } = {}) {
    const quiet = new AbortController();
    let timer;
    const heard = () => {
        clearTimeout(timer);
        if (silence) timer = setTimeout(() => quiet.abort(new Refused(0, "the live updates fell silent")), silence * 1000);
    };
    try {
        heard();
        const answer = await ask(path, { ...options, signal: AbortSignal.any([quiet.signal, ...(signal ? [signal] : [])]) });
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
            const { done, value } = await reader.read();
            if (done) return;
            heard();
            const blocks = (rest + value.replaceAll("\r", "")).split("\n\n");
            rest = blocks.pop();
            blocks.forEach((block) => takeBlock(block, take));
        }
    } finally {
        clearTimeout(timer);
    }
}

function takeBlock(block, take) {
    const fields = block.split("\n").map((line) => line.match(/^(\w+): ?(.*)$/s)).filter(Boolean);
    const data = fields.filter(([, name]) => name === "data").map(([, , text]) => text);
    const event = fields.find(([, name]) => name === "event")?.[2] ?? "message";
    if (data.length) take(event, data.join("\n"));
    else if (block.startsWith(":")) take("comment", "");
}

/** Save an answer as a file. Without a token the browser fetches it itself, however large it is. */
export async function download(path, name) {
    const link = document.createElement("a");
    link.download = name;
    if (hasToken()) {
        link.href = URL.createObjectURL(await (await ask(path)).blob());
        setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } else {
        link.href = path;
    }
    link.click();
}
