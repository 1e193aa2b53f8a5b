// SPDX-License-Identifier: AGPL-3.0-or-later
// Reads again and again: every five seconds, each second for a while after a change, more seldom from a panel that is slow
// or away or that tells by itself what is new, not in a hidden tab.

const EVERY = 5000; // milliseconds
const RESTING = 30_000; // the same while the panel tells by itself
const HURRY = 1000; // the same after a change that nodes do by themselves, so that it is seen
const HURRIED = 10_000; // for that long
const SLOWEST = 30_000;
const SHARE = 4; // a read that took a second is followed by four of rest

export class Poll {
    #read;
    #got;
    #failed;
    #wake = () => {};
    #again = false;
    #changes = 0;
    #hurried = 0; // until then
    #resting = false;
    #run = 0; // the loop that counts; 0 for none

    /** `read` gets the data, `got` takes it, `failed` takes the problem. */
    constructor(read, got, failed) {
        [this.#read, this.#got, this.#failed] = [read, got, failed];
        document.addEventListener("visibilitychange", () => this.#resting || this.now());
        addEventListener("online", () => this.now());
    }

    /** Read now. `changed`: what is being read at this moment is old. */
    now(changed = false) {
        if (changed) this.#changes += 1;
        this.#again = true;
        this.#wake();
    }

    /** Read now, and often for a while: nodes are doing something. */
    hurry() {
        this.#hurried = performance.now() + HURRIED;
        this.now(true);
    }

    /** Whether the panel tells by itself what is new. Where it no longer does, pages do not all ask in the same instant. */
    rest(on) {
        this.#resting = on;
        if (!on) setTimeout(() => this.#resting || this.now(), Math.random() * EVERY);
    }

    stop() {
        this.#run = 0;
        this.#wake();
    }

    async start() {
        const run = performance.now();
        this.#run = run;
        let failures = 0;
        while (run === this.#run) {
            if (document.hidden) {
                await this.#sleep(SLOWEST);
                continue;
            }
            this.#again = false;
            const started = performance.now();
            failures = (await this.#once(run)) ? 0 : failures + 1;
            const usual = this.#resting && !failures ? RESTING : EVERY;
            const every = performance.now() < this.#hurried ? HURRY : usual;
            const rest = Math.max(every * 2 ** Math.max(0, failures - 2), SHARE * (performance.now() - started));
            if (!this.#again && run === this.#run) await this.#sleep(Math.min(rest, SLOWEST));
        }
    }

    async #once(run) {
        const before = this.#changes;
        try {
            const data = await this.#read();
            if (run !== this.#run) return true;
            if (before === this.#changes) this.#got(data);
            else this.#again = true;
            return true;
        } catch (problem) {
            if (run === this.#run) this.#failed(problem);
            return false;
        }
    }

    #sleep(time) {
        return new Promise((resolve) => {
            const timer = setTimeout(resolve, time);
            this.#wake = () => {
                clearTimeout(timer);
                resolve();
            };
        });
    }
}
