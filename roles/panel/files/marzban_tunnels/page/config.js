// SPDX-License-Identifier: AGPL-3.0-or-later
// The JSON object in a record's `config`. What the page doesn't know in it stays as it is.

const KNOWN = ["source", "target", "dial", "mtu", "keepalive", "transport", "post_quantum"];

/** The object; an empty one where somebody wrote something else there. Numbers keep the digits they were written with. */
export function parseConfig(text) {
    try {
        const config = JSON.parse(text, keepDigits);
        return isObject(config) ? config : {};
    } catch {
        return {};
    }
}

function keepDigits(_key, value, context) {
    const differs = typeof value === "number" && context?.source !== undefined && context.source !== String(value);
    return differs && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
}

/** The value at a path such as ["source", "port"]; undefined where there is none. */
export const at = (config, path) => path.reduce((inner, key) => (isObject(inner) && Object.hasOwn(inner, key) ? inner[key] : undefined), config);

/** Set the value at a path, or take it out where it is undefined. An end that holds nothing any more goes as well. */
export function put(config, path, value) {
    const [key, ...rest] = path;
    if (rest.length) {
        const inner = isObject(config[key]) ? config[key] : {};
        put(inner, rest, value);
        value = Object.keys(inner).length ? inner : undefined;
    }
    if (value === undefined) delete config[key];
    else config[key] = value;
}

/** What the panel keeps without knowing it, as text. */
export function others(config) {
    const unknown = Object.entries(config).filter(([key]) => !KNOWN.includes(key));
    return unknown.length ? JSON.stringify(Object.fromEntries(unknown), null, 1) : "";
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
