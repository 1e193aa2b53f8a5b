// SPDX-License-Identifier: AGPL-3.0-or-later
// The drawing of how a tunnel was: a strip (up, down, switched off, nobody measured), the round trip, the loss. One path for each
// kind, however many periods there are. Where one reads from right to left, time goes so too, as all of the page does.

import { setAttribute, svg } from "./dom.js";
import { date, milliseconds, number } from "./i18n.js";

const STRIP = 26; // heights, in pixels
const UNDER = { top: 31, bottom: 34 }; // a line below what was down, for who does not tell red from green
const LINE = { top: 36, bottom: 88 };
const LOSS = { top: 96, bottom: 110 };
const HEIGHT = 128;
const SMALLEST = 6; // of what was down, so that a minute in a month is seen
const LOSSY = 20; // percent, that fill the height
const AHEAD = 6; // times the highest median; a worst value above that is cut, or the line would be flat
const APART = 70; // pixels between two times of the axis at least
const STEPS = { day: [3, 6, 12], month: [24, 72, 168, 336] }; // hours

const round = (value) => Math.round(value * 10) / 10;

/** Rectangles as one path; neighbours of one height are one. */
class Bars {
    #d = "";
    #run = null;

    add(from, to, top, bottom) {
        const run = this.#run;
        if (run && run.to === from && run.top === top && run.bottom === bottom) {
            run.to = to;
            return;
        }
        this.#end();
        if (bottom - top > 0) this.#run = { from, to, top, bottom };
    }

    #end() {
        if (!this.#run) return;
        const { from, to, top, bottom } = this.#run;
        this.#d += `M${from} ${round(top)}H${to}V${round(bottom)}H${from}z`;
        this.#run = null;
    }

    get path() {
        this.#end();
        return this.#d;
    }
}

export class Chart {
    #parts = {};
    #ticks = svg("g", { class: "ticks" });
    #span;
    #width;
    rtl = false;

