# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A FAKE in the browser that answers the page's call for events, with what a test pushes. For what a real panel sends
only with many nodes, or after a long time. Lists and all other calls are the real panel's."""

from __future__ import annotations

import json
from typing import Any

from tests.support.screen import Screen

#: Where the page asks for events, it gets a stream that `feed` pushes text into
FAKE = """() => {
    const fetched = fetch;
    window.asked = [];
    window.fetch = (address, options = {}) => {
        if (address !== "/api/tunnels/events") return fetched(address, options);
        asked.push(options.headers["Last-Event-ID"] ?? null);
        const body = new ReadableStream({
            start(controller) {
                window.feed = (text) => controller.enqueue(new TextEncoder().encode(text));
                window.end = () => controller.close();
                options.signal.addEventListener("abort", () => controller.error(new DOMException("", "AbortError")));
            },
        });
        return Promise.resolve(new Response(body, { headers: { "Content-Type": "text/event-stream" } }));
    };
}"""


class FakeStream:
    """The page of a screen, loaded again with the fake."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._number = screen, 0
        screen.page.add_init_script(f"({FAKE})()")
        screen.page.reload()
        screen.page.wait_for_function("() => window.feed")
        self.push("hello", resumed=False, beat=10)

    def push(self, name: str, **data: Any) -> None:
        """One event."""
        self._screen.evaluate("(text) => feed(text)", self.text(name, **data))

    def text(self, name: str, **data: Any) -> str:
        """An event as it is sent."""
        self._number += 1
        return f"id: fake-{self._number}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
