// SPDX-License-Identifier: AGPL-3.0-or-later
// The nodes' service, node by node: how it is, what is wrong, and what only an admin can decide. A node's part is made
// again only when something other than an age has changed.

import { call } from "./api.js";
import { ask } from "./changes.js";
import { $, bdi, el, mark, setAttribute, setMark, setText, show } from "./dom.js";
import { guideLink, lead } from "./guide.js";
import { ago, collator, english, isEnglish, number, t } from "./i18n.js";
import { TYPES } from "./model.js";
import { STATES } from "./services.js";

const MOST = 50; // of one list that are shown
const ENGINE = 12; // digits of the version, which is a digest
const MARKS = { ok: "active", asking: "connecting", problem: "error", idle: "stale", none: "inactive" };
const ORDER = Object.keys(STATES);
const MANAGER = { on: "manager.on", off: "manager.off", elsewhere: "manager.elsewhere" };
const PLAYBOOK = "ansible-playbook marzban.tunnels.node_api";

// By the code of a problem: what it is in a few words, and what to do
const PROBLEMS = {
    refused: ["problem.refused", "advice.refused"],
    timed_out: ["problem.timed_out", "advice.timed_out"],
    certificate_changed: ["problem.certificate_changed", "advice.certificate_changed"],
    key_wrong: ["problem.key_wrong", "advice.key_wrong"],
    clock_wrong: ["problem.clock_wrong", "advice.clock_wrong"],
    version_older: ["problem.version_older", "advice.version_older"],
    version_newer: ["problem.version_newer", "advice.version_newer"],
    busy: ["problem.busy", "advice.busy"],
    older_database: ["problem.older_database", "advice.older_database"],
    bad_answer: ["problem.bad_answer", "advice.bad_answer"],
};

// Rows of the guide, by the code of a problem
const GUIDED = { refused: "unreachable", timed_out: "unreachable" };
// What the node's service has brought back by itself, by kind
const RECOVERIES = { put_back: "recovery.put_back", process: "recovery.process", session: "recovery.session", mtu: "recovery.mtu", peer: "recovery.peer" };

const text = (value) => (value === null || value === undefined ? "" : String(value));
const code = (value) => el("code", { dir: "ltr" }, text(value));

/** A node's problem in the reader's language where there are words for it; the panel's own sentence has the details. */
function problemOf({ problem }) {
    const detail = text(problem?.detail);
    const words = Object.hasOwn(PROBLEMS, problem?.code) ? PROBLEMS[problem.code].map((key) => t(key)) : null;
    const parts = [];
    if (words) parts.push(el("b", {}, words[0]));
    if (words && (!isEnglish() || !detail)) parts.push(el("span", {}, words[1]));
    if (detail || !words) parts.push(el("bdi", { dir: "auto" }, detail ? english(detail) : text(problem?.code)));
    const guide = guideLink();
    lead(guide, Object.hasOwn(GUIDED, problem?.code) ? GUIDED[problem.code] : null);
    return el("p", { class: "problem" }, ...parts, guide);
}

/** How often its service has brought something back, in one line. */
function recoveriesOf({ recoveries }) {
    const known = Object.entries(RECOVERIES).filter(([kind]) => recoveries?.[kind] > 0);
    return known.map(([kind, key]) => `${t(key)} ${number(recoveries[kind])}`).join(" · ");
}

const nameOf = (tunnel) => text(tunnel.name) || `#${text(tunnel.id ?? tunnel.tunnel_id)}`;
const typeOf = (tunnel) => (Object.hasOwn(TYPES, tunnel.type) ? TYPES[tunnel.type] : text(tunnel.type));

/** A public half: its key, and the fingerprint of all by which it proves who it is. */
const halfOf = (term, key, fingerprint) => [el("dt", {}, t(term)), el("dd", {}, code(key), el("br"), code(fingerprint))];

const orphan = (tunnel) => [bdi(nameOf(tunnel)), ` ${typeOf(tunnel)} `, code(tunnel.interface)];

/** A list below a sentence; of a long one its beginning. `unsent`: how many there are besides. */
function listing(sentence, items, line, unsent = 0) {
    if (!items.length) return [];
    const lines = items.slice(0, MOST).map((item, place) => el("li", {}, ...line(item, place)));
    const more = Math.max(0, items.length - MOST) + unsent;
    if (more) lines.push(el("li", {}, t("nodes.more", { count: number(more) })));
    return [el("p", {}, sentence), el("ul", {}, ...lines)];
}

class View {
    #known = "";
    #ages = []; // [element, function of the node that gives a moment, function of "5s ago" that gives words]
    #act;

