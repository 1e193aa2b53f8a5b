// SPDX-License-Identifier: AGPL-3.0-or-later
// What went wrong, in words.

import { Problem } from "./api.js";
import { t } from "./i18n.js";

/** A sentence for a call that failed. What the panel said itself is shown as it is. */
export function explain(problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status === 0) return t("error.unreachable");
    if (problem.status === 403) return t("error.not_sudo", { said: problem.message });
    if (problem.status === 404 && (!problem.message || problem.message === "Not Found")) return t("error.no_api");
    const { detail } = problem;
    const said = detail && typeof detail === "object" ? Object.entries(detail).map(([name, text]) => `${name}: ${text}`).join("\n") : problem.message;
    return said || t("error.status", { status: problem.status });
}
