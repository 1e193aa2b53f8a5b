// SPDX-License-Identifier: AGPL-3.0-or-later
// One tunnel in full, and what can be done with it. What is shown is changed in place while it is open.

import { others, parseConfig } from "./config.js";
import { $, bdi, el, setAttribute, setText, show } from "./dom.js";
import { History } from "./history.js";
import { ago, bytes, chosen, date, days, duration, milliseconds, moment, number, percent, seconds, t } from "./i18n.js";
import { guideLink, lead } from "./guide.js";
import { StatusView } from "./list.js";
import { ageNow, reportOf, sinceOf, staleAfter } from "./model.js";

const text = (value) => (value === null || value === undefined ? "" : String(value));
const lines = (value) => (Array.isArray(value) ? value.map(String).join("\n") : "");
const numeral = (value) => (Number.isFinite(value) ? number(value) : text(value));
const ROLES = ["field.source", "field.target"];
const bytesOf = (value) => (Number.isFinite(value) ? t("value.bytes", { count: number(value) }) : "");
const yes = (value) => (value === true ? t("page.yes") : value === false ? t("page.no") : "");

// Facts of the tunnel, out of its row and its config
const FACTS = {
    "field.type": (row) => row.typeLabel,
    "field.mtu": (_row, config) => numeral(config.mtu) || t("value.node_finds"),
    "field.dial": (_row, config) => chosen(config.dial ?? "both"),
    "field.transport": (_row, config) => chosen(config.transport ?? "udp"),
    "field.keepalive": (_row, config) => seconds(config.keepalive ?? 25) || text(config.keepalive),
    "field.post_quantum": (_row, config) => chosen(config.post_quantum ?? "auto"),
    "field.other": (_row, config) => others(config),
    "field.version": (row) => number(row.record.version),
    "field.updated": (row) => moment(row.record.updated_at),
    "field.uuid": (row) => text(row.record.uuid),
};

// Facts of an end; `code` ones are read from left to right
const END_FACTS = {
    "field.endpoint": (end) => text(end.endpoint),
    "field.port": (end) => text(end.port),
    "field.endpoint_port": (end) => (end.endpoint_port === end.port ? "" : text(end.endpoint_port)),
    "field.addresses": (end) => lines(end.addresses),
    "field.interface": (end) => text(end.interface),
    "field.routes": (end) => lines(end.routes),
    "field.by": (end, row, now) => reporter(end, row, now),
    "field.stale_after": (end) => (Number.isFinite(end.age) ? duration(staleAfter(end)) : ""),
    "field.handshake": (end, row, now) => (Number.isFinite(end.measured?.handshake_age) && Number.isFinite(end.age) ? ago(ageNow(end.measured.handshake_age + end.age, row.received, now)) : ""),
    "field.rtt": (end) => milliseconds(end.measured?.rtt_ms),
    "field.path_mtu": (end) => bytesOf(end.measured?.mtu),
    "field.loss": (end) => percent(end.measured?.loss_percent),
    "field.received": (end) => bytes(end.measured?.rx_bytes),
    "field.sent": (end) => bytes(end.measured?.tx_bytes),
    "field.cipher": (end) => text(end.measured?.cipher),
    "field.key_exchange": (end) => text(end.measured?.key_exchange),
    "field.pq_seen": (end) => yes(end.measured?.post_quantum),
    "field.data_path": (end) => (end.measured?.data_path ? chosen(end.measured.data_path) : ""),
    "field.certificate": (end) => days(end.measured?.certificate_days),
    "field.changed_key": (end) => lines(end.changed_key && [end.changed_key.seen, text(end.changed_key.seen_fingerprint)]),
    "field.public_key": (end) => text(end.public?.public_key),
    "field.next_public_key": (end) => text(end.public?.next_public_key),
    "field.accepts_public_key": (end) => text(end.public?.accepts_public_key),
    "field.fingerprint": (end) => short(end.public?.fingerprint),
    "field.next_fingerprint": (end) => short(end.public?.next_fingerprint),
    "field.accepts": (end) => short(end.public?.accepts),
    "field.psk": (end) => short(end.public?.psk_fingerprint),
};
const CODE = /\.(endpoint|port|endpoint_port|addresses|interface|routes|cipher|key_exchange|changed_key|\w*public_key|\w*fingerprint|accepts|psk|uuid|other)$/;