    constructor(act) {
        this.#act = act;
        this.li = el("li", { tabindex: "-1" });
    }

    update(node, now) {
        const ageless = (key, value) => (["age", "contact_age", "received", "heard"].includes(key) ? undefined : value);
        const known = JSON.stringify([document.documentElement.lang, node], ageless);
        if (known !== this.#known) {
            this.#known = known;
            const focused = this.li.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
            this.#build(node);
            if (focused) (this.li.querySelector(`[data-key="${CSS.escape(focused)}"]`) ?? this.li).focus({ preventScroll: true });
        }
        for (const [element, moment, words] of this.#ages) {
            const at = moment(node);
            setText(element, Number.isFinite(at) ? words(ago(Math.max(0, (now - at) / 1000))) : "");
        }
    }

    #age(moment, words) {
        const element = el("span", { class: "age" });
        this.#ages.push([element, moment, words]);
        return element;
    }

    #build(node) {
        this.#ages = [];
        const contact = this.#age(({ heard }) => heard, (when) => t("nodes.contact", { ago: when }));
        const state = el("span", { class: "state", "data-status": MARKS[node.state] }, mark(MARKS[node.state]), el("span", {}, t(node.deleted ? "service.deleted" : STATES[node.state])));
        setAttribute(this.li, "data-state", node.state);
        setAttribute(this.li, "aria-label", node.node);
        this.li.replaceChildren(
            el("div", { class: "head" }, el("h3", {}, bdi(node.node)), state, ...(node.state === "none" ? [] : [contact]), ...this.#revoke(node)),
            ...this.#about(node),
            ...(node.state === "problem" ? [problemOf(node)] : []),
            ...(node.missing.length ? [el("p", {}, t("nodes.missing", { what: node.missing.map(text).join(", ") }), " ", code(PLAYBOOK))] : []),
            ...node.changed_keys.flatMap((change, place) => this.#changed(node, change, place)),
            ...listing(t("nodes.orphans", { node: node.node }), node.orphans, orphan, Number(node.more_orphans) || 0),
            ...listing(t("nodes.deletions"), node.deletions, (tunnel, place) => this.#deletion(tunnel, place)),
            ...this.#rightDatabase(node),
        );
    }

    /** What is known of a service that is there: its version, and what it has brought back since it began. */
    #about(node) {
        const version = text(node.engine).slice(0, ENGINE);
        const recovered = recoveriesOf(node);
        const parts = [];
        if (version) parts.push(el("span", {}, t("nodes.version"), " ", code(version)));
        if (recovered) parts.push(el("span", {}, t("nodes.recovered", { what: recovered })));
        return parts.length ? [el("p", { class: "about" }, ...parts)] : [];
    }

    #deletion(tunnel, place) {
        const age = this.#age((node) => node.received - node.deletions[place]?.age * 1000, (when) => t("nodes.deleted", { ago: when }));
        const state = tunnel.given_up ? el("b", { class: "given-up" }, t("nodes.given_up")) : el("span", {}, t("nodes.waits"));
        return [bdi(nameOf(tunnel)), ` ${typeOf(tunnel)} `, state, " ", age];
    }

    #changed(node, change, place) {
        const name = nameOf(change);
        const question = {
            title: t("renewed.title", { node: node.node }),
            text: t("renewed.text", { node: node.node, name }),
            yes: t("nodes.renewed"),
        };
        const body = { tunnel_id: change.tunnel_id, fingerprint: change.seen_fingerprint };
        const guide = guideLink();
        lead(guide, "reinstalled");
        return [el(
            "div", { class: "problem" },
            el("p", {}, t("nodes.changed", { node: node.node, name }), " ", guide),
            el("dl", {}, ...halfOf("nodes.known", change.known, change.known_fingerprint), ...halfOf("nodes.seen", change.seen, change.seen_fingerprint)),
            this.#button(`renewed ${text(change.tunnel_id)} ${place}`, question, node, "confirm", body),
        )];
    }

    #rightDatabase(node) {
        if (node.state !== "problem" || node.problem?.code !== "older_database") return [];
        const question = { title: t("database.title", { node: node.node }), text: t("database.text", { node: node.node }), yes: t("nodes.database") };
        const body = node.deleted ? { database: true, uuid: node.uuid } : { database: true };
        return [el("p", {}, this.#button("database", question, node, "confirm", body))];
    }

    #revoke(node) {
        if (node.state === "none" || node.deleted) return [];
        const question = { title: t("revoke.title", { node: node.node }), text: t("revoke.text", { node: node.node, command: PLAYBOOK }), yes: t("nodes.revoke") };
        return [this.#button("revoke", question, node, "revoke")];
    }

    #button(key, question, node, path, body) {
        const click = () => this.#act(question, `tunnels/nodes/${Number(node.node_id)}/${path}`, body);
        return el("button", { "data-key": key, class: key === "revoke" ? "quiet" : null, on: { click } }, question.yes);
    }
}

