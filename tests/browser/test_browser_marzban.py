# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The page in a real Marzban: the unmodified checkout that MARZBAN_SRC names, with the add-on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support import chromium
from tests.support.marzban import MISSING, Marzban, source
from tests.support.screen import refused

pytestmark = pytest.mark.skipif(source() is None, reason=MISSING)


def test_the_login_on_marzbans_dashboard_is_the_pages(browser: Browser, tmp_path: Path) -> None:
    with Marzban(tmp_path, real=True) as marzban, chromium.opened(browser, None) as (page, watched):
        page.goto(f"{marzban.url}/dashboard/")
        page.locator("input").nth(0).fill(marzban.username)
        page.locator("input").nth(1).fill(marzban.password)
        page.locator("button[type=submit]").click()
        page.wait_for_function("() => localStorage.token")
        watched.said.clear()  # it is Marzban's own until here, and this, which may come late
        watched.expect("fonts.googleapis.com", "api.github.com")
        api = marzban.api()
        api.tunnel(api.node(name="de-1"), api.node(name="fi-1"), name="de-fi")
        api.session.close()
        page.goto(f"{marzban.url}/dashboard/tunnels")
        expect(page.locator("#login")).to_be_hidden()
        page.locator("#rows").get_by_role("button", name="de-fi").click()
        page.locator("#detail-switch").click()
        expect(page.locator("#detail-status")).to_contain_text("inactive")
        page.keyboard.press("Escape")
        watched.expect(*refused(401))
        page.evaluate("() => { localStorage.token = 'ended' }")
        page.locator("#create").click()
        page.locator("#field-name").fill("typed")
        page.locator("#form-save").click()
        expect(page.locator("#login")).to_be_visible()
        page.locator("#login-username").fill(marzban.username)
        page.locator("#login-password").fill(marzban.password)
        page.locator("#login-go").click()
        expect(page.locator("#rows").get_by_role("button", name="typed")).to_be_visible()
        assert watched.unexpected == []
        page.get_by_role("link", name="Dashboard").click()
        expect(page).to_have_url(re.compile(rf"{marzban.url}/dashboard/(#/)?$"))
        expect(page).to_have_title("Marzban")
