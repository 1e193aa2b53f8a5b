// SPDX-License-Identifier: AGPL-3.0-or-later
// What events have changed is drawn once per frame, however many came in it.

export class Soon {
    #draw;
    #ids = null; // of the tunnels that have changed since the last frame; null where no frame is asked for
    #what = {};

    /** `draw` is called with the ids of tunnels, and what else was asked for. */
    constructor(draw) {
        this.#draw = draw;
    }

    add(ids, what = {}) {
        if (!this.#ids) {
            this.#ids = new Set();
            requestAnimationFrame(() => {
                const [all, asked] = [this.#ids, this.#what];
                [this.#ids, this.#what] = [null, {}];
                this.#draw(all, asked);
            });
        }
        for (const id of ids) this.#ids.add(id);
        for (const [name, is] of Object.entries(what)) this.#what[name] ||= is;
    }
}
