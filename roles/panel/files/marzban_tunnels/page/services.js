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
 *  doesn't hear of it; from a deleted one nobody does, so that it is given up. */
function clean(node, manager) {
    const lists = Object.fromEntries(["missing", "orphans", "deletions", "changed_keys"].map((name) => [name, list(node[name])]));
    const told = Object.hasOwn(STATES, node.state) ? node.state : "asking";
    const state = told === "asking" && manager.state !== "on" ? "idle" : told;
    if (node.port === null) lists.deletions = lists.deletions.filter((deletion) => node.deleted && deletion.given_up);
    return { ...node, ...lists, state, key: keyOf(node), node: String(node.node ?? `#${node.node_id}`) };
}

export class Services {
    #asked = -Infinity;
    #absent = false;
    #changes = 0;
    #byKey = new Map();
    manager = null; // {state, detail?}; null while nothing is known
    nodes = [];
    received = 0; // when it came
    trouble = ""; // why it is not newer

    /** Ask the panel, unless it has just been asked. The list of tunnels does not depend on it: nothing is thrown. */
    async read() {
        const now = performance.now();
        if (this.#absent || now - this.#asked < EVERY - SLACK) return;
        this.#asked = now;
        const before = this.#changes;
        try {
            const found = await call("GET", "tunnels/nodes");
            if (before === this.#changes) this.#take(found);
        } catch (problem) {
            if (!(problem instanceof Problem)) throw problem;
            this.#absent = ABSENT.includes(problem.status);
            this.trouble = this.#absent ? "" : explain(problem);
        }
    }

    #take(found) {
        const manager = found?.manager;
        this.manager = { state: ["on", "elsewhere"].includes(manager?.state) ? manager.state : "off", detail: manager?.detail ?? "" };
        const nodes = list(found?.nodes).map((node) => clean(node, this.manager));
        this.#put(nodes.filter((node) => !node.deleted || node.deletions.length));
        [this.received, this.trouble] = [Date.now(), ""];
    }

    /** A node as the panel has just answered it; what is being read at this moment is older. */
    keep(node) {
        if (!this.manager) return; // somebody has logged out
        const fresh = clean(node, this.manager);
        this.#put(this.nodes.map((known) => (known.key === fresh.key ? fresh : known)));
        this.#changes += 1;
        this.#asked = -Infinity;
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