/** Who measured an end, and when. */
function reporter(end, row, now) {
    const age = ageNow(end.age, row.received, now);
    if (age === null) return "";
    return { service: t("value.by_service", { ago: ago(age) }), run: t("value.by_run", { ago: ago(age) }) }[end.by] ?? "";
}

/** The first and last digits of a SHA-256, as people compare them. */
const short = (print) => (print ? String(print).replace(/^(.{16}).{16,}(.{16})$/, "$1…$2") : "");

export class Detail {
    #id = null;
    #facts = {};
    #endFacts = {};
    #status = new StatusView();
    #ends = [new StatusView(), new StatusView()];
    #errors = [0, 1].map(() => [el("b"), el("bdi", { dir: "auto" }), guideLink()]);
    #heads = [0, 1].map(() => [el("small"), bdi()]);
    #history = new History();
    #row;

    /** `edit`, `toggle`, `remove` are called with the row. */
    constructor({ edit, toggle, remove }) {
        this.dialog = $("detail");
        this.dialog.querySelector(".close").addEventListener("click", () => this.dialog.close());
        $("detail-edit").addEventListener("click", () => edit(this.#row));
        $("detail-switch").addEventListener("click", () => toggle(this.#row));
        $("detail-delete").addEventListener("click", () => remove(this.#row));
        this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
        $("detail-status").append(...this.#status.nodes);
        this.#heads.forEach((parts, place) => $("detail-ends").tHead.rows[0].cells[place + 1].append(...parts));
        for (const parts of this.#errors) $("detail-errors").append(el("p", { class: "problem" }, ...parts));
        for (const key of Object.keys(FACTS)) this.#facts[key] = this.#line("detail-facts", key, 1);
        const status = this.#line("detail-ends", "field.status", 2);
        status.cells.forEach((cell, place) => cell.append(...this.#ends[place].nodes));
        this.#endFacts["field.status"] = status;
        for (const key of Object.keys(END_FACTS)) this.#endFacts[key] = this.#line("detail-ends", key, 2);
    }

    #line(table, key, width) {
        const head = el("th", { scope: "row" });
        const code = CODE.test(key);
        const cells = Array.from({ length: width }, () => el("td", { class: code ? "code" : null, dir: code ? "ltr" : null }));
        const tr = el("tr", {}, head, ...cells);
        $(table).tBodies[0].append(tr);
        return { head, cells, tr };
    }

    open(row, now) {
        this.#id = row.id;
        this.problem("");
        this.#history.open(row.id);
        this.update(row, now);
        show(this.dialog);
        this.dialog.scrollTop = 0;
    }

    get id() {
        return this.dialog.open ? this.#id : null;
    }

    close() {
        this.dialog.close();
    }

    problem(sentence) {
        setText($("detail-problem"), sentence);
        $("detail-problem").hidden = !sentence;
    }

    update(row, now) {
        this.#row = row;
        const config = parseConfig(row.record.config);
        setText($("detail-name"), row.label);
        setText($("detail-switch"), row.record.is_active ? t("tunnel.deactivate") : t("tunnel.activate"));
        const since = sinceOf(row, now);
        this.#status.update(row.status, row, now, since);
        setText($("detail-since"), since === null ? "" : t("status.since", { moment: date(since, "moment") }));
        this.#history.update(row, now);
        for (const [key, fact] of Object.entries(FACTS)) this.#put(this.#facts[key], key, [fact(row, config)]);
        row.ends.forEach((end, place) => {
            const [role, name] = this.#heads[place];
            setText(role, t(ROLES[place]));
            setText(name, row.nodes[place]);
            this.#ends[place].update(end.status ?? null, reportOf(end, row), now);
            const [who, what, guide] = this.#errors[place];
            setText(who, row.nodes[place]);
            setText(what, text(end.error));
            lead(guide, end.symptom);
            setAttribute(who.parentElement, "class", end.error && end.status !== "active" ? "problem" : "hint");
            who.parentElement.hidden = !end.error && guide.hidden;
        });
        setText(this.#endFacts["field.status"].head, t("field.status"));
        for (const [key, fact] of Object.entries(END_FACTS)) this.#put(this.#endFacts[key], key, row.ends.map((end) => fact(end, row, now)));
        for (const { cells } of Object.values(this.#endFacts)) cells.forEach((cell, place) => setAttribute(cell, "data-label", row.nodes[place]));
    }

    #put({ head, cells, tr }, key, values) {
        setText(head, t(key));
        cells.forEach((cell, place) => setText(cell, values[place]));
        tr.hidden = !values.some(Boolean);
    }
}
