# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The troubleshooting guide, as the panel serves it, and the page's links into it."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.marzban.tunnels.plugins.module_utils._model import symptoms
from tools import guide

TOP = Path(__file__).resolve().parents[2]


def test_the_panel_serves_the_guide_as_it_is() -> None:
    assert guide.PAGE.read_text() == guide.render(guide.GUIDE.read_text()), "run: make guide"


def test_the_page_links_to_each_row() -> None:
    script = (guide.PAGE.parent / "guide.js").read_text()
    rows = script.partition("const ROWS = {")[2].partition("};")[0]
    assert set(re.findall(r'^    "?([\w-]+)"?: "guide\.', rows, re.MULTILINE)) == set(symptoms.SYMPTOMS)
    anchors = set(re.findall(r'<h\d id="([^"]+)"', guide.PAGE.read_text()))
    assert set(symptoms.SYMPTOMS) <= anchors


def test_what_the_panel_does_not_serve_is_said() -> None:
    made = guide.render("# Title\n\n[a](b.md#c) [d](https://e/) [f](#g) <b>h</b>\n\n## Two `words`, here\n")
    assert '<h2 id="two-words-here">Two <code>words</code>, here</h2>' in made
    assert 'a (docs/b.md#c) <a href="https://e/" rel="noreferrer" target="_blank">d</a> <a href="#g">f</a>' in made
    assert "&lt;b&gt;" in made
