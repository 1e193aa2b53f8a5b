// SPDX-License-Identifier: AGPL-3.0-or-later
// How a tunnel was, in its dialog: read when that opens, each minute while it is open, and when its status changes.

import { call, Problem, there } from "./api.js";
import { Chart, share } from "./chart.js";
import { $, el, mark, setAttribute, setText } from "./dom.js";
import { bytes, date, duration, english, lasting, milliseconds, number, percent, t } from "./i18n.js";
import { STATUS_WORDS } from "./list.js";
import { changesOf, spanOf, totalOf } from "./past.js";
import { explain } from "./problems.js";

const EVERY = 60_000; // milliseconds
const AFTER = 1500; // after a change of the status the panel has to write it down
const FEW = 6; // changes that are shown at first
const KINDS = { up: "history.up", down: "history.down", off: "history.off", gap: "history.gap" };
const LINES = { rtt: "field.rtt", worst: "history.worst", loss: "field.loss" };
const PARTS = ["history-spans", "history-summary", "history-chart", "history-words", "history-changes", "history-more"];
const SPAN_WORDS = { day: "history.day", month: "history.month" };

export class History {
    #id = null;
    #history = null;
    #span = "day";
    #drawn; // the span that is drawn
    #next = 0; // when it is read again
    #status = ""; // of the tunnel, when it was read
    #read = 0; // counts the reads; what comes later than a newer one is dropped
    #absent = false;
    #all = false; // all changes are shown
    #place = null; // the period that is pointed at
    #chart = new Chart();

