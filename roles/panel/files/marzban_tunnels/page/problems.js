// SPDX-License-Identifier: AGPL-3.0-or-later
// What went wrong, in words.

import { Problem } from "./api.js";
import { english, t, tell } from "./i18n.js";

/** What the panel has said: a sentence, or sentences by field. In the reader's language where there are words for it. */
export function said({ detail, message, codes }) {
    const fields = detail && typeof detail === "object" ? Object.entries(detail) : Object.keys(codes).filter(Boolean).map((name) => [name]);
    const sentence = (name, text) => (codes[name] ? tell(codes[name]) : english(String(text)));
    return fields.length ? Object.fromEntries(fields.map(([name, text]) => [name, sentence(name, text)])) : sentence("", message);
}

/** A sentence for a call that failed. */
export function explain(problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status === 0) return t("error.unreachable");
    const told = said(problem);
    if (problem.status === 403) return t("error.not_sudo", { said: told });
    if (problem.status === 404 && (!problem.message || problem.message === "Not Found")) return t("error.no_api");
    const lines = typeof told === "string" ? told : Object.entries(told).map(([name, text]) => `${name}: ${text}`).join("\n");
    return lines || t("error.status", { status: problem.status });
}
