// SPDX-License-Identifier: AGPL-3.0-or-later
// Marzban's dashboard keeps its choice of light or dark here; without one, the system's counts. A plain script, so that
// it has run before the first paint.
"use strict";
{
    const follow = () => {
        const mode = localStorage.getItem("chakra-ui-color-mode");
        const chosen = mode === "light" || mode === "dark";
        if (chosen) document.documentElement.dataset.theme = mode;
        else delete document.documentElement.dataset.theme;
    };
    follow();
    addEventListener("storage", follow);
}