    constructor() {
        this.box = $("detail-history");
        $("history-chart").append(this.#chart.svg);
        for (const name of Object.keys(SPAN_WORDS)) {
            $("history-spans").append(el("button", { class: "chip", "data-span": name, on: { click: () => this.#choose(name) } }));
        }
        const chart = $("history-chart");
        chart.addEventListener("pointermove", (event) => this.#point(this.#chart.at(event.clientX - chart.getBoundingClientRect().left)));
        chart.addEventListener("pointerleave", () => this.#point(null));
        chart.addEventListener("blur", () => this.#point(null));
        chart.addEventListener("focus", () => this.#point(this.#drawn ? this.#drawn.periods.length - 1 : null));
        chart.addEventListener("keydown", (event) => this.#key(event));
        new ResizeObserver(() => this.#history && this.#draw()).observe(chart);
        $("history-more").addEventListener("click", () => {
            this.#all = true;
            this.#list();
            $("history-changes").children[FEW]?.focus(); // the button is hidden now
        });
    }

    /** Of another tunnel, or of the same one again. */
    open(id) {
        [this.#id, this.#history, this.#drawn, this.#next, this.#all, this.#place] = [id, null, undefined, 0, false, null];
        this.#read += 1;
        this.#problem("");
        this.box.hidden = true;
        for (const part of PARTS) $(part).hidden = true; // also where the read fails: they are another tunnel's
    }

    /** Called each second while the dialog is open. */
    update(row, now) {
        if (this.#absent || row.id !== this.#id) return;
        if (this.#history && row.record.status !== this.#status) {
            this.#status = row.record.status;
            this.#next = Math.min(this.#next, now + AFTER);
        }
        if (now < this.#next) return;
        this.#next = now + EVERY;
        this.#status = row.record.status;
        this.#ask();
    }

    async #ask() {
        const read = ++this.#read;
        try {
            const history = await call("GET", `tunnels/${this.#id}/history`);
            if (read !== this.#read) return;
            this.#history = history;
            this.#problem("");
            this.#show();
        } catch (problem) {
            if (!(problem instanceof Problem)) throw problem;
            if (read !== this.#read) return;
            this.#absent = [405, 422].includes(problem.status) || (problem.status === 404 && problem.message === "Not Found");
            if (!this.#absent && problem.status !== 404) this.#problem(explain(problem));
        }
    }

    #problem(sentence) {
        setText($("history-problem"), sentence);
        $("history-problem").hidden = !sentence;
        if (sentence) this.box.hidden = false;
    }

    #choose(name) {
        [this.#span, this.#place] = [name, null];
        this.#show();
    }

    #show() {
        for (const part of PARTS) $(part).hidden = false;
        this.box.hidden = false;
        for (const button of $("history-spans").children) {
            setText(button, t(SPAN_WORDS[button.dataset.span]));
            setAttribute(button, "aria-pressed", String(button.dataset.span === this.#span));
        }
        const keys = Object.entries({ ...KINDS, ...LINES }).map(([kind, key]) => el("span", { class: `key ${kind}` }, t(key)));
        $("history-legend").replaceChildren(...keys);
        this.#draw();
        this.#list();
    }

    #draw() {
        this.#drawn = spanOf(this.#history, this.#span, there(Date.now()) / 1000);
        this.#chart.draw(this.#drawn, this.#span, $("history-chart").clientWidth || 600);
        setText($("history-summary"), this.#summary());
        setAttribute($("history-chart"), "aria-label", t("history.title"));
        setAttribute($("history-chart"), "aria-valuemax", this.#drawn.periods.length - 1);
        this.#point(this.#place);
    }

    /** When it broke, and how it was, in sentences. */
    #summary() {
        const { up, down, off, gap, breaks } = totalOf(this.#drawn, this.#history);
        const { now } = this.#drawn;
        const last = breaks.at(-1);
        const words = [];
        if (last?.to === null) words.push(t("history.broken", { moment: date(last.from * 1000, "short"), time: lasting(now - last.from) }));
        if (up + down <= 0) words.push(t("history.nothing"));
        else if (down <= 0) words.push(...(last ? [] : [t("history.well")])); // what has just broken is not in the sums yet
        else words.push(t("history.was", { share: share(up, up + down), time: lasting(down) }));
        if (last && last.to !== null) words.push(t("history.broke", { count: number(breaks.length), moment: date(last.from * 1000, "short"), time: lasting(last.to - last.from) }));
        if (up + down > 0 && gap > (now - this.#drawn.from) / 50) words.push(t("history.unmeasured", { time: lasting(gap) }));
        if (off > 0) words.push(t("history.was_off", { time: lasting(off) }));
        return words.join(" ");
    }

    #point(place) {
        this.#place = place;
        if (!this.#drawn) return;
        const words = place === null ? "" : this.#words(this.#drawn.periods[place]);
        this.#chart.point(place);
        setText($("history-point"), words);
        setAttribute($("history-chart"), "aria-valuenow", place ?? this.#drawn.periods.length - 1);
        setAttribute($("history-chart"), "aria-valuetext", words || $("history-summary").textContent);
    }

    #words(period) {
        const parts = [t("history.from_to", { from: date(period.from * 1000, "short"), to: date((period.from + this.#drawn.size) * 1000, "clock") })];
        for (const [kind, key] of Object.entries(KINDS)) if (period[kind] >= 0.5) parts.push(`${t(key)} ${duration(period[kind])}`);
        if (period.rtt !== undefined) parts.push(`${t("field.rtt")} ${milliseconds(period.rtt)}`);
        if (period.worst !== undefined) parts.push(`${t("history.worst")} ${milliseconds(period.worst)}`);
        if (period.loss !== undefined) parts.push(`${t("field.loss")} ${percent(period.loss)}`);
        if (period.bytes > 0) parts.push(bytes(period.bytes));
        return parts.join(" · ");
    }

    #key(event) {
        const last = this.#drawn ? this.#drawn.periods.length - 1 : 0;
        const ahead = this.#chart.rtl ? -1 : 1;
        const from = this.#place ?? last;
        const ways = { ArrowRight: from + ahead, ArrowLeft: from - ahead, ArrowUp: from + 1, ArrowDown: from - 1, PageUp: from + 12, PageDown: from - 12, Home: 0, End: last };
        if (!Object.hasOwn(ways, event.key)) return;
        event.preventDefault();
        this.#point(Math.min(last, Math.max(0, ways[event.key])));
    }

    /** The changes of the status, the newest first. */
    #list() {
        const now = there(Date.now()) / 1000;
        const changes = changesOf(this.#history).reverse();
        const shown = this.#all ? changes : changes.slice(0, FEW);
        $("history-changes").replaceChildren(...shown.map(({ status, error, from, to }) => {
            const known = Object.hasOwn(STATUS_WORDS, status);
            const sign = known ? status : "connecting";
            const lasted = lasting(Math.max(0, (to ?? now) - from));
            return el(
                "li", { tabindex: "-1" },
                el("time", { datetime: new Date(from * 1000).toISOString() }, date(from * 1000, "short")),
                el("span", { class: "state", "data-status": sign }, mark(sign), el("span", {}, known ? t(STATUS_WORDS[status]) : status)),
                el("span", { class: "lasted" }, to === null ? t("history.so_far", { time: lasted }) : lasted),
                el("bdi", { dir: "auto" }, english(error)),
            );
        }));
        $("history-more").hidden = shown.length === changes.length;
        setText($("history-more"), t("history.all", { count: number(changes.length) }));
    }
}
