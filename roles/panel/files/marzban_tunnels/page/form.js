// SPDX-License-Identifier: AGPL-3.0-or-later
// Creating and editing a tunnel. Only what was changed is sent; what somebody else changed meanwhile is merged, and
// where both changed the same, both are shown.

import { $, setText, show } from "./dom.js";
import { call, Problem } from "./api.js";
import { parseConfig, put } from "./config.js";
import { hint, makeFields } from "./fields.js";
import { t } from "./i18n.js";
import { explain, said } from "./problems.js";

const ROLES = { source: "field.source", target: "field.target" };
const NEW = { name: null, tunnel_type: "wireguard", is_active: true, config: "{}" };

export class Form {
    #fields = makeFields();
    #byName = new Map(this.#fields.map((field) => [field.name, field]));
    #record = null; // the one that is edited, as it is on the panel; null for a new one
    #base = new Map(); // texts that stand for it
    #saved;
    #warned = false;
    #busy = false;

    /** `saved` is called with the panel's answer, and whether it is new. */
    constructor(saved) {
        this.#saved = saved;
        this.dialog = $("form");
        this.dialog.querySelector(".close").addEventListener("click", () => this.#leave());
        $("form-cancel").addEventListener("click", () => this.#leave());
        this.dialog.addEventListener("cancel", (event) => {
            if (this.#changed().length && !this.#warned) event.preventDefault();
            this.#leave();
        });
        this.dialog.querySelector("form").addEventListener("submit", (event) => {
            event.preventDefault();
            this.#save();
        });
        this.dialog.addEventListener("input", () => this.#warn(false));
        for (const role of Object.keys(ROLES)) this.#field(`${role}_node_id`).control.addEventListener("input", () => this.#ends());
    }

    #field(name) {
        return this.#byName.get(name);
    }

    /** Open for a record, or with null for a new one. */
    open(record, nodes) {
        this.#record = record;
        for (const field of this.#fields) {
            field.label(nodes);
            field.say("");
        }
        const start = record ?? { ...NEW, source_node_id: nodes[0]?.id, target_node_id: nodes[1]?.id };
        this.#base = this.#texts(start);
        for (const [field, text] of this.#base) field.text = text;
        hint(this.#fields, record);
        this.#ends();
        setText($("form-title"), record ? t("form.edit", { name: record.name ?? `#${record.id}` }) : t("form.create"));
        this.#problem(nodes.length < 2 ? t("form.two_nodes") : "");
        this.#warn(false);
        $("form-more").open = Boolean(record) && record.config !== "{}";
        show(this.dialog);
        this.#field("name").control.focus();
        this.dialog.scrollTop = 0;
    }

    #texts(record) {
        const config = parseConfig(record.config);
        return new Map(this.#fields.map((field) => [field, field.textOf(record, config)]));
    }

    #ends() {
        for (const [role, key] of Object.entries(ROLES)) {
            const field = this.#field(`${role}_node_id`);
            setText($(`form-${role}`), t(key) + (field.text ? `: ${field.shown(field.text)}` : ""));
        }
    }

    #changed() {
        return this.#fields.filter((field) => field.text !== this.#base.get(field));
    }

    /** What is to be sent: for a new tunnel all, else what was changed. */
    #body() {
        const fields = this.#record ? this.#changed() : this.#fields;
        const body = {};
        const config = parseConfig(this.#record?.config ?? "{}");
        for (const field of fields) {
            if (field.path[0] !== "config") body[field.name] = field.value;
            else {
                put(config, field.path.slice(1), field.value);
                body.config = JSON.stringify(config);
            }
        }
        return body;
    }

    async #save() {
        if (this.#busy) return;
        for (const field of this.#fields) field.say("");
        this.#problem("");
        const body = this.#body();
        if (this.#record && !Object.keys(body).length) return this.dialog.close();
        this.#busy = true;
        $("form-save").setAttribute("aria-disabled", "true");
        try {
            const answer = this.#record
                ? await call("PUT", `tunnels/${this.#record.id}`, { body, version: this.#record.version })
                : await call("POST", "tunnels", { body });
            this.dialog.close();
            this.#saved(answer, !this.#record);
        } catch (problem) {
            await this.#refused(problem);
        } finally {
            this.#busy = false;
            $("form-save").removeAttribute("aria-disabled");
        }
    }

    async #refused(problem) {
        if (!(problem instanceof Problem)) throw problem;
        if (problem.status === 412 && this.#record) return this.#merge();
        const told = said(problem);
        if (typeof told === "object") return this.#invalid(told);
        this.#problem(explain(problem));
    }

    /** Sentences by field. One about a field that the form hasn't got is on top. */
    #invalid(detail) {
        const others = [];
        let first;
        for (const [name, sentence] of Object.entries(detail)) {
            const parts = name.split(".");
            let field;
            while (parts.length && !field) {
                field = this.#field(parts.join("."));
                parts.pop();
            }
            if (field) field.say(sentence);
            else others.push(`${name}: ${sentence}`);
            first ??= field;
        }
        this.#problem(others.join("\n") || t("form.invalid"));
        if (first?.path[0] === "config") $("form-more").open = true;
        first?.control.focus();
    }

    /** Somebody else was quicker: what only they changed is taken over, what both did is shown to choose. */
    async #merge() {
        let theirs;
        try {
            theirs = await call("GET", `tunnels/${this.#record.id}`);
        } catch (problem) {
            return this.#problem(explain(problem));
        }
        const texts = this.#texts(theirs);
        for (const [field, text] of texts) {
            const before = this.#base.get(field);
            if (text === before || text === field.text) continue;
            if (field.text === before) {
                field.text = text;
                field.say(t("form.taken", { value: field.shown(before) }), { error: false });
            } else {
                const take = () => {
                    field.text = text;
                    field.say("");
                    field.control.focus();
                };
                field.say(t("form.theirs", { value: field.shown(text) }), { error: false, button: [t("form.take"), take] });
            }
            if (field.path[0] === "config") $("form-more").open = true;
        }
        this.#record = theirs;
        this.#base = texts;
        hint(this.#fields, theirs);
        this.#ends();
        this.#problem(t("form.conflict"));
    }

    #problem(sentence) {
        setText($("form-problem"), sentence);
        $("form-problem").hidden = !sentence;
    }

    #warn(on) {
        this.#warned = on;
        $("form-discard").hidden = !on;
        setText($("form-discard"), on ? t("form.discard") : "");
        setText($("form-cancel"), on ? t("form.discard_yes") : t("page.cancel"));
    }

    /** Close; what was typed is thrown away at the second call only. */
    #leave() {
        if (this.#changed().length && !this.#warned) this.#warn(true);
        else this.dialog.close();
    }
}
