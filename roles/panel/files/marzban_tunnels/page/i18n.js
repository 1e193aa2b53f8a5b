// SPDX-License-Identifier: AGPL-3.0-or-later
// Words and numbers in the reader's language.

export const LANGUAGES = { en: "English", fa: "فارسی", ru: "Русский", zh: "中文" };
const RTL = new Set(["fa"]);
const KEY = "i18nextLng"; // i18next's, which Marzban's dashboard uses: in a cookie (read first) and in the storage
const COOKIE = "i18next";

let language = "en";
let words = {};
let formats = new Map();

/** The language that Marzban's dashboard was set to, else the first of the browser's that we have. */
export function preferred() {
    const cookie = document.cookie.split("; ").find((part) => part.startsWith(`${COOKIE}=`));
    const chosen = [cookie?.slice(COOKIE.length + 1), localStorage.getItem(KEY), ...navigator.languages];
    return chosen.map((tag) => tag?.split("-")[0]).find((tag) => Object.hasOwn(LANGUAGES, tag)) ?? "en";
}

/** Remember a choice where Marzban's dashboard looks for it. */
export function choose(chosen) {
    localStorage.setItem(KEY, chosen);
    document.cookie = `${COOKIE}=${chosen}; path=/; SameSite=Strict`;
}

/** Load a language's words, and put them into the page. */
export async function load(wanted) {
    const answer = await fetch(new URL(`./locales/${wanted}.json`, import.meta.url));
    if (!answer.ok) throw new Error(`${wanted}: ${answer.status}`);
    words = await answer.json();
    language = wanted;
    formats = new Map();
    document.documentElement.lang = language;
    document.documentElement.dir = RTL.has(language) ? "rtl" : "ltr";
    document.title = t("title");
    translate(document);
}

/** The words for a key. */
export const t = (key, values = {}) => put(words[key] ?? key, values);

const CHOICES = {
    both: "value.both", source: "value.source", target: "value.target", udp: "value.udp", tcp: "value.tcp",
    auto: "form.automatic", require: "value.require", off: "value.off", kernel: "value.kernel", userspace: "value.userspace",
};

/** A word of the API, as people say it; what somebody else wrote in its place stays as it is. */
export const chosen = (value) => (Object.hasOwn(CHOICES, value) ? t(CHOICES[value]) : String(value));

/** What is put in is isolated, so that its direction is its own. */
const put = (text, values) => text.replace(/\{(\w+)\}/g, (_match, name) => `\u2068${values[name]}\u2069`);

/** A sentence that the panel has told with what it is made of, in the reader's language as far as we have words for it. */
export function tell({ code, text, values }) {
    const inner = Object.entries(values).map(([name, value]) => [name, value?.code ? tell(value) : value]);
    const ours = words[`refused.${code}`];
    const sentence = put(ours ?? text, Object.fromEntries(inner));
    return ours ? sentence : english(sentence);
}

export const isEnglish = () => language === "en";

/** English text among another language's: from left to right. */
export const english = (text) => (RTL.has(language) && text ? `\u2066${text}\u2069` : text);

/** Fill in what the HTML asks for: data-t the text, data-t-label and data-t-placeholder the attributes. */
export function translate(root) {
    for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
    for (const node of root.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
    for (const node of root.querySelectorAll("[data-t-placeholder]")) node.placeholder = t(node.dataset.tPlaceholder);
}

function format(name, make) {
    if (!formats.has(name)) formats.set(name, make());
    return formats.get(name);
}

const unit = (of, digits, unitDisplay = "short") =>
    format(`${of} ${digits} ${unitDisplay}`, () => new Intl.NumberFormat(language, { style: "unit", unit: of, unitDisplay, maximumFractionDigits: digits }));

export const collator = () => format("collator", () => new Intl.Collator(language, { numeric: true }));

export const number = (value) => format("number", () => new Intl.NumberFormat(language)).format(value);

/** 0.4 ms, 12 ms; an empty text for what is not a number. */
export const milliseconds = (value) => (Number.isFinite(value) ? unit("millisecond", value < 10 ? 1 : 0, language === "fa" ? "narrow" : "short").format(value) : "");

export const percent = (value) =>
    Number.isFinite(value) ? format("percent", () => new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 })).format(value / 100) : "";

export const seconds = (value) => (Number.isFinite(value) ? unit("second", 0).format(value) : "");

/** 22 sec, 5 min, 2 hr, 1 day: as exact as it needs to be. `shape` narrow: 2h. */
export function duration(value, shape = "short") {
    if (!Number.isFinite(value)) return "";
    const [size, name] = value < 60 ? [1, "second"] : value < 3600 ? [60, "minute"] : value < 172_800 ? [3600, "hour"] : [86400, "day"];
    return unit(name, 0, shape).format(Math.floor(value / size));
}

/** What has passed until now, narrow: 2h. Persian's narrow forms are Latin letters. */
export const passed = (since, now) => duration(Math.max(0, (now - since) / 1000), language === "fa" ? "short" : "narrow");

/** In words, by two units: 1 hour 36 minutes. */
export function lasting(value) {
    if (value < 59.5) return unit("second", 0, "long").format(Math.round(value));
    const minutes = Math.round(value / 60);
    const hours = Math.round(value / 3600);
    const [large, small] = minutes < 24 * 60 ? [[Math.floor(minutes / 60), "hour"], [minutes % 60, "minute"]] : [[Math.floor(hours / 24), "day"], [hours % 24, "hour"]];
    return [large, small].filter(([many]) => many > 0).map(([many, name]) => unit(name, 0, "long").format(many)).join(" ");
}

export const days = (value) => (Number.isFinite(value) ? unit("day", 0).format(value) : "");

/** 532 byte, 1.2 GB. */
export function bytes(value) {
    if (!Number.isFinite(value)) return "";
    const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte", "petabyte"];
    let power = 0;
    while (value >= 999.5 && power < units.length - 1) {
        value /= 1000;
        power += 1;
    }
    return unit(units[power], power && value < 9.95 ? 1 : 0).format(value);
}

/** 12s ago, 3min ago. Russian's narrow form is -12 с. */
export function ago(age) {
    const step = [[60, 1, "second"], [3600, 60, "minute"], [86400, 3600, "hour"], [Infinity, 86400, "day"]].find(([below]) => age < below);
    const relative = format("relative", () => new Intl.RelativeTimeFormat(language, { style: language === "ru" ? "short" : "narrow", numeric: "always" }));
    return relative.format(-Math.floor(age / step[1]), step[2]);
}

// As it is written where the reader is, and in their zone: day and month have another order in London than in New York
const SHAPES = {
    moment: { dateStyle: "medium", timeStyle: "short" },
    short: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" },
    clock: { hour: "2-digit", minute: "2-digit" },
    day: { month: "short", day: "numeric" },
};

/** A moment in milliseconds, in one of these shapes. */
export function date(value, name) {
    const place = navigator.languages.find((tag) => tag.split("-")[0] === language) ?? language;
    return format(`date ${name}`, () => new Intl.DateTimeFormat(place, SHAPES[name])).format(value);
}

/** A moment as the API writes it: naive UTC. */
export function moment(text) {
    const value = Date.parse(`${text}Z`);
    return Number.isNaN(value) ? String(text) : date(value, "moment");
}
