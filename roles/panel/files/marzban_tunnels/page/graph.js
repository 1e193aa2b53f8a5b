// SPDX-License-Identifier: AGPL-3.0-or-later
// The map: nodes on a circle in the order of their names, tunnels as lines. A few tunnels of one pair are side by
// side; many are one line with their number, and so is each pair where the map is full. One tab stop; the arrows go
// around.

import { $, bdi, el, setAttribute, setText, svg } from "./dom.js";
import { collator, number, t } from "./i18n.js";
import { isStale, STATUSES } from "./model.js";
import { STATUS_WORDS } from "./list.js";
import { STATES } from "./services.js";

const SIZE = 210; // of the circle at least, in the drawing's own units, of which a letter is 14 high
const ROOM = 15; // of the circle for each node, so that the names of a crowd don't run into each other
const APART = 3; // the most tunnels of a pair that are lines of their own
const FULL = 60; // pairs; more are thin lines without numbers
const CROWD = 12; // nodes; more have names that point outwards
const NAMED = 80; // nodes; more have no names on the map, which nobody could read: they are told below it
const NAME = 16; // characters of a name that are drawn
const FONT = 14;
const RINGS = ["ok", "problem"]; // of a node's service: what is drawn around the node
const NODES = { connected: "node.connected", connecting: "node.connecting", error: "node.error", disabled: "node.disabled" };

export class Graph {
    #pick;
    #shape = ""; // what the drawing was made for
    #drawn = []; // {element, key, node?, rows}: what can be reached and picked; a node's rows are the tunnels that end there
    #parts = []; // the same in the order of the arrows
    #here = 0;
    #ofRow = new Map(); // by a tunnel's id: what shows it
    #layers = { edges: svg("g"), wrongEdges: svg("g"), dots: svg("g"), wrongDots: svg("g") };
    #filter;
    #services;

