// SPDX-License-Identifier: AGPL-3.0-or-later
// Making and changing elements. Text is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `attributes`: `on` holds listeners, false and null leave one out, true is an empty one. */
export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** The same in SVG. */
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function fill(element, { on = {}, ...attributes }, children) {
    for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
    for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
    element.append(...children);
    return element;
}

/** Set, or with false or null remove, an attribute; nothing happens where it is so already. */
export function setAttribute(element, name, value) {
    if (value === false || value === null || value === undefined) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value === true ? "" : value)) element.setAttribute(name, value === true ? "" : value);
}

/** Set the text where it differs: what is selected or read out stays so. */
export function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

export const $ = (id) => document.getElementById(id);

/** A name or address among other text: its direction is its own. */
export const bdi = (text = "") => el("bdi", {}, text);

/** The sign of a status; each has a shape of its own. */
export function mark(status) {
    const use = svg("use", { href: `#mark-${status}` });
    return svg("svg", { class: "mark", "data-status": status, viewBox: "0 0 12 12", "aria-hidden": "true" }, use);
}

/** Another status in a sign that is there. */
export function setMark(element, status) {
    if (element.dataset.status === status) return;
    element.dataset.status = status;
    element.firstElementChild.setAttribute("href", `#mark-${status}`);
}

/** Open a dialog, unless it is open. */
export function show(dialog) {
    if (!dialog.open) dialog.showModal();
}
