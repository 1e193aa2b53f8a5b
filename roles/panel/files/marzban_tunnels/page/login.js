// SPDX-License-Identifier: AGPL-3.0-or-later
// The page's own login, over whatever is open: nothing that was typed is lost.

import { $, setText, show } from "./dom.js";
import { logIn, Problem, token } from "./api.js";
import { t } from "./i18n.js";
import { explain } from "./problems.js";

let waiting = null; // the login that is asked for, shared by all calls that need it

/** Ask for a login; ends when there is a token. `ended`: there was one, which is no longer good. */
export function askLogin(ended) {
    waiting ??= new Promise((resolve) => open(ended, token(), resolve)).finally(() => (waiting = null));
    return waiting;
}

function open(ended, old, resolve) {
    const dialog = $("login");
    const form = dialog.querySelector("form");
    const stop = new AbortController();
    const { signal } = stop;
    const done = () => {
        stop.abort();
        $("login-password").value = "";
        dialog.close();
        resolve();
    };
    setText($("login-text"), ended ? t("login.ended") : t("login.needed"));
    problem("");
    dialog.addEventListener("cancel", (event) => event.preventDefault(), { signal });
    dialog.addEventListener("close", () => show(dialog), { signal }); // a browser closes it at the second Escape
    // Somebody logs in on Marzban's dashboard, in another tab
    addEventListener("storage", () => token() && token() !== old && done(), { signal });
    form.addEventListener("submit", async (event) => {
        event.preventDefault();
        $("login-go").disabled = true;
        try {
            await logIn($("login-username").value, $("login-password").value);
            done();
        } catch (error) {
            if (!(error instanceof Problem)) throw error;
            problem(error.status === 401 ? t("login.wrong") : explain(error));
            $("login-password").select();
        } finally {
            $("login-go").disabled = false;
        }
    }, { signal });
    show(dialog);
    ($("login-username").value ? $("login-password") : $("login-username")).focus();
}

function problem(sentence) {
    setText($("login-problem"), sentence);
    $("login-problem").hidden = !sentence;
}
