// SPDX-License-Identifier: AGPL-3.0-or-later
// The fields of a tunnel's form: where each is in a record, its control, and how text becomes a value and back.

import { $, el, setAttribute, setText } from "./dom.js";
import { chosen, t } from "./i18n.js";
import { at } from "./config.js";
import { TYPES } from "./model.js";

const words = (text) => text.split(/[\s,،]+/).filter(Boolean);
const asNumber = (text) => (/^\d+$/.test(text) ? Number(text) : text); // the panel says what is wrong with another
const choice = (...values) => ({ options: () => [["", t("form.automatic")], ...values.map((value) => [value, chosen(value)])] });
const list = { area: true, code: true, parse: words, print: (value) => (Array.isArray(value) ? value.join("\n") : String(value)) };
const whole = { code: true, numeric: true, parse: asNumber };

// name: as the API's errors have it, which is also the path into the record
const MAIN = [
    { name: "name", label: "field.name" },
    { name: "tunnel_type", label: "field.type", options: () => Object.entries(TYPES) },
    { name: "source_node_id", label: "field.source", node: true },
    { name: "target_node_id", label: "field.target", node: true },
    { name: "is_active", label: "field.active", check: true },
];
const OPTIONS = [
    { name: "config.dial", label: "field.dial", ...choice("both", "source", "target") },
    { name: "config.transport", label: "field.transport", ...choice("udp", "tcp") },
    { name: "config.mtu", label: "field.mtu", ...whole },
    { name: "config.keepalive", label: "field.keepalive", ...whole },
    { name: "config.post_quantum", label: "field.post_quantum", ...choice("auto", "require", "off") },
];
const END = [
    { name: "endpoint", label: "field.endpoint", code: true },
    { name: "port", label: "field.port", ...whole },
    { name: "endpoint_port", label: "field.endpoint_port", ...whole },
    { name: "addresses", label: "field.addresses", ...list },
    { name: "interface", label: "field.interface", code: true },
    { name: "routes", label: "field.routes", ...list },
];

/** One field: its control, what it says about it, and its value. */
class Field {
    constructor(shape, place) {
        Object.assign(this, shape);
        this.path = this.name.split(".");
        const id = `field-${this.name.replaceAll(".", "-")}`;
        this.noteId = `${id}-note`;
        if (this.options || this.node) this.control = el("select", { id });
        else if (this.area) this.control = el("textarea", { id, rows: 2, spellcheck: "false" });
        else this.control = el("input", { id, type: this.check ? "checkbox" : "text", inputmode: this.numeric ? "numeric" : null, spellcheck: "false", autocomplete: "off" });
        setAttribute(this.control, "dir", this.code ? "ltr" : this.options || this.check ? null : "auto");
        setAttribute(this.control, "aria-describedby", this.noteId);
        this.caption = el("label", { for: id });
        this.noteText = el("span");
        this.noteButton = el("button", { type: "button", class: "quiet", hidden: true });
        this.note = el("p", { class: "note", id: this.noteId, hidden: true }, this.noteText, this.noteButton);
        const parts = this.check ? [this.control, this.caption] : [this.caption, this.control];
        place.append(el("div", { class: this.check ? "field check" : "field" }, ...parts, this.note));
    }

    /** The words, and for nodes what there is to choose. */
    label(nodes) {
        setText(this.caption, t(this.label_));
        const options = this.node ? nodes.map((node) => [String(node.id), node.name]) : this.options?.();
        if (!options) return;
        const chosen = this.control.value;
        this.control.replaceChildren(...options.map(([value, text]) => el("option", { value, dir: "auto" }, text)));
        this.control.value = chosen;
    }

    get text() {
        return this.check ? String(this.control.checked) : this.control.value.trim();
    }

    set text(text) {
        if (this.check) this.control.checked = text === "true";
        else {
            // a value that the page has no option for, or a node that is gone, is shown all the same
            if (this.control.localName === "select" && ![...this.control.options].some((option) => option.value === text)) {
                this.control.append(el("option", { value: text }, text));
            }
            this.control.value = text;
        }
    }

    /** What is in a record (and its config), as the control's text. */
    textOf(record, config) {
        const value = this.path[0] === "config" ? at(config, this.path.slice(1)) : record[this.name];
        if (value === null || value === undefined) return "";
        if (this.print) return this.print(value);
        return typeof value === "object" ? (value.rawJSON ?? JSON.stringify(value)) : String(value);
    }

    /** The text of the control as a value for the API; undefined (in the record itself: null) when it is empty. */
    get value() {
        if (this.check) return this.control.checked;
        if (this.text === "") return this.path[0] === "config" ? undefined : null;
        return this.node ? Number(this.text) : (this.parse?.(this.text) ?? this.text);
    }

    /** How a text reads to people. */
    shown(text) {
        if (this.check) return text === "true" ? t("page.yes") : t("page.no");
        const option = [...(this.control.options ?? [])].find((candidate) => candidate.value === text);
        return option?.textContent ?? (text === "" ? t("form.empty") : text.replaceAll("\n", ", "));
    }

    /** Say something below the control: an error, or what somebody else made of it; `button` is its words and what it does. */
    say(sentence, { error = true, button } = {}) {
        setText(this.noteText, sentence);
        this.note.hidden = !sentence;
        this.note.classList.toggle("error", error);
        setAttribute(this.control, "aria-invalid", sentence && error ? "true" : null);
        this.noteButton.hidden = !button;
        if (button) {
            setText(this.noteButton, button[0]);
            this.noteButton.onclick = button[1];
        }
    }
}

/** All fields, in the form's places. */
export function makeFields() {
    const make = (shapes, place, prefix = "") => shapes.map(({ label, ...shape }) => new Field({ ...shape, label_: label, name: prefix + shape.name }, $(place)));
    return [
        ...make(MAIN, "form-main"),
        ...make(OPTIONS, "form-options"),
        ...make(END, "form-ends-source", "config.source."),
        ...make(END, "form-ends-target", "config.target."),
    ];
}

/** What the panel has chosen is shown in empty fields as a hint. */
export function hint(fields, record) {
    const automatic = t("form.automatic");
    for (const field of fields) {
        if (field.path.length < 3 || field.options) continue;
        const [, role, key] = field.path;
        const value = (record?.ends ?? []).find((end) => end.role === role)?.[key];
        const text = Array.isArray(value) ? value.join("\n") : String(value ?? "");
        field.control.placeholder = text || (key === "routes" ? t("form.none") : automatic);
    }
    for (const field of fields) if (field.numeric && field.path.length === 2) field.control.placeholder = automatic;
}
