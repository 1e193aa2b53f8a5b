// SPDX-License-Identifier: AGPL-3.0-or-later
// Switching a tunnel on and off, and deleting it after a question.

import { $, setText, show } from "./dom.js";
import { call } from "./api.js";
import { t } from "./i18n.js";
import { explain } from "./problems.js";

/** Switch on what is off, and the other way round. Answers what the panel has then. */
export async function toggle({ record }) {
    const { id, version } = record;
    await call("POST", `tunnels/${id}/${record.is_active ? "deactivate" : "activate"}`, { version });
    return call("GET", `tunnels/${id}`);
}

/** Ask, then delete; true when it was done. */
export function remove(row) {
    const dialog = $("confirm");
    const stop = new AbortController();
    const { signal } = stop;
    const [source, target] = row.nodes;
    setText($("confirm-title"), t("confirm.title", { name: row.label }));
    setText($("confirm-text"), t("confirm.text", { source, target }));
    setText($("confirm-problem"), "");
    $("confirm-problem").hidden = true;
    show(dialog);
    $("confirm-no").focus();
    return new Promise((resolve) => {
        let done = false;
        dialog.addEventListener("close", () => {
            stop.abort();
            resolve(done);
        }, { signal });
        $("confirm-no").addEventListener("click", () => dialog.close(), { signal });
        $("confirm-yes").addEventListener("click", async () => {
            $("confirm-yes").disabled = true;
            try {
                await call("DELETE", `tunnels/${row.id}`, { version: row.record.version });
                done = true;
                dialog.close();
            } catch (problem) {
                setText($("confirm-problem"), problem.status === 412 ? t("error.changed") : explain(problem));
                $("confirm-problem").hidden = false;
                if (problem.status === 412) row.record = await call("GET", `tunnels/${row.id}`).catch(() => row.record);
            } finally {
                $("confirm-yes").disabled = false;
            }
        }, { signal });
    });
}
