// SPDX-License-Identifier: AGPL-3.0-or-later
// What the page makes of records. Pure: no DOM. A record may hold what somebody else wrote into the database, so
// nothing here trusts a type.

export const STATUSES = ["error", "connecting", "active", "inactive"];
export const TYPES = { wireguard: "WireGuard", openvpn: "OpenVPN", ipsec: "IPsec" };
const STALE_AFTER = 300; // seconds, where the panel has not said how often reports come

/** A tunnel's row, out of its record and the times (ms) at which the record came, and at which the panel said last that it is
 *  still so but for ages. */
export function rowOf(record, received, confirmed = received, now = confirmed) {
    const ends = ["source", "target"].map((role) => (record.ends ?? []).find((end) => end?.role === role) ?? { role });
    const label = record.name ?? `#${record.id}`;
    const type = String(record.tunnel_type);
    return {
        id: record.id, label, type,
        typeLabel: TYPES[type] ?? type,
        nodes: [record.source_node_name, record.target_node_name].map(String),
        ids: [record.source_node_id, record.target_node_id],
        pair: pairOf(record.source_node_id, record.target_node_id),
        since: momentOf(record.since),
        search: searchText(record, ends, label, type),
        ...measuredOf(record, ends, received, confirmed, now),
    };
}

/** What of a row can be another one although only its ends were measured again. `was`: whether it was out of date then. */
function measuredOf(record, ends, received, confirmed, now) {
    const [source, target] = ends;
    const status = statusOf({ record, ends, confirmed }, now);
    const row = {
        record, ends, received, confirmed, status,
        ...reportAge(status, ends),
        stale: record.stale === true,
        why: ["error", "connecting"].includes(status) ? errorsOf(record, ends) : [],
        rtt: most(source.measured?.rtt_ms, target.measured?.rtt_ms),
        loss: most(source.measured?.loss_percent, target.measured?.loss_percent),
        traffic: most(total(source.measured), total(target.measured)),
    };
    return { ...row, was: isStale(row, now) };
}

/** A row's values after some of its ends were measured again: [{role, measured, age, by, stale}]. The ages of the others have
 *  grown meanwhile. */
export function remeasured(row, told, now) {
    const ends = row.ends.map((end) => {
        const fresh = told.find(({ role }) => role === end.role);
        if (!fresh) return { ...end, age: ageNow(end.age, row.received, now) };
        const { measured, age, by, stale } = fresh;
        return { ...end, measured, age, by, stale };
    });
    const record = { ...row.record, ends, stale: ends.every((end) => end.stale === true) };
    return measuredOf(record, ends, now, now, now);
}

/** A moment as the API writes it (naive UTC), in milliseconds; null where there is none. */
export function momentOf(text) {
    const moment = typeof text === "string" ? Date.parse(`${text}Z`) : NaN;
    return Number.isFinite(moment) ? moment : null;
}

/** Since when the status is what is shown, in milliseconds; null where that is not known, or nobody has said so lately. */
export const sinceOf = (row, now) => (row.status === row.record.status && (row.status === "error" || !isStale(row, now)) ? row.since : null);

/** A row's status now: what nodes' services have measured makes a tunnel active only as long as the panel says so. */
export function statusOf({ record, ends, confirmed }, now) {
    const limits = ends.filter(isServed).map(staleAfter);
    const lost = record.status === "active" && limits.length > 0 && (now - confirmed) / 1000 > Math.min(...limits);
    return STATUSES.includes(record.status) && !lost ? record.status : "connecting";
}

const isServed = (end) => end?.by === "service";

/** One pair of nodes has one name, whichever way a tunnel of it goes. */
export const pairOf = (one, other) => [one, other].sort((a, b) => a - b).join("–");

const most = (...values) => {
    const known = values.filter(Number.isFinite);
    return known.length ? Math.max(...known) : undefined;
};

const total = (measured) => most(measured?.rx_bytes, measured?.tx_bytes);

/** The age of the report that the status rests on (a fresh report of one end makes no old one of the other fresh), and the
 *  seconds after which it is stale. */
function reportAge(status, ends) {
    const reported = ends.filter((end) => Number.isFinite(end.age));
    const behind = reported.filter((end) => end.status === status);
    const [newest] = (behind.length ? behind : reported).sort((one, other) => one.age - other.age);
    return { age: newest?.age ?? null, staleAfter: staleAfter(newest), served: isServed(newest) };
}

/** Seconds after which an end's report is stale. */
export const staleAfter = (end) => (Number.isFinite(end?.stale_after) ? end.stale_after : STALE_AFTER);

