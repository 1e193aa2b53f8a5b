# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Fixtures for the page's tests: a real Chromium, and the standalone panel behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.support import chromium
from tests.support.panel import Panel
from tests.support.samples import add_nodes
from tests.support.screen import Screen

Opener = Callable[..., Screen]
expect.set_options(timeout=60_000)  # milliseconds, on a machine that runs all other tests at the same time


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    """A panel with three nodes, for the tests of one file."""
    with Panel.start(tmp_path_factory.mktemp("panel")) as panel:
        add_nodes(panel, {"de-1": "203.0.113.7", "fi-1": "198.51.100.9", "nl-1": "192.0.2.1"})
        yield panel


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opener]:
    """Opens the page of a panel, logged in unless told otherwise. At the end of the test nothing may have been
    complained of that the test didn't expect."""
    with contextlib.ExitStack() as stack:
        screens: list[Screen] = []

        def open_(panel: Panel, login: bool = True, path: str = "/dashboard/tunnels", **options: Any) -> Screen:
            token = panel.token() if login else None
            page, watched = stack.enter_context(chromium.opened(browser, token, **options))
            screens.append(Screen(page, watched, panel))
            page.goto(panel.url + path)
            return screens[-1]

        yield open_
        for screen in screens:
            assert screen.watched.unexpected == []


@pytest.fixture
def screen(open_page: Opener, panel: Panel) -> Screen:
    """The page of the file's panel, as an admin sees it."""
    return open_page(panel)
