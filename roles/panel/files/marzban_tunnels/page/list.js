// SPDX-License-Identifier: AGPL-3.0-or-later
// The table of tunnels. A row is made once and changed in place; as many are in the page as were scrolled to.

import { there } from "./api.js";
import { $, bdi, el, mark, setAttribute, setMark, setText } from "./dom.js";
import { ago, bytes, date, duration, milliseconds, passed, percent, t } from "./i18n.js";
import { ageNow, isOld, sinceOf } from "./model.js";

const FIRST = 40; // rows that are there at once: two screens, laid out within a frame
const STEP = 100; // rows that come when those are scrolled through
export const STATUS_WORDS = { active: "status.active", connecting: "status.connecting", error: "status.error", inactive: "status.inactive" };
export const COLUMNS = {
    name: "column.name", nodes: "column.nodes", type: "column.type", status: "column.status",
    rtt: "column.rtt", loss: "column.loss", traffic: "column.traffic",
};

/** Sign, word and age of a status, and since when it is so. What is old says so in words, and has another sign. */
export class StatusView {
    constructor() {
        this.mark = mark("connecting");
        this.word = el("span", { class: "word" });
        this.since = el("span", { class: "since" });
        this.age = el("span", { class: "age" });
        this.stale = el("span", { class: "stale", hidden: true });
        this.state = el("span", { class: "state" }, this.mark, this.word, this.since);
        this.nodes = [this.state, el("span", { class: "when" }, this.age, this.stale)];
    }

    /** `status` null: nothing was reported since the record was changed. `report`: a row, or that of an end. `since`: in
     *  milliseconds. */
    update(status, report, now, since = null) {
        const current = ageNow(report.age, report.received, now);
        const old = isOld(status, report, now);
        const sign = old && status !== "error" ? "stale" : (status ?? "connecting");
        setMark(this.mark, sign);
        setAttribute(this.state, "data-status", sign);
        this.state.classList.toggle("old", old);
        setText(this.word, status ? t(STATUS_WORDS[status] ?? "status.connecting") : t("status.unreported"));
        setText(this.since, since === null ? "" : `· ${passed(since, there(now))}`);
        setAttribute(this.since, "title", since === null ? null : t("status.since", { moment: date(since, "moment") }));
        setText(this.age, current === null ? (status ? t("status.unreported") : "") : ago(current));
        setText(this.stale, t("status.stale"));
        setAttribute(this.stale, "title", t("status.stale_since", { time: duration(report.staleAfter) }));
        setAttribute(this.stale, "hidden", !old);
    }
}

class Row {
    constructor(row, open) {
        this.button = el("button", { class: "name", id: `tunnel-${row.id}` }, bdi());
        this.under = el("small", { dir: "ltr" });
        this.from = bdi();
        this.to = bdi();
        this.status = new StatusView();
        this.cells = { rtt: el("td"), loss: el("td") };
        this.type = el("td");
        this.traffic = [0, 1].map(() => [bdi(), el("span")]);
        this.cells.traffic = el("td", { class: "traffic" }, ...this.traffic.map((parts) => el("span", {}, ...parts)));
        this.why = [0, 1].map(() => [el("b"), el("bdi", { dir: "auto" })]);
        this.cells.why = el("td", { class: "why", colspan: Object.keys(this.cells).length }, ...this.why.map((parts) => el("p", { dir: "auto" }, ...parts)));
        this.tr = el(
            "tr", {},
            el("th", { scope: "row" }, this.button, this.under),
            el("td", { class: "nodes" }, el("span", {}, this.from, el("span", { class: "arrow" }, "→")), el("span", {}, this.to)),
            this.type,
            el("td", { class: "status" }, ...this.status.nodes),
            ...Object.values(this.cells),
        );
        this.label();
        this.tr.addEventListener("click", (event) => {
            if (event.target === this.button || this.button.contains(event.target) || !getSelection().toString()) open(row.id);
        });
    }

    /** On a phone there are no heads: each cell says what it is. */
    label() {
        const names = Object.values(COLUMNS);
        [...this.tr.cells].forEach((cell, place) => setAttribute(cell, "data-label", names[place] ? t(names[place]) : null));
        this.row = null;
    }