    /** `pick` is called with a change of the filter. */
    constructor(pick) {
        this.#pick = pick;
        this.svg = svg("svg", { class: "graph", role: "group" }, ...Object.values(this.#layers));
        $("graph").append(this.svg);
        this.svg.addEventListener("keydown", (event) => this.#key(event));
        this.svg.addEventListener("pointerleave", () => this.#tell(null));
    }

    /** `nodes`: those of the panel; `rows`: all tunnels; `filter` says what is picked; `services`: how the nodes' are. */
    render(nodes, rows, filter, now, services) {
        this.#services = services;
        setAttribute(this.svg, "aria-label", t("graph.label"));
        const pairs = new Map();
        for (const row of rows) pairs.set(row.pair, [...(pairs.get(row.pair) ?? []), row]);
        const apart = pairs.size > FULL ? 1 : APART;
        const lines = [...pairs.values()].flatMap((of) => (of.length > apart ? [of] : of.map((row) => [row])));
        this.svg.classList.toggle("full", pairs.size > FULL);
        this.#legend(nodes);
        const keys = lines.map((of) => (of.length > 1 ? of[0].pair : `${of[0].pair}:${of[0].id}`));
        const shape = JSON.stringify([nodes.map((node) => [node.id, node.name]), keys]);
        if (shape !== this.#shape) {
            this.#shape = shape;
            this.#draw(nodes, lines, keys, pairs);
        }
        const byKey = new Map(keys.map((key, place) => [key, lines[place]]));
        const byNode = new Map(nodes.map((node) => [`node ${node.id}`, { node, rows: [] }]));
        for (const row of rows) for (const id of new Set(row.ids)) byNode.get(`node ${id}`)?.rows.push(row);
        this.#filter = filter;
        this.#ofRow = new Map(rows.map((row) => [row.id, []]));
        for (const part of this.#drawn) {
            Object.assign(part, byNode.get(part.key) ?? { rows: byKey.get(part.key) });
            for (const row of part.rows) this.#ofRow.get(row.id).push(part);
            this.#show(part, now);
        }
        this.#raise();
    }

    /** These tunnels are another way; their nodes, and what is picked, are the same. */
    refresh(rows, now) {
        for (const part of new Set(rows.flatMap((row) => this.#ofRow.get(row.id) ?? []))) this.#show(part, now);
        this.#raise();
    }

    #show(part, now) {
        const { element, node, rows } = part;
        const errors = rows.filter((row) => row.status === "error").length;
        part.wrong = errors > 0 || node?.status === "error";
        element.classList.toggle("wrong", part.wrong);
        const picked = node ? this.#filter.node === String(node.id) : this.#filter.pair === rows[0].pair;
        setAttribute(element, "aria-pressed", String(picked));
        setAttribute(element, "aria-label", this.#words(part));
        if (node) {
            setAttribute(element, "data-state", node.status);
            setAttribute(element, "data-service", this.#services.of(node.id)?.state);
            setText(element.querySelector(".count"), errors ? number(errors) : "");
            setText(element.querySelector(".title"), drawn(node, part.wrong ? 0 : this.#crowd));
            return;
        }
        setAttribute(element, "data-status", STATUSES.find((status) => rows.some((row) => row.status === status)));
        element.classList.toggle("dim", Boolean(this.#filter.node) && !rows[0].ids.includes(Number(this.#filter.node)));
        element.classList.toggle("old", rows.every((row) => isStale(row, now)));
    }

    get #crowd() {
        return this.#layers.dots.childElementCount + this.#layers.wrongDots.childElementCount;
    }

    /** What is wrong above the rest, and first for the arrows. */
    #raise() {
        const held = this.#parts[this.#here];
        const focused = document.activeElement;
        for (const { element, node, wrong } of this.#drawn) {
            const layer = this.#layers[node ? (wrong ? "wrongDots" : "dots") : wrong ? "wrongEdges" : "edges"];
            if (element.parentElement !== layer) layer.append(element);
        }
        if (focused !== document.activeElement) focused.focus({ preventScroll: true });
        this.#parts = [...this.#drawn.filter((part) => part.wrong), ...this.#drawn.filter((part) => !part.wrong)];
        this.#here = Math.max(0, this.#parts.indexOf(held));
        this.#parts.forEach(({ element }, place) => setAttribute(element, "tabindex", place === this.#here ? "0" : "-1"));
    }

    #words({ rows, node }) {
        if (node) {
            const state = NODES[node.status] ? t(NODES[node.status]) : String(node.status);
            const service = this.#services.of(node.id);
            const words = service ? t("graph.node_service", { node: node.name, state, service: t(STATES[service.state]) }) : t("graph.node", { node: node.name, state });
            return rows.length ? t("graph.node_tunnels", { words, ...this.#tally(rows) }) : words;
        }
        const [first] = rows;
        const [source, target] = first.nodes;
        if (rows.length > 1) return t("graph.bundle", { source, target, count: number(rows.length), ...this.#tally(rows) });
        return t("graph.tunnel", { name: first.label, source, target, type: first.typeLabel, status: t(STATUS_WORDS[first.status]) });
    }

    #tally(rows) {
        const found = STATUSES.map((status) => [status, rows.filter((row) => row.status === status).length]);
        return { status: found.filter(([, many]) => many).map(([status, many]) => `${t(STATUS_WORDS[status])} ${number(many)}`).join(", ") };
    }

    #draw(nodes, lines, keys, pairs) {
        const held = this.#parts[this.#here]?.key;
        const focused = this.svg.contains(document.activeElement);
        const size = Math.max(SIZE, (Math.min(nodes.length, NAMED) * ROOM) / Math.PI);
        const places = circle(nodes, size);
        setAttribute(this.svg, "viewBox", frame(nodes, places));
        const edges = lines.map((of, place) => {
            const together = of.length > 1 ? [] : pairs.get(of[0].pair);
            return { key: keys[place], element: edge(of, places, together.indexOf(of[0]), together.length, size / 2) };
        }).filter((part) => part.element);
        const dots = nodes.map((node) => ({ key: `node ${node.id}`, element: dot(node, places.get(node.id), nodes.length) }));
        this.#drawn = [...dots, ...edges];
        for (const part of this.#drawn) {
            part.element.addEventListener("click", () => this.#choose(part));
            part.element.addEventListener("pointerenter", () => this.#tell(part));
            part.element.addEventListener("focus", () => this.#tell(part));
        }
        this.#layers.edges.replaceChildren(...edges.map((part) => part.element));
        this.#layers.dots.replaceChildren(...dots.map((part) => part.element));
        this.#layers.wrongEdges.replaceChildren();
        this.#layers.wrongDots.replaceChildren();
        this.#parts = this.#drawn;
        this.#here = Math.max(0, this.#parts.findIndex((part) => part.key === held));
        if (focused) this.#parts[this.#here]?.element.focus({ preventScroll: true });
    }

    /** What the signs mean, for who looks at the map: of all lines, and of the nodes as they are. */
    #legend(nodes) {
        const states = Object.keys(NODES).filter((state) => nodes.some((node) => node.status === state));
        const entries = [
            ...STATUSES.map((status) => [{ class: "key", "data-status": status }, t(STATUS_WORDS[status])]),
            ...states.map((state) => [{ class: "key dot", "data-state": state }, t(NODES[state])]),
            ...RINGS.filter((state) => nodes.some((node) => this.#services.of(node.id)?.state === state))
                .map((state) => [{ class: "key ring", "data-service": state }, t(STATES[state])]),
        ];
        const known = JSON.stringify(entries);
        if ($("graph-legend").dataset.known === known) return;
        $("graph-legend").dataset.known = known;
        $("graph-legend").replaceChildren(...entries.map(([attributes, words]) => el("span", attributes, bdi(words))));
    }

    #choose({ rows, node }) {
        this.#pick(node ? { node: String(node.id), pair: "" } : { pair: rows[0].pair, node: "" });
    }

    #tell(part) {
        setText($("graph-info"), part ? this.#words(part) : "");
    }

    #key(event) {
        const ways = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
        if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            this.#choose(this.#parts[this.#here]);
        } else if (Object.hasOwn(ways, event.key)) {
            event.preventDefault();
            const last = this.#parts[this.#here].element;
            this.#here = (this.#here + ways[event.key] + this.#parts.length) % this.#parts.length;
            const next = this.#parts[this.#here].element;
            last.setAttribute("tabindex", "-1");
            next.setAttribute("tabindex", "0");
            next.focus();
        }
    }
}

/** Where each node is, on a circle of this size. Two are side by side. */
function circle(nodes, size) {
    const order = [...nodes].sort((a, b) => collator().compare(a.name, b.name) || a.id - b.id);
    const flat = order.length < 3;
    return new Map(order.map((node, place) => {
        const turn = (place / order.length) * 2 * Math.PI + (flat ? Math.PI : -Math.PI / 2);
        return [node.id, { x: (size / 2) * (1 + Math.cos(turn)), y: flat ? 40 : (size / 2) * (1 + Math.sin(turn)), turn }];
    }));
}

/** A node's name as it is drawn among so many. */
function drawn(node, crowd) {
    if (crowd > NAMED) return "";
    const name = [...String(node.name)];
    return name.length > NAME ? `${name.slice(0, NAME - 1).join("")}…` : name.join("");
}

/** The part of the drawing that is seen: all nodes and names. Measured on a canvas, because the map may be folded. */
function frame(nodes, places) {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.font = `${FONT}px ${getComputedStyle(document.documentElement).fontFamily}`;
    let [left, top, right, bottom] = [0, 0, SIZE, 80];
    for (const node of nodes) {
        const { x, y, turn } = places.get(node.id);
        const { width } = canvas.measureText(drawn(node, nodes.length));
        const name = beside(turn, nodes.length);
        const reach = nodes.length > CROWD ? Math.abs(name.x) + width : 0; // in the direction that it points to
        const [ahead, behind] = { start: [name.x + width, 0], end: [0, width - name.x], middle: [width / 2, width / 2] }[name["text-anchor"]];
        const [across, down] = [reach * Math.cos(turn), reach * Math.sin(turn)];
        right = Math.max(right, x + (reach ? across : ahead) + FONT);
        left = Math.min(left, x - (reach ? -across : behind) - FONT);
        bottom = Math.max(bottom, y + (reach ? down : Math.max(0, name.y)) + FONT);
        top = Math.min(top, y + (reach ? down : Math.min(0, name.y - FONT)) - FONT);
    }
    return [left, top, right - left, bottom - top].map((value) => value.toFixed(1)).join(" ");
}

function dot(node, { x, y, turn }, crowd) {
    return svg(
        "g", { class: "node", role: "button", tabindex: "-1", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` },
        svg("circle", { class: "halo", r: crowd > CROWD ? 9 : 12 }),
        svg("circle", { class: "ring", r: crowd > NAMED ? 5 : crowd > CROWD ? 7.5 : 10 }),
        svg("circle", { class: "dot", r: crowd > NAMED ? 3 : crowd > CROWD ? 5 : 7 }),
        svg("text", { class: "title", ...beside(turn, crowd), direction: "ltr", "aria-hidden": "true" }, drawn(node, crowd)),
        svg("text", { class: "count", x: 6, y: -6, "aria-hidden": "true" }),
    );
}

/** Where a node's name is, seen from the node. */
function beside(turn, crowd) {
    const across = Math.cos(turn);
    const right = across > -0.001;
    if (crowd > CROWD) {
        const degrees = (turn * 180) / Math.PI + (right ? 0 : 180);
        const outwards = right === crowd <= NAMED; // where only some have a name, there is room inside the circle only
        return { x: outwards ? 11 : -11, y: 4, "text-anchor": outwards ? "start" : "end", transform: `rotate(${degrees.toFixed(1)})` };
    }
    if (crowd < 3 || Math.abs(across) < 0.2) return { x: 0, y: Math.sin(turn) < -0.5 ? -14 : 24, "text-anchor": "middle" };
    return { x: right ? 14 : -14, y: 4, "text-anchor": right ? "start" : "end" };
}

/** A line that bends towards the middle, so that it passes between nodes; several of one pair bend apart. */
function edge(of, places, place, together, centre) {
    const [from, to] = [...of[0].ids].sort((a, b) => a - b).map((id) => places.get(id));
    if (!from || !to) return null; // a node that has just gone
    const middle = { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 };
    const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
    const aside = together > 1 ? (place - (together - 1) / 2) * 34 : 0;
    const pull = places.size > 2 ? 0.25 : 0;
    const bend = {
        x: middle.x + pull * (centre - middle.x) - (aside * (to.y - from.y)) / length,
        y: middle.y + pull * (centre - middle.y) + (aside * (to.x - from.x)) / length,
    };
    const round = (value) => value.toFixed(1);
    const path = `M${round(from.x)} ${round(from.y)}Q${round(bend.x)} ${round(bend.y)} ${round(to.x)} ${round(to.y)}`;
    const group = svg(
        "g", { class: of.length > 1 ? "edge bundle" : "edge", role: "button", tabindex: "-1" },
        svg("path", { class: "reach", d: path }), svg("path", { class: "line", d: path }),
    );
    if (of.length > 1) {
        const at = { x: (from.x + 2 * bend.x + to.x) / 4, y: (from.y + 2 * bend.y + to.y) / 4 };
        group.append(
            svg("circle", { class: "tag", cx: round(at.x), cy: round(at.y), r: 9 }),
            svg("text", { x: round(at.x), y: round(at.y + 3.2), "text-anchor": "middle", "aria-hidden": "true" }, number(of.length)),
        );
    }
    return group;
}