    constructor() {
        const path = (name) => (this.#parts[name] = svg("path", { class: name }));
        const hatch = svg("pattern", { id: "unmeasured", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("path", { class: "hatch", d: "M0 0V6" }));
        this.cursor = svg("path", { class: "cursor" });
        this.most = svg("text", { class: "most", y: LINE.top + 9, direction: "ltr" });
        this.svg = svg(
            "svg", { height: HEIGHT, "aria-hidden": "true", focusable: "false" },
            svg("defs", {}, hatch), path("gap"), path("up"), path("off"), path("down"), path("under"), path("worst"), path("rtt"), path("loss"),
            svg("path", { class: "ground", d: `M0 ${LINE.bottom + 0.5}H9999M0 ${LOSS.bottom + 0.5}H9999` }), this.most, this.#ticks, this.cursor,
        );
        setAttribute(this.#parts.gap, "fill", "url(#unmeasured)");
    }

    /** Where a moment is, in pixels. */
    #x(at) {
        const { from, to } = this.#span;
        const share = (at - from) / (to - from);
        return round((this.rtl ? 1 - share : share) * this.#width);
    }

    /** The period that is drawn there. */
    at(x) {
        const share = Math.min(0.9999, Math.max(0, x / this.#width));
        return Math.floor((this.rtl ? 1 - share : share) * this.#span.periods.length);
    }

    draw(span, name, width) {
        [this.#span, this.#width] = [span, width];
        this.rtl = document.documentElement.dir === "rtl";
        setAttribute(this.svg, "viewBox", `0 0 ${width} ${HEIGHT}`);
        setAttribute(this.svg, "width", width);
        this.#strip();
        this.#line();
        this.#axis(name);
        this.point(null);
    }

    #strip() {
        const bars = { gap: new Bars(), up: new Bars(), off: new Bars(), down: new Bars(), under: new Bars(), loss: new Bars() };
        const ends = [this.#x(this.#span.from), this.#x(this.#span.periods.at(-1).to)];
        bars.gap.add(Math.min(...ends), Math.max(...ends), 0, STRIP);
        for (const period of this.#span.periods) {
            const length = period.to - period.from;
            if (length <= 0) continue;
            const [from, to] = [this.#x(period.from), this.#x(period.to)];
            const height = (kind, least) => (period[kind] > 0 ? Math.max(least, (period[kind] / length) * STRIP) : 0);
            const down = STRIP - Math.min(STRIP, height("down", SMALLEST));
            const up = Math.max(0, down - height("up", 0));
            bars.down.add(from, to, down, STRIP);
            bars.under.add(from, to, down < STRIP ? UNDER.top : UNDER.bottom, UNDER.bottom);
            bars.up.add(from, to, up, down);
            bars.off.add(from, to, Math.max(0, up - height("off", 0)), up);
            const loss = Math.min(1, (period.loss ?? 0) / LOSSY) * (LOSS.bottom - LOSS.top);
            bars.loss.add(from, to, loss > 0 ? LOSS.bottom - Math.max(2, loss) : LOSS.bottom, LOSS.bottom);
        }
        for (const [kind, of] of Object.entries(bars)) setAttribute(this.#parts[kind], "d", of.path);
    }

    #line() {
        const known = this.#span.periods.filter(({ rtt }) => rtt !== undefined);
        const median = known.reduce((most, { rtt }) => Math.max(most, rtt), 0);
        const top = Math.min(AHEAD * median, known.reduce((most, { rtt, worst }) => Math.max(most, rtt, worst ?? 0), 0)) || 1;
        const y = (value) => round(LINE.bottom - (Math.min(value, top) / top) * (LINE.bottom - LINE.top));
        let [rtt, worst] = ["", ""];
        let run = [];
        const end = () => {
            if (!run.length) return;
            const at = (place) => [this.#x(run[place].from), this.#x(run[place].to)];
            const steps = (value) => run.map((period, place) => `${at(place)[0]} ${y(value(period))}L${at(place)[1]} ${y(value(period))}`).join("L");
            const back = [...run].reverse().map((period) => `${this.#x(period.to)} ${y(period.rtt)}L${this.#x(period.from)} ${y(period.rtt)}`).join("L");
            rtt += `M${steps((period) => period.rtt)}`;
            worst += `M${steps((period) => period.worst ?? period.rtt)}L${back}z`;
            run = [];
        };
        for (const period of this.#span.periods) {
            if (period.rtt === undefined) end();
            else run.push(period);
        }
        end();
        setAttribute(this.#parts.rtt, "d", rtt);
        setAttribute(this.#parts.worst, "d", worst);
        this.most.textContent = known.length ? milliseconds(top) : "";
        setAttribute(this.most, "x", this.rtl ? this.#width - 3 : 3);
        setAttribute(this.most, "text-anchor", this.rtl ? "end" : "start");
    }

    #axis(name) {
        const { from, to } = this.#span;
        const hours = STEPS[name].find((step) => ((step * 3600) / (to - from)) * this.#width >= APART) ?? STEPS[name].at(-1);
        const first = new Date(from * 1000);
        first.setHours(0, 0, 0, 0);
        const ticks = [];
        for (let at = first; at.getTime() / 1000 < to; ) {
            const x = this.#x(at.getTime() / 1000);
            if (x > 20 && x < this.#width - 20) {
                const words = hours < 24 ? date(at, "clock") : date(at, "day");
                ticks.push(svg("path", { d: `M${x} ${STRIP}v4` }), svg("text", { x, y: HEIGHT - 4, "text-anchor": "middle" }, words));
            }
            at = new Date(at);
            at.setHours(at.getHours() + hours); // of the reader's clock, also on the day on which it is set
        }
        this.#ticks.replaceChildren(...ticks);
    }

    /** Point at a period; null for none. */
    point(place) {
        const period = place === null ? null : this.#span.periods[place];
        setAttribute(this.cursor, "d", period ? `M${this.#x((period.from + period.to) / 2)} 0V${LOSS.bottom}` : null);
    }
}

/** A share as people read it: never 100 % of what is not all. */
export const share = (part, all) => number(Math.floor((part / all) * 10_000) / 100);
