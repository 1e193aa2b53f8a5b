// SPDX-License-Identifier: AGPL-3.0-or-later
// Calls to the panel, with the token that Marzban's dashboard keeps on the same origin.

const BASE = "/api/";
const TOKEN = "token"; // Marzban's name for it
const PAGE = 2000; // the most that the panel gives at once
const PATIENCE = 30_000; // milliseconds until a call counts as unanswered

/** What went wrong. `status` 0: the panel can't be reached. `detail` is a sentence, or `{field: sentence}`; `codes` are what
 *  sentences are made of, by field, or by "" for one that is about none. */
export class Problem extends Error {
    constructor(status, detail, codes) {
        super(typeof detail === "string" ? detail : JSON.stringify(detail));
        this.status = status;
        this.detail = detail;
        this.codes = codes ?? {};
    }
}

export const token = () => localStorage.getItem(TOKEN);
export const keepToken = (value) => localStorage.setItem(TOKEN, value);
export const dropToken = () => localStorage.removeItem(TOKEN);

let login = async () => {};
/** `ask` is called for a call that lacks a valid token, and ends once there is one. */
export function onUnauthorized(ask) {
    login = ask;
}

/** A call as the admin; answers the JSON. When the session has ended, a new one is started first. */
export async function call(method, path, options) {
    return read(await ask(method, path, options));
}

/** The same, with the answer as it came. `known`: the ETag of what is there already, which is then answered by a 304. */
async function ask(method, path, { body, version, known, headers: more, signal } = {}) {
    for (;;) {
        const sent = token();
        if (sent) {
            const headers = { Authorization: `Bearer ${sent}`, ...more };
            if (body !== undefined) headers["Content-Type"] = "application/json";
            if (version !== undefined) headers["If-Match"] = `"${version}"`;
            if (known) headers["If-None-Match"] = known;
            const answer = await request(method, path, headers, body === undefined ? undefined : JSON.stringify(body), signal);
            if (answer.status !== 401) return answer;
        }
        if (!sent || token() === sent) await login(Boolean(sent)); // else somebody has logged in meanwhile
    }
}

/** A stream of events, as it came: `last` is the id of the last event that is known. It ends when `signal` is aborted. */
export function stream(path, last, signal) {
    const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) };
    return ask("GET", path, { headers, signal });
}

let ahead = 0; // milliseconds by which the panel's clock is ahead of this one

/** A moment of this clock, in milliseconds, by the panel's. */
export const there = (now) => now + ahead;

/** The header has whole seconds, and the answer was on its way: less than two seconds do not count. */
function compare(date) {
    const found = Date.parse(date) + 500 - Date.now();
    if (Math.abs(found - ahead) > 2000) ahead = found;
}

/** A fresh token for a name and a password, kept. */
export async function logIn(username, password) {
    const form = new URLSearchParams({ username, password });
    const { access_token: fresh } = await read(await request("POST", "admin/token", {}, form));
    keepToken(fresh);
}

/** All tunnels, read again and again: what has not changed since is not sent again. */
export class Tunnels {
    // {tag, records, received, confirmed}: the moments (ms) that the records' ages are from, and at which the panel said that
    // nothing but ages is different since
    #pages = [];

    /** Something else was told since: the next read is of all. */
    forget() {
        this.#pages = [];
    }

    /** Records and these two moments of each, page by page: a list of [record, received, confirmed]. */
    async read() {
        const found = new Map(); // while we read, a tunnel that goes away moves the next ones to the page before
        for (let place = 0; ; place += 1) {
            const page = await this.#page(place);
            for (const record of page.records) found.set(record.id, [record, page.received, page.confirmed]);
            if (page.records.length < PAGE) return [...found.values()];
        }
    }

    async #page(place) {
        const before = this.#pages[place];
        const answer = await ask("GET", `tunnels?skip=${place * PAGE}&limit=${PAGE}`, { known: before?.tag });
        const now = Date.now();
        if (answer.status === 304 && before) return Object.assign(before, { confirmed: now });
        const records = await read(answer);
        if (!Array.isArray(records)) throw new Problem(502, "");
        return (this.#pages[place] = { tag: answer.headers.get("ETag"), records, received: now, confirmed: now });
    }
}

async function request(method, path, headers, body, signal = AbortSignal.timeout(PATIENCE)) {
    try {
        const answer = await fetch(BASE + path, { method, headers, body, cache: "no-store", signal });
        compare(answer.headers.get("Date"));
        return answer;
    } catch {
        throw new Problem(0, "");
    }
}

async function read(answer) {
    let body;
    try {
        body = await answer.json();
    } catch (error) {
        if (answer.ok) throw new Problem(error instanceof SyntaxError ? 502 : 0, "");
    }
    if (!answer.ok) throw new Problem(answer.status, body?.detail ?? "", body?.codes);
    return body;
}
