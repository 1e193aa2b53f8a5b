// SPDX-License-Identifier: AGPL-3.0-or-later
// What the panel tells by itself: a stream that is open while the tab is shown. A browser allows six connections to one panel, so
// that a hidden tab has to close it. By fetch, because the token goes into a header.

import { Problem, stream } from "./api.js";

const HEARD = 25_000; // milliseconds; the panel says something each ten seconds at least
const GREETED = 3000; // without a first word by then, the page asks as it did before, and still waits
const RESUMED = 10_000; // after a longer break all is read: what was missed does not say when it was so
const REPEATED = 1000; // for so long after the first word comes what was missed in a shorter one
const SOON = 1000; // the least until the next attempt, and
const SPREAD = 4000; // the time after it in which pages come back that one restart has cut off; twice that after each attempt, up to
const LONGEST = 60_000;
const ABSENT = [404, 405, 422]; // what a panel answers that knows no such call
const LARGEST = 64 * 1024 * 1024; // characters of one event; those of all tunnels are about a million for a thousand

/** Takes a stream apart: `push` gets text as it comes, and answers the events that are complete, as {name, data, id}. */
export class Parser {
    #text = "";
    #looked = 0; // up to there is no end of a line
    #event = { name: "message", data: [], id: undefined };

    push(text) {
        this.#text += text;
        if (this.#text.length > LARGEST) throw new Error("an event without an end");
        const found = [];
        let start = 0;
        for (;;) {
            const end = this.#text.indexOf("\n", Math.max(start, this.#looked));
            if (end < 0) break;
            this.#line(this.#text.slice(start, this.#text[end - 1] === "\r" ? end - 1 : end), found);
            start = end + 1;
        }
        this.#text = this.#text.slice(start);
        this.#looked = this.#text.length;
        return found;
    }

    /** Whether a part of an event is here. Comments are none. */
    get within() {
        return this.#event.data.length > 0 || (this.#text !== "" && !this.#text.startsWith(":"));
    }

    #line(line, found) {
        const event = this.#event;
        if (line === "") {
            this.#event = { name: "message", data: [], id: undefined };
            if (event.data.length) found.push({ ...event, data: event.data.join("\n") });
            return;
        }
        const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line);
        if (field === "event") event.name = value;
        else if (field === "data") event.data.push(value);
        else if (field === "id") event.id = value;
    }
}

export class Events {
    #take;
    #state;
    #last = ""; // the id of the last event that was taken
    #heard = 0; // when something came
    #ended = -Infinity; // when the last stream did
    #missed = [0, 0]; // until the first moment, what comes is taken as if it had come at the second
    #run = 0; // the loop that counts; 0 for none
    #stop = new AbortController(); // of the stream that is open
    #wake = () => {};
    #absent = false;
    #mute = false; // the last stream said nothing for too long: the next one counts from its first event on, not from its greeting
    on = false; // whether what the page knows comes by the stream

    /** `take` is called with the name of an event, its data and the moment at which it came, `state` with whether events come. */
    constructor(take, state) {
        this.#take = take;
        this.#state = state;
        document.addEventListener("visibilitychange", () => {
            if (document.hidden) this.#stop.abort();
            else this.#wake();
        });
        addEventListener("online", () => this.#wake());
    }

    stop() {
        [this.#run, this.#last] = [0, ""];
        this.#stop.abort();
        this.#wake();
        this.#tell(false);
    }

    async start() {
        const run = performance.now();
        this.#run = run;
        for (let failures = 0; run === this.#run && !this.#absent; ) {
            if (document.hidden) {
                await this.#sleep(LONGEST);
                continue;
            }
            const lasted = await this.#once(run);
            if (run !== this.#run) return;
            if (document.hidden) continue; // the page goes on with it when it is shown
            this.#tell(false);
            failures = lasted ? 1 : failures + 1;
            if (!this.#absent) await this.#sleep(Math.min(LONGEST, SOON + Math.random() * SPREAD * 2 ** (failures - 1)));
        }
    }

    #tell(on) {
        if (on === this.on) return;
        this.on = on;
        this.#state(on);
    }

    /** Listen as long as there is something to be heard; whether that was longer than it takes to be greeted. */
    async #once(run) {
        const stop = new AbortController();
        this.#stop = stop;
        const parser = new Parser();
        const decoder = new TextDecoder();
        const patience = setTimeout(() => this.#tell(false), GREETED);
        if (Math.abs(Date.now() - this.#ended) > RESUMED) {
            this.#last = "";
            this.#tell(false);
        }
        const before = this.#heard;
        this.#heard = Date.now();
        const silent = () => {
            this.#mute = beats > 0;
            stop.abort();
        };
        let silence = setTimeout(silent, HEARD);
        let beats = 0;
        try {
            const answer = await stream("tunnels/events", this.#last, stop.signal);
            if (!answer.ok) {
                this.#absent = ABSENT.includes(answer.status);
                return false;
            }
            if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream")) return false;
            for (const reader = answer.body.getReader(); ; ) {
                const { done, value } = await reader.read();
                // A computer that slept has what came before that still in its buffers: it is not news any more
                if (done || run !== this.#run || stop.signal.aborted || Date.now() - this.#heard > HEARD) return beats > 1;
                // A piece may be cut anywhere, and hold a comment and events
                const told = parser.push(decoder.decode(value, { stream: true }));
                if (!told.length && !parser.within) continue; // only the connection lives; the panel has not looked at its database
                this.#heard = Date.now();
                clearTimeout(silence);
                silence = setTimeout(silent, HEARD);
                for (const event of told) {
                    this.#got(event, before, patience);
                    beats += 1;
                }
            }
        } catch (problem) {
            if (!(problem instanceof Problem || problem instanceof TypeError || problem.name === "AbortError")) {
                this.#last = ""; // not what was agreed upon: begin again
                console.warn(problem);
            }
            return beats > 1;
        } finally {
            clearTimeout(patience);
            clearTimeout(silence);
            stop.abort();
            this.#ended = beats ? Date.now() : this.#ended;
            if (!beats) this.#heard = before;
        }
    }

    #got({ name, data, id }, before, patience) {
        const told = JSON.parse(data);
        const now = Date.now();
        if (name === "hello") {
            this.#missed = told.resumed ? [now + REPEATED, Math.min(before, now)] : [0, 0];
        } else this.#mute = false;
        if (!this.#mute) {
            clearTimeout(patience);
            this.#tell(true);
        }
        const [until, moment] = this.#missed;
        this.#take(name, told, now < until ? moment : now);
        this.#last = id ?? this.#last;
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
