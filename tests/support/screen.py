# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The page, as a test speaks of it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, Route, expect

from tests.support.chromium import Watched
from tests.support.panel import Panel

ISOLATES = str.maketrans("", "", "\u2068\u2069")  # what the page puts around names in sentences
# What the browser itself writes on the console about an answer that is an error
REFUSED = r"Failed to load resource: the server responded with a status of {}"
AWAY = r"Failed to load resource: net::ERR_(CONNECTION_|EMPTY_RESPONSE|SOCKET_NOT_CONNECTED)"


def refused(*statuses: int) -> list[str]:
    """Patterns for ``Watched.expect``."""
    return [REFUSED.format(status) for status in statuses]


class Screen:
    """A page that is open, the panel behind it, and what it has complained of."""

    def __init__(self, page: Page, watched: Watched, panel: Panel) -> None:
        self.page = page
        self.watched = watched
        self.panel = panel
        self.search = page.locator("#search")
        self.form = page.locator("#form")
        self.detail = page.locator("#detail")
        self.login = page.locator("#login")
        self.confirm = page.locator("#confirm")
        self.rows = page.locator("#rows tr")
        self.notice = page.locator("#notice")
        self.banner = page.locator("#banner")

    def row(self, name: str) -> Locator:
        """The row of a tunnel."""
        return self.rows.filter(has=self.page.get_by_role("button", name=name, exact=True))

    def open(self, name: str) -> Locator:
        """The detail of a tunnel, opened."""
        self.page.locator("#rows").get_by_role("button", name=name, exact=True).click()
        expect(self.detail).to_be_visible()
        return self.detail

    def edit(self, name: str) -> Locator:
        """The form of a tunnel, opened, with all its fields to be seen."""
        self.open(name).get_by_role("button", name="Edit").click()
        self.more()
        return self.form

    def more(self) -> None:
        """Open the form's second part."""
        if self.page.locator("#form-more").get_attribute("open") is None:
            self.page.locator("#form-more summary").click()

    def field(self, name: str) -> Locator:
        """A control of the form, by its name in the API."""
        return self.page.locator(f"#field-{name.replace('.', '-')}")

    def note(self, name: str) -> Locator:
        """What is said below a control."""
        return self.page.locator(f"#field-{name.replace('.', '-')}-note")

    def save(self) -> None:
        """Press the form's button."""
        self.form.get_by_role("button", name="Save").click()

    def tunnel(self, name: str) -> Any:
        """The panel's record of a name; None where there is none."""
        found = [record for record in self.panel.call("GET", "/api/tunnels?limit=1000") if record["name"] == name]
        return found[0] if found else None

    def expect_count(self, shown: str, total: str) -> None:
        """Wait until the page says that so many of so many tunnels are shown."""
        expect(self.page.locator("#count")).to_have_text(f"\u2068{shown}\u2069 of \u2068{total}\u2069")

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """What a function in the page answers."""
        return self.page.evaluate(script, argument)

    def without_events(self) -> list[str]:
        """The panel is one of an older version from the next load on: it has no stream of events, and the page polls.
        Answers a list of the calls for it."""
        asked: list[str] = []

        def absent(route: Route) -> None:
            asked.append(route.request.url)
            route.fulfill(status=404, json={"detail": "Not Found"})

        self.watched.expect(*refused(404))
        self.page.route("**/api/tunnels/events", absent)
        return asked

    def log_in(self, password: str | None = None) -> None:
        """Fill in the page's own login."""
        expect(self.login).to_be_visible()
        self.login.get_by_label("User name").fill(self.panel.username)
        self.login.get_by_label("Password").fill(password or self.panel.password)
        self.login.get_by_role("button", name="Log in").click()


def plain(locator: Locator) -> str:
    """The text of an element without the signs that keep directions apart."""
    return (locator.text_content() or "").translate(ISOLATES)
