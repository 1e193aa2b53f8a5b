// SPDX-License-Identifier: AGPL-3.0-or-later
// How a tunnel was: what the page draws and says, out of the panel's sums and the changes of the status. Pure: no DOM. Times are seconds
// since 1970, of the panel's clock.

import { momentOf } from "./model.js";

export const SPANS = { day: 86_400, month: 30 * 86_400 };
const MOST = 400; // periods that are drawn; there are not more pixels to be told apart
const CALM = ["active", "inactive"];

const list = (value) => (Array.isArray(value) ? value : []);
const known = (value) => (Number.isFinite(value) ? Math.max(0, value) : 0);

/** Changes of the status, the oldest first: {status, error, from, to}; `to` is null for the one that lasts. */
export function changesOf(history) {
    const told = list(history?.changes).filter((change) => momentOf(change?.at) !== null);
    return told.map(({ at, status, error }, place) => {
        const next = told[place + 1];
        return { status: String(status), error: error ? String(error) : "", from: momentOf(at) / 1000, to: next ? momentOf(next.at) / 1000 : null };
    });
}

/** The times in which it should have worked and did not: {from, to}. What follows an error while it connects again is the same one. */
export function breaksOf(changes, from) {
    const found = [];
    let last = null;
    let worked = false;
    for (const change of changes) {
        const broken = change.status === "error" || (change.status === "connecting" && (worked || last));
        if (broken && last) last.to = change.to;
        else if (broken) found.push((last = { from: change.from, to: change.to }));
        else last = null;
        worked = change.status === "active" || (worked && !CALM.includes(change.status));
    }
    return found.filter(({ to }) => to === null || to > from);
}

/** Where each column of a row is. */
const placesOf = (sums) => Object.fromEntries(list(sums?.columns).map((name, place) => [name, place]));

class Mean {
    #sum = 0;
    #many = 0;
    add(value) {
        if (!Number.isFinite(value)) return;
        this.#sum += value;
        this.#many += 1;
    }
    get value() {
        return this.#many ? this.#sum / this.#many : undefined;
    }
}

/** A span of a history up to this moment: periods of one length with the seconds of each kind (up, down, off, and gap: nobody has
 *  measured), the mean of the median round trips, the worst one, and the loss. */
export function spanOf(history, name, now) {
    const sums = history?.[name];
    const each = Number.isFinite(sums?.seconds) && sums.seconds >= 60 ? sums.seconds : 3600;
    const size = each * Math.ceil(SPANS[name] / each / MOST);
    const many = Math.ceil(SPANS[name] / size);
    const from = (Math.ceil(now / size) - many) * size;
    const periods = Array.from({ length: many }, (_none, place) => ({
        from: from + place * size, to: Math.min(now, from + (place + 1) * size),
        up: 0, down: 0, off: 0, gap: 0, rtts: new Mean(), losses: new Mean(), worst: undefined, bytes: 0,
    }));
    const places = placesOf(sums);
    for (const row of list(sums?.rows)) {
        const period = periods[Math.floor((row?.[places.at] - from) / size)];
        if (!period) continue;
        period.up += known(row[places.up]);
        period.down += known(row[places.down]);
        period.bytes += known(row[places.to_target]) + known(row[places.to_source]);
        period.rtts.add(row[places.rtt_ms]);
        period.losses.add(row[places.loss_percent]);
        const worst = row[places.rtt_worst_ms];
        if (Number.isFinite(worst)) period.worst = Math.max(period.worst ?? 0, worst);
    }
    const off = changesOf(history).filter(({ status }) => status === "inactive");
    for (const period of periods) {
        const length = Math.max(1, period.to - period.from);
        const measured = period.up + period.down;
        const told = measured > length ? length / measured : 1; // a clock that differs
        [period.up, period.down] = [period.up * told, period.down * told];
        const free = length - period.up - period.down;
        const switched = off.reduce((sum, { from: begin, to: end }) => sum + Math.max(0, Math.min(period.to, end ?? now) - Math.max(period.from, begin)), 0);
        period.off = Math.min(free, switched);
        period.gap = free - period.off;
        [period.rtt, period.loss] = [period.rtts.value, period.losses.value];
    }
    // The sums are written once a minute: what the last one does not have yet is not a gap
    const last = periods.at(-1);
    if (last.up + last.down > 0 && last.gap < 120) [last.to, last.gap] = [last.to - last.gap, 0];
    return { from, to: from + many * size, now, size, periods };
}

/** What a span comes to: seconds up, down, off and unmeasured, and the times in which it was broken. */
export function totalOf(span, history) {
    const total = { up: 0, down: 0, off: 0, gap: 0 };
    for (const period of span.periods) for (const kind of Object.keys(total)) total[kind] += period[kind];
    return { ...total, breaks: breaksOf(changesOf(history), span.from) };
}
