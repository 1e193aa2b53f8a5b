# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Debian's Chromium, installed where it is missing, and what a page in it has said."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright

from tests.lab import machine

#: Command on the machine → Debian package that brings it. Its fontconfig brings DejaVu, which has Persian and Russian.
PACKAGES = {"chromium": "chromium", "ip": "iproute2"}
SAME_EVERYWHERE = ["--disable-lcd-text", "--font-render-hinting=none", "--force-color-profile=srgb"]


def executable() -> str:
    """Where Chromium is."""
    machine.install(PACKAGES, print)
    found = shutil.which("chromium", path=machine.SYSTEM_PATH)
    assert found
    return found


def launch(playwright: Playwright) -> Browser:
    """A Chromium without a window."""
    return playwright.chromium.launch(executable_path=executable(), args=SAME_EVERYWHERE)


class Watched:
    """Collects what a page complains of: errors on its console (a broken Content-Security-Policy is one), exceptions,
    and dialogs, which only a script that got in would open. ``expect`` names what a test provokes."""

    def __init__(self, page: Page) -> None:
        self.said: list[str] = []
        self._expected: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.said.append(f"exception: {error.message}\n{error.stack or ''}"))
        page.on("dialog", self._dialog)

    def expect(self, *patterns: str) -> None:
        """Errors that match one of these are this test's own."""
        self._expected += patterns

    @property
    def unexpected(self) -> list[str]:
        """What no test has provoked."""
        return [text for text in self.said if not any(re.search(pattern, text) for pattern in self._expected)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.said.append(f"{message.type}: {message.text} {message.location}")

    def _dialog(self, dialog: Any) -> None:
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@contextlib.contextmanager
def opened(browser: Browser, token: str | None, **options: Any) -> Iterator[tuple[Page, Watched]]:
    """A page of a fresh browser profile, with an admin's token as Marzban's dashboard would have left it."""
    context = browser.new_context(
        **{"ignore_https_errors": True, "locale": "en-GB", "reduced_motion": "reduce", **options}
    )
    context.set_default_timeout(60_000)
    if token:
        context.add_init_script(
            f"localStorage.getItem('seen') ?? (localStorage.token = {token!r}, localStorage.seen = 1)"
        )
    page = context.new_page()
    try:
        yield page, Watched(page)
    finally:
        context.close()
