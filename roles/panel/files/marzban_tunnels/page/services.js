// SPDX-License-Identifier: AGPL-3.0-or-later
// What the panel's manager says of the nodes' service. A panel of an older API has no such call: then nothing of it is
// shown. Names and sentences come from nodes too, so that nothing here trusts a type.

import { call, Problem } from "./api.js";
import { explain } from "./problems.js";

const EVERY = 10_000; // milliseconds
const SLACK = 1000; // of them: the list is read every five seconds, and a bit of the time that this takes is missing
const ABSENT = [404, 405, 422]; // what a panel answers that takes "nodes" for the number of a tunnel, or knows no such call

export const STATES = { problem: "service.problem", asking: "service.asking", ok: "service.ok", none: "service.none" };

const list = (value) => (Array.isArray(value) ? value.filter((item) => item !== null && item !== undefined) : []);

/** A node as the panel tells of it; lists are lists. */
function clean(node) {
    const lists = Object.fromEntries(["missing", "orphans", "deletions", "changed_keys"].map((name) => [name, list(node[name])]));
    return { ...node, ...lists, node: String(node.node), state: Object.hasOwn(STATES, node.state) ? node.state : "asking" };
}

export class Services {
    #asked = -Infinity;
    #absent = false;
    #changes = 0;
    #byId = new Map();
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
        this.nodes = list(found?.nodes).map(clean);
        this.#byId = new Map(this.nodes.map((node) => [node.node_id, node]));
        [this.received, this.trouble] = [Date.now(), ""];
    }

    /** A node as the panel has just told of it; what is being read at this moment is older. */
    keep(node) {
        if (!this.#byId.has(node?.node_id)) return;
        this.nodes = this.nodes.map((known) => (known.node_id === node.node_id ? clean(node) : known));
        this.#byId = new Map(this.nodes.map((known) => [known.node_id, known]));
        this.#forget();
    }

    /** What is known is old: something was changed. */
    #forget() {
        this.#changes += 1;
        this.#asked = -Infinity;
    }

    of(id) {
        return this.#byId.get(id);
    }

    /** Whether the panel does on these nodes by itself what a run did before. */
    actsOn(ids) {
        return this.manager?.state === "on" && ids.every((id) => (this.of(id)?.state ?? "none") !== "none");
    }

    /** How many nodes of the panel there are, act by themselves, have a service, have a problem, or wait for an admin. */
    get tally() {
        const many = (is) => this.nodes.filter(is).length;
        return {
            all: this.nodes.length,
            acting: many((node) => node.state === "ok"),
            served: many((node) => node.state !== "none"),
            problems: many((node) => node.state === "problem"),
            waiting: many((node) => node.changed_keys.length || node.deletions.some((deletion) => deletion.given_up)),
        };
    }
}
