# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""``python -m tests.browser.screenshot docs/page.png docs/page-history.png``: the page, and the top of a tunnel's
dialog, as the documentation shows them, with samples."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import FloatRect, expect, sync_playwright

from tests.support import chromium, samples
from tests.support.panel import Panel
from tests.support.samples import database

SINCE = (190, 71, 400, 30, 12, 9, 2.4, 52, 0.2, 900, 3)  # hours, of each tunnel's status


def main(path: Path, history: Path) -> None:
    """Write the pictures."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Panel.start(directory, tls=False) as panel,
        sync_playwright() as play,
    ):
        made = samples.fill(panel)
        with database(panel) as connection:
            for hours, tunnel in zip(SINCE, made.values(), strict=True):
                moment = f"-{round(hours * 60)} minutes"
                connection.execute(
                    "UPDATE tunnels SET status_since = datetime('now', ?) WHERE id = ?", (moment, tunnel["id"])
                )
        samples.past(panel, made["de-fi"])
        browser = chromium.launch(play)
        with chromium.opened(browser, panel.token(), viewport={"width": 1280, "height": 770}) as (page, watched):
            page.goto(f"{panel.url}/dashboard/tunnels")
            expect(page.locator("#rows tr")).to_have_count(len(samples.TUNNELS))
            # The ways of Playwright to hide the caret and to stop animations are inline styles: the page refuses them
            page.screenshot(path=path, caret="initial", animations="allow")
            page.locator("#rows").get_by_role("button", name="de-fi", exact=True).click()
            expect(page.locator("#history-changes li")).to_have_count(len(samples.PAST))
            page.locator("#detail").focus()
            box = page.locator("#detail").bounding_box()
            assert box
            clip = FloatRect(x=box["x"], y=box["y"], width=box["width"], height=560)
            page.screenshot(path=history, clip=clip, caret="initial", animations="allow")
        browser.close()
    if watched.said:
        raise SystemExit("\n".join(watched.said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
