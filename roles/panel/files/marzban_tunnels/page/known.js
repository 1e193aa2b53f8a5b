// SPDX-License-Identifier: AGPL-3.0-or-later
// What is known of the tunnels: reads of all of them, what the panel tells about some, and what was changed on the page. A read takes
// its time, and what was told meanwhile is newer. Pure: no DOM.

import { remeasured, rowOf } from "./model.js";

const list = (value) => (Array.isArray(value) ? value.filter((item) => item !== null && typeof item === "object") : []);

export class Known {
    rows = new Map(); // by id; a row that changes stays the same object, with another `turn`
    received = 0; // when the panel said last how all of them are
    turn = 0; // counts what was told; a read remembers the one in which it began
    #told = new Map(); // by id: the turn in which something was told about a tunnel beside the reads
    #removed = new Map(); // by uuid: the turn in which it was deleted; an id may be another tunnel's by now

    /** All tunnels, as a read that began in this turn has found them: [record, received, confirmed] of each. */
    read(found, turn, now) {
        const before = this.rows;
        const newer = (id) => this.#told.get(id) > turn;
        this.rows = new Map();
        for (const [record, at, confirmed] of found) {
            const { id, uuid } = record;
            if (newer(id) || this.#removed.get(uuid) > turn) continue;
            this.#removed.delete(uuid); // somebody has put it back
            const row = before.get(id);
            this.rows.set(id, row?.record === record ? Object.assign(row, { confirmed }) : rowOf(record, at, confirmed));
        }
        for (const [id, row] of before) if (newer(id)) this.rows.set(id, row);
        for (const [id, told] of this.#told) if (told <= turn) this.#told.delete(id);
        this.received = now;
    }

    /** Tunnels that are another way now, and the numbers of those that are deleted. Answers the ids that have changed, and whether
     *  there are other tunnels than before. */
    changed({ tunnels, deleted }, now) {
        const ids = new Set();
        let others = false;
        for (const record of list(tunnels)) {
            if (this.#removed.has(record.uuid)) continue;
            const row = this.rows.get(record.id);
            const same = row?.record.uuid === record.uuid;
            if (same && row.record.version > record.version) continue; // told before it was changed here
            const pair = row?.pair;
            ids.add(record.id);
            others = this.#put(record, now).pair !== pair || !same || others;
        }
        for (const id of Array.isArray(deleted) ? deleted : []) {
            this.#told.set(id, ++this.turn);
            others = this.rows.delete(id) || others;
        }
        return { ids, others };
    }

    /** Ends that were measured again: {tunnel_id, role, measured, age, by, stale}. Answers the ids, and whether one is out of date now,
     *  or no longer. */
    measured({ ends }, now) {
        const byTunnel = new Map();
        for (const end of list(ends)) {
            if (!byTunnel.has(end.tunnel_id)) byTunnel.set(end.tunnel_id, []);
            byTunnel.get(end.tunnel_id).push(end);
        }
        const ids = new Set();
        let turned = false;
        for (const [id, told] of byTunnel) {
            const row = this.rows.get(id);
            if (!row) continue;
            const { status, was } = row;
            this.#touch(id, Object.assign(row, remeasured(row, told, now)));
            turned ||= row.status !== status || row.was !== was;
            ids.add(id);
        }
        return { ids, turned };
    }

    /** The panel says that all is as it has told. */
    confirmed(now) {
        for (const row of this.rows.values()) row.confirmed = Math.max(row.confirmed, now);
        this.received = Math.max(this.received, now);
    }

    /** This computer's clock was put back, by so many milliseconds: what was confirmed before was not confirmed in the future. */
    setBack(by) {
        for (const row of this.rows.values()) [row.received, row.confirmed] = [row.received - by, row.confirmed - by];
        this.received -= by;
    }

    /** A record that the panel has just given. */
    keep(record, now) {
        this.#put(record, now);
    }

    /** It was deleted here. */
    remove(row) {
        this.#removed.set(row.record.uuid, ++this.turn);
        this.rows.delete(row.id);
    }

    /** A row whose status is another one because time has passed. */
    again(row, now) {
        Object.assign(row, rowOf(row.record, row.received, row.confirmed, now));
        row.turn = ++this.turn;
    }

    #put(record, now) {
        const row = this.rows.get(record.id);
        if (row?.record.uuid === record.uuid) Object.assign(row, rowOf(record, now));
        else this.rows.set(record.id, rowOf(record, now));
        return this.#touch(record.id, this.rows.get(record.id));
    }

    #touch(id, row) {
        row.turn = ++this.turn;
        this.#told.set(id, row.turn);
        return row;
    }
}