/** What ends say is wrong, as [node, sentence]; one sentence of both has no node. What an active end says is a note. */
function errorsOf(record, ends) {
    const names = [record.source_node_name, record.target_node_name];
    const [one, other] = ends.map((end, place) => [names[place], end.status === "active" ? null : end.error]);
    if (one[1] && one[1] === other[1]) return [["", String(one[1])]];
    return [one, other].filter(([, error]) => error).map((words) => words.map(String));
}

function searchText(record, ends, label, type) {
    const parts = [label, type, TYPES[type], `#${record.id}`, record.uuid, record.source_node_name, record.target_node_name];
    for (const end of ends) parts.push(end.endpoint, end.interface, end.port, end.endpoint_port, ...list(end.addresses), ...list(end.routes), end.error);
    return fold(parts.filter((part) => part !== null && part !== undefined).join("\n"));
}

const list = (value) => (Array.isArray(value) ? value : []);

const fold = (text) => String(text).normalize("NFKC").toLowerCase();

/** An age (s) that was `age` when it came, now; null stays null. */
export const ageNow = (age, received, now) => (Number.isFinite(age) ? age + Math.max(0, (now - received) / 1000) : null);

/** An end's report, as `isOld` takes it; a row is one as well. */
export const reportOf = (end, { received, confirmed }) => ({
    age: end.age, staleAfter: staleAfter(end), served: isServed(end), stale: end.stale === true, received, confirmed,
});

/** Whether the status can't be relied upon now: the panel said so (`stale`), or the report has grown too old since. A node's
 *  service goes on to report while the panel has nothing new to send: it counts when the panel has said so last. Switched off
 *  is what the operator said, and doesn't age; and where nothing was reported yet, nothing is old. */
export function isOld(status, { age, staleAfter: after, served, stale, received, confirmed }, now) {
    if (status === "inactive" || !Number.isFinite(age)) return false;
    return stale || (served ? ageNow(0, confirmed, now) : ageNow(age, received, now)) > after;
}

export const isStale = (row, now) => isOld(row.status, row, now);

export const noFilter = () => ({ search: "", status: "", type: "", node: "", pair: "" });

export const isFiltered = (filter) => Object.values(filter).some(Boolean);

/** A function that says whether a row is asked for. */
export function matcher(filter, now) {
    const terms = fold(filter.search).split(/\s+/).filter(Boolean);
    return (row) =>
        (!filter.status || (filter.status === "stale" ? isStale(row, now) : row.status === filter.status)) &&
        (!filter.type || row.type === filter.type) &&
        (!filter.node || row.ids.includes(Number(filter.node))) &&
        (!filter.pair || row.pair === filter.pair) &&
        terms.every((term) => row.search.includes(term));
}

// What is wrong comes first
const URGENCY = { error: 0, connecting: 1, stale: 2, active: 3, inactive: 4 };

const VALUES = {
    name: (row) => row.label,
    nodes: (row) => row.nodes.join(" → "),
    type: (row) => row.typeLabel,
    status: (row) => URGENCY[row.was && row.status !== "error" ? "stale" : row.status],
    rtt: (row) => row.rtt,
    loss: (row) => row.loss,
    traffic: (row) => row.traffic,
};

/** Which of two rows comes first; what has no value comes last, and of equal ones who has the lower name, or number. */
function comparison({ by, down }, collator) {
    const value = VALUES[by];
    const way = down ? -1 : 1;
    const text = by === "name" || by === "nodes" || by === "type";
    return (one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined) || one.id - other.id;
        const order = way * (text ? collator.compare(a, b) : a - b);
        return order || (by === "status" ? collator.compare(one.label, other.label) : 0) || one.id - other.id;
    };
}

/** Rows in order. */
export const sorted = (rows, sort, collator) => [...rows].sort(comparison(sort, collator));

/** Rows that were in order, where some (by id) have changed since: those are put where they belong now. */
export function replaced(rows, ids, sort, collator) {
    const compare = comparison(sort, collator);
    const changed = rows.filter((row) => ids.has(row.id));
    if (changed.length > rows.length / 10) return sorted(rows, sort, collator);
    const order = rows.filter((row) => !ids.has(row.id));
    for (const row of changed) {
        let [from, to] = [0, order.length];
        while (from < to) {
            const middle = (from + to) >> 1;
            if (compare(order[middle], row) < 0) from = middle + 1;
            else to = middle;
        }
        order.splice(from, 0, row);
    }
    return order;
}

/** How many rows there are of each status, and how many are stale. */
export function counts(rows, now) {
    const found = { "": rows.length, error: 0, connecting: 0, active: 0, inactive: 0, stale: 0 };
    for (const row of rows) {
        found[row.status] += 1;
        if (isStale(row, now)) found.stale += 1;
    }
    return found;
}
