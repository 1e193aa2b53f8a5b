// SPDX-License-Identifier: AGPL-3.0-or-later
// How the nodes' service is, as the panel's manager knows it. A panel of an older API has no such call: then nothing of it
// is shown. Names and sentences come from nodes too, so that nothing here trusts a type.

import { call, Problem } from "./api.js";
import { explain } from "./problems.js";

const EVERY = 10_000; // milliseconds
const SLACK = 1000; // of them: the list is read every five seconds, and a bit of the time that this takes is missing
const ABSENT = [404, 405, 422]; // what a panel answers that takes "nodes" for the number of a tunnel, or knows no such call

// "idle" is the page's own: a node that has the service, of which this panel knows nothing because its manager is not on
export const STATES = { problem: "service.problem", asking: "service.asking", ok: "service.ok", idle: "service.idle", none: "service.none" };

const list = (value) => (Array.isArray(value) ? value.filter((item) => item !== null && item !== undefined) : []);

/** What tells nodes apart: a node that was added may have the number of one that was deleted. */
const keyOf = (node) => (node.deleted ? `deleted ${node.uuid}` : node.node_id);

/** A node as the panel describes it; lists are lists. What a node without the service has to remove, a run removes, and the panel
 *  doesn't hear of it; from a deleted one nobody does, so that it is given up. `received` and `heard`: when this came, and when the
 *  node has answered last. */
function clean(node, manager, received) {
    const lists = Object.fromEntries(["missing", "orphans", "deletions", "changed_keys"].map((name) => [name, list(node[name])]));
    const told = Object.hasOwn(STATES, node.state) ? node.state : "asking";
    const state = told === "asking" && manager.state !== "on" ? "idle" : told;
    if (node.port === null) lists.deletions = lists.deletions.filter((deletion) => node.deleted && deletion.given_up);
    const heard = Number.isFinite(node.contact_age) ? received - node.contact_age * 1000 : null;
    return { ...node, ...lists, state, received, heard, key: keyOf(node), node: String(node.node ?? `#${node.node_id}`) };
}

export class Services {
    #asked = -Infinity;
    #absent = false;
    #changes = 0;
    #told = new Map(); // by a node's key: [the change in which something was told about it, the node; undefined where it is gone]
    #whole = false; // all were read once
    #byKey = new Map();
    manager = null; // {state, detail?}; null while nothing is known
    nodes = [];
    trouble = ""; // why it is not newer

    /** Ask the panel, unless it has just been asked, or with `must`. The list of tunnels does not depend on it: nothing is thrown. */
    async read(must = false) {
        const now = performance.now();
        if (this.#absent || (!must && now - this.#asked < EVERY - SLACK)) return;
        this.#asked = now;
        const before = this.#changes;
        try {
            this.#take(await call("GET", "tunnels/nodes"), before);
        } catch (problem) {
            if (!(problem instanceof Problem)) throw problem;
            this.#absent = ABSENT.includes(problem.status);
            this.trouble = this.#absent ? "" : explain(problem);
        }
    }

    /** What a read has found that began after this change. What was told meanwhile is newer. */
    #take(found, before) {
        const now = Date.now();
        if (!this.manager || before === this.#changes) this.#lead(found?.manager);
        const nodes = new Map(list(found?.nodes).map((node) => clean(node, this.manager, now)).map((node) => [node.key, node]));
        for (const [key, [change, node]] of this.#told) {
            if (change <= before) this.#told.delete(key);
            else if (node) nodes.set(key, node);
            else nodes.delete(key);
        }
        this.#put([...nodes.values()].filter((node) => !node.deleted || node.deletions.length));
        [this.#whole, this.trouble] = [true, ""];
    }

    #lead(manager) {
        this.manager = { state: ["on", "elsewhere"].includes(manager?.state) ? manager.state : "off", detail: manager?.detail ?? "" };
    }

    /** What the panel tells by itself: the manager, the nodes that are another way, and the keys of those that are not there any longer. */
    changed(told, now) {
        this.#changes += 1;
        if (told?.manager || !this.manager) this.#lead(told?.manager);
        const fresh = new Map(list(told?.nodes).map((node) => clean(node, this.manager, now)).map((node) => [node.key, node]));
        const gone = new Set(list(told?.gone).map(String));
        for (const key of gone) this.#told.set(/^\d+$/.test(key) ? Number(key) : `deleted ${key}`, [this.#changes, undefined]);
        for (const [key, node] of fresh) this.#told.set(key, [this.#changes, node]);
        if (!this.#whole) return; // the first read brings the others
        const kept = this.nodes.filter((node) => !gone.has(String(node.deleted ? node.uuid : node.node_id))).map((node) => fresh.get(node.key) ?? node);
        const added = [...fresh.values()].filter((node) => !this.#byKey.has(node.key));
        this.#put([...kept, ...added].filter((node) => !node.deleted || node.deletions.length));
    }

    /** Ends that were measured: who has measured one has answered. */
    heard(ends, rows, now) {
        for (const { tunnel_id: id, role, by, age } of list(ends)) {
            const node = by === "service" && this.of(rows.get(id)?.ids[role === "source" ? 0 : 1]);
            if (node && Number.isFinite(age)) node.heard = Math.max(node.heard ?? -Infinity, now - age * 1000);
        }
    }

    /** A node as the panel has just answered it; what is being read at this moment is older. */
    keep(node) {
        if (!this.manager) return; // somebody has logged out
        const fresh = clean(node, this.manager, Date.now());
        this.#put(this.nodes.map((known) => (known.key === fresh.key ? fresh : known)));
        this.#told.set(fresh.key, [++this.#changes, fresh]);
        this.#asked = -Infinity;
    }

    /** As of `Known`. */
    setBack(by) {
        for (const node of this.nodes) [node.received, node.heard] = [node.received - by, node.heard === null ? null : node.heard - by];
    }

    #put(nodes) {
        this.nodes = nodes;
        this.#byKey = new Map(nodes.map((node) => [node.key, node]));
    }

    /** A node that is on the panel now, by its number there. */
    of(id) {
        return this.#byKey.get(id);
    }

    /** Whether the panel does on these nodes by itself what a run did before. */
    actsOn(ids) {
        return this.manager?.state === "on" && ids.every((id) => (this.of(id)?.state ?? "none") !== "none");
    }

    /** How many nodes of the panel there are, act by themselves, have a service, have a problem, or wait for an admin. */
    get tally() {
        const many = (is) => this.nodes.filter(is).length;
        return {
            all: many((node) => !node.deleted),
            acting: many((node) => node.state === "ok"),
            served: many((node) => node.state !== "none"),
            problems: many((node) => node.state === "problem"),
            waiting: many((node) => node.changed_keys.length || node.deletions.some((deletion) => deletion.given_up)),
        };
    }
}
