# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""``python -m tests.browser.screenshot docs/page.png``: the page as the documentation shows it, with samples."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.support import chromium, samples
from tests.support.panel import Panel


def main(path: Path) -> None:
    """Write the picture."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Panel.start(directory, tls=False) as panel,
        sync_playwright() as play,
    ):
        samples.fill(panel)
        browser = chromium.launch(play)
        with chromium.opened(browser, panel.token(), viewport={"width": 1280, "height": 770}) as (page, watched):
            page.goto(f"{panel.url}/dashboard/tunnels")
            expect(page.locator("#rows tr")).to_have_count(len(samples.TUNNELS))
            # The ways of Playwright to hide the caret and to stop animations are inline styles: the page refuses them
            page.screenshot(path=path, caret="initial", animations="allow")
        browser.close()
    if watched.said:
        raise SystemExit("\n".join(watched.said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