export class Nodes {
    #services;
    #views = new Map(); // by the node's key
    #changed;
    #opened;
    #sign = mark("inactive");

    /** `changed` is called with a node as the panel answers it after a decision, `opened` when somebody looks. */
    constructor(changed, opened) {
        this.#changed = changed;
        this.#opened = opened;
        this.dialog = $("nodes");
        this.dialog.querySelector(".close").addEventListener("click", () => this.dialog.close());
        this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
        $("services").prepend(this.#sign);
        $("services").addEventListener("click", () => this.open());
        $("graph-service").firstElementChild.addEventListener("click", (event) => this.open(Number(event.currentTarget.dataset.node)));
    }

    /** Show all; with an id, that node's part has the focus. */
    open(id) {
        show(this.dialog);
        this.#fill(Date.now());
        this.dialog.scrollTop = 0;
        const view = this.#views.get(id);
        view?.li.scrollIntoView({ block: "nearest" });
        view?.li.focus();
        this.#opened();
    }

    get isOpen() {
        return this.dialog.open;
    }

    /** `node`: the one that the list is filtered by, if any. */
    update(services, node, now) {
        this.#services = services;
        this.#chip();
        const picked = services.of(Number(node));
        $("graph-service").hidden = !picked;
        if (picked) {
            const button = $("graph-service").firstElementChild;
            button.dataset.node = node;
            setText(button, t("nodes.open", { node: picked.node, state: t(STATES[picked.state]) }));
        }
        this.tick(now);
    }

    tick(now) {
        if (this.dialog.open) this.#fill(now);
    }

    /** In the head: how many nodes act by themselves. */
    #chip() {
        const chip = $("services");
        const { manager, tally } = this.#services;
        chip.hidden = !manager || !this.#services.nodes.length;
        if (chip.hidden) return;
        const [count, all] = [number(tally.acting), number(tally.all)];
        const words = { on: () => t("services.acting", { count, all }), off: () => t("services.off"), elsewhere: () => t("services.elsewhere") };
        const quiet = !tally.served;
        const alarm = tally.problems || manager.state === "off";
        setText(chip.children[1], quiet ? t("services.runs") : words[manager.state]());
        setText(chip.lastElementChild, tally.problems ? t("services.problems", { count: number(tally.problems) }) : "");
        const well = manager.state === "on" ? "active" : "inactive";
        const status = quiet ? "inactive" : alarm ? "error" : tally.waiting ? "connecting" : well;
        setMark(this.#sign, status);
        setAttribute(chip, "data-status", status);
    }

    #fill(now) {
        const { manager, nodes, trouble } = this.#services;
        if (!manager) {
            this.dialog.close(); // somebody has logged out
            return;
        }
        const detail = text(manager.detail);
        setText($("nodes-manager").firstElementChild, t(MANAGER[manager.state]));
        setText($("nodes-manager").lastElementChild, english(detail));
        $("nodes-manager").classList.toggle("problem", manager.state === "off" && this.#services.tally.served > 0);
        setText($("nodes-problem"), trouble);
        $("nodes-problem").hidden = !trouble;
        const order = [...nodes].sort((one, other) => ORDER.indexOf(one.state) - ORDER.indexOf(other.state) || collator().compare(one.node, other.node));
        const kept = new Map();
        order.forEach((node) => {
            const view = this.#views.get(node.key) ?? new View((question, path, body) => this.#decide(question, path, body));
            view.update(node, now);
            kept.set(node.key, view);
        });
        this.#views = kept;
        this.#place([...kept.values()].map((view) => view.li));
    }

    /** In this order; what is at its place is not touched, so that the focus stays. */
    #place(wanted) {
        const box = $("nodes-list");
        const focused = box.contains(document.activeElement) ? document.activeElement : null;
        const keep = new Set(wanted);
        for (const li of [...box.children]) if (!keep.has(li)) li.remove();
        wanted.forEach((li, place) => box.children[place] !== li && box.insertBefore(li, box.children[place] ?? null));
        if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
    }

    #decide(question, path, body) {
        return ask(question, async () => this.#changed(await call("POST", path, { body })));
    }
}
