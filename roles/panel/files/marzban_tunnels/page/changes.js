// SPDX-License-Identifier: AGPL-3.0-or-later
// Switching a tunnel on and off, deleting it after a question, and the question itself.

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

/** Ask, then delete; true when it was done. `acts`: both nodes take it down by themselves. */
export function remove(row, acts) {
    const [source, target] = row.nodes;
    let seen = row.record; // what the question is about; the row may be changed meanwhile
    const question = {
        title: t("confirm.title", { name: row.label }),
        text: acts ? t("confirm.text_acts", { source, target }) : t("confirm.text", { source, target }),
        yes: t("tunnel.delete"),
    };
    return ask(question, async () => {
        try {
            await call("DELETE", `tunnels/${row.id}`, { version: seen.version });
        } catch (problem) {
            if (problem.status === 412) seen = await call("GET", `tunnels/${row.id}`).catch(() => seen);
            throw problem;
        }
    });
}

/** Ask, then do it; true when it was done. What goes wrong is said where the question was, and can be tried again. */
export function ask({ title, text, yes }, work) {
    const dialog = $("confirm");
    const stop = new AbortController();
    const { signal } = stop;
    setText($("confirm-title"), title);
    setText($("confirm-text"), text);
    setText($("confirm-yes"), yes);
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
                await work();
                done = true;
                dialog.close();
            } catch (problem) {
                setText($("confirm-problem"), problem.status === 412 ? t("error.changed") : explain(problem));
                $("confirm-problem").hidden = false;
            } finally {
                $("confirm-yes").disabled = false;
            }
        }, { signal });
    });
}
