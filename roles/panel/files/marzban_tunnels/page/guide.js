// SPDX-License-Identifier: AGPL-3.0-or-later
// The way to the row of the troubleshooting guide that fits. The panel serves the guide beside this page. Only these anchors are
// linked, whatever an answer says.

import { el, setAttribute, setText } from "./dom.js";
import { t } from "./i18n.js";

const ROWS = {
    "not-installed": "guide.not_installed",
    "no-answer": "guide.no_answer",
    keys: "guide.keys",
    connecting: "guide.connecting",
    "no-packets": "guide.no_packets",
    "large-packets": "guide.large_packets",
    flapping: "guide.flapping",
    dies: "guide.dies",
    "taken-away": "guide.taken_away",
    reinstalled: "guide.reinstalled",
    unreachable: "guide.unreachable",
};

/** A link that `lead` directs. */
export const guideLink = () => el("a", { class: "guide-link", target: "_blank", rel: "noreferrer" });

/** Direct a link to a symptom's row; it is hidden where there is none. */
export function lead(link, symptom) {
    const known = typeof symptom === "string" && Object.hasOwn(ROWS, symptom);
    link.hidden = !known;
    if (!known) return;
    setAttribute(link, "href", new URL(`./trouble.html#${symptom}`, import.meta.url).href);
    setText(link, t("guide.to", { what: t(ROWS[symptom]) }));
}