    update(row, now) {
        if (this.row !== row || this.turn !== row.turn) {
            [this.row, this.turn] = [row, row.turn];
            setText(this.button.firstChild, row.label);
            setText(this.under, String(row.ends[0].addresses?.[0] ?? ""));
            setText(this.from, row.nodes[0]);
            setText(this.to, row.nodes[1]);
            setAttribute(this.from.closest("td"), "title", row.nodes.join(" → "));
            setText(this.type, row.typeLabel);
            setText(this.cells.rtt, milliseconds(row.rtt));
            setText(this.cells.loss, percent(row.loss));
            setAttribute(this.cells.loss, "class", row.loss > 0 ? "lossy" : null);
            row.ends.forEach((end, place) => {
                const [who, what] = this.traffic[place];
                setText(what, trafficOf(end));
                setText(who, what.textContent && row.nodes[place]);
                const [node, error] = row.why[place] ?? ["", ""];
                setText(this.why[place][0], node);
                setText(this.why[place][1], error);
                this.why[place][1].parentElement.hidden = !error;
            });
            // what was measured is in the detail; where something is wrong, there is mostly nothing
            for (const [name, cell] of Object.entries(this.cells)) cell.hidden = (name === "why") !== row.why.length > 0;
            setAttribute(this.cells.why, "title", row.why.map((words) => words.filter(Boolean).join(": ")).join("\n"));
        }
        this.status.update(row.status, row, now, sinceOf(row, now));
    }
}

/** What an end has received and sent. */
function trafficOf(end) {
    const [rx, tx] = [end.measured?.rx_bytes, end.measured?.tx_bytes].map(bytes);
    return rx || tx ? t("list.traffic", { rx: rx || "?", tx: tx || "?" }) : "";
}

export class List {
    #views = new Map();
    #limit = FIRST;
    #shown = [];
    #open;
    #heads = {};

    /** `open` is called with a tunnel's id, `sort` with a column. */
    constructor(open, sort) {
        this.#open = open;
        for (const by of Object.keys(COLUMNS)) {
            const button = el("button", { on: { click: () => sort(by) } });
            this.#heads[by] = el("th", { scope: "col", class: by }, button);
        }
        $("heads").append(...Object.values(this.#heads));
        $("more").addEventListener("click", () => this.#grow());
        this.#watch();
        $("rows").addEventListener("keydown", (event) => this.#step(event));
    }

    /** The words of another language. */
    label() {
        for (const [by, head] of Object.entries(this.#heads)) setText(head.firstChild, t(COLUMNS[by]));
        for (const view of this.#views.values()) view.label();
    }

    /** Show rows from the top. */
    restart() {
        this.#limit = FIRST;
    }

    /** `changed`: the ids of the rows that are not as they were drawn; undefined for all. */
    render(rows, order, now, exists, changed) {
        this.#shown = rows;
        for (const [by, head] of Object.entries(this.#heads)) {
            setAttribute(head, "aria-sort", by !== order.by ? null : order.down ? "descending" : "ascending");
        }
        this.#place(now, changed);
        for (const id of this.#views.keys()) if (!exists(id)) this.#views.delete(id);
    }

    /** Draw again what has changed of these rows, by id, at its place. */
    refresh(changed, now) {
        for (const row of this.#shown.slice(0, this.#limit)) if (changed.has(row.id)) this.#views.get(row.id)?.update(row, now);
    }

    /** Ages grow. */
    tick(now) {
        for (const row of this.#shown.slice(0, this.#limit)) this.#views.get(row.id)?.update(row, now);
    }

    #place(now, changed) {
        const body = $("rows");
        const focused = document.activeElement;
        const at = body.contains(focused) ? [...body.rows].indexOf(focused.closest("tr")) : -1;
        const wanted = this.#shown.slice(0, this.#limit).map((row) => this.#view(row));
        const keep = new Set(wanted.map((view) => view.tr));
        for (const tr of [...body.rows]) if (!keep.has(tr)) tr.remove();
        let next = body.firstElementChild;
        wanted.forEach((view, place) => {
            if (!changed || changed.has(this.#shown[place].id) || !view.tr.isConnected) view.update(this.#shown[place], now);
            if (view.tr === next) next = next.nextElementSibling;
            else body.insertBefore(view.tr, next);
        });
        setAttribute($("more"), "hidden", this.#shown.length <= this.#limit);
        if (at >= 0 && document.activeElement !== focused) {
            const heir = focused.isConnected ? focused : body.rows[Math.min(at, body.rows.length - 1)]?.querySelector("button");
            (heir ?? $("search")).focus({ preventScroll: true });
        }
    }

    #view(row) {
        if (!this.#views.has(row.id)) this.#views.set(row.id, new Row(row, this.#open));
        return this.#views.get(row.id);
    }

    /** More rows as soon as the end is near. An observer reports changes only: who holds the End key is at the new end before
     *  the next frame, so that nothing seems to have changed. It is asked again after each growth. */
    #watch() {
        const near = ([seen], observer) => {
            if (!seen.isIntersecting) return;
            this.#grow();
            observer.unobserve(seen.target);
            observer.observe(seen.target);
        };
        new IntersectionObserver(near, { rootMargin: "600px" }).observe($("more"));
    }

    #grow() {
        if (this.#shown.length <= this.#limit) return;
        this.#limit += STEP;
        this.#place(Date.now());
    }

    /** Arrows go from tunnel to tunnel. */
    #step(event) {
        const ways = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" };
        const way = ways[event.key];
        if (!way) return;
        event.preventDefault();
        event.target.closest("tr")?.[way]?.querySelector("button").focus();
    }
}
