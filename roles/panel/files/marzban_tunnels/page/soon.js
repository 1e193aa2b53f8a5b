// SPDX-License-Identifier: AGPL-3.0-or-later
// What events have changed is drawn once per frame, however many came in it; what was only measured, five times per second at most.

const APART = 200; // milliseconds; twenty nodes measure each second, and nobody reads numbers faster

export class Soon {
    #draw;
    #ids = new Set(); // of the tunnels that have changed since they were drawn
    #what = {};
    #timer = null; // until a frame is asked for
    #asked = false; // a frame is
    #drawn = -Infinity;

    /** `draw` is called with the ids of tunnels, and what else was asked for. */
    constructor(draw) {
        this.#draw = draw;
    }

    /** `what`: names of what has to be drawn beside measurements. */
    add(ids, what = {}) {
        for (const id of ids) this.#ids.add(id);
        for (const [name, is] of Object.entries(what)) this.#what[name] ||= is;
        if (this.#asked) return;
        const wait = Object.keys(what).length ? 0 : APART - (performance.now() - this.#drawn);
        if (wait <= 0) this.#ask();
        else this.#timer ??= setTimeout(() => this.#ask(), wait);
    }

    #ask() {
        clearTimeout(this.#timer);
        [this.#timer, this.#asked] = [null, true];
        requestAnimationFrame(() => {
            const [ids, what] = [this.#ids, this.#what];
            [this.#ids, this.#what, this.#asked, this.#drawn] = [new Set(), {}, false, performance.now()];
            this.#draw(ids, what);
        });
    }
}
