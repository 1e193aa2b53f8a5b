# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``make guide``: docs/trouble.md as the panel serves it beside its page, which links to it. An admin who needs it may
have no way to any other host, and this collection has no public address."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

TOP = Path(__file__).resolve().parents[1]
GUIDE = TOP / "docs/trouble.md"
PAGE = TOP / "roles/panel/files/marzban_tunnels/page/trouble.html"
_FRAME = """<!doctype html>
<!-- SPDX-License-Identifier: AGPL-3.0-or-later -->
<!-- Made from docs/trouble.md by "make guide" -->
<html lang="en" dir="ltr">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s</title>
<link rel="icon" href="icon.svg">
<link rel="stylesheet" href="page.css">
<link rel="stylesheet" href="guide.css">
<script src="theme.js"></script>
</head>
<body>
<main class="guide">
%s</main>
</body>
</html>
"""


def anchor(heading: str) -> str:
    """Of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


class _Renderer(RendererHTML):
    """Says where a link to another page of the documentation leads: the panel doesn't serve those."""

    def link_open(self, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType) -> str:
        return self.renderToken(tokens, place, options, env) if _is_served(tokens[place]) else ""

    def link_close(self, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType) -> str:
        opened = next(token for token in reversed(tokens[:place]) if token.type == "link_open")
        return "</a>" if _is_served(opened) else " (" + os.path.normpath(f"docs/{opened.attrs['href']}") + ")"


def _is_served(link: Token) -> bool:
    return re.match(r"https?://|#", str(link.attrs["href"])) is not None


def render(text: str) -> str:
    """The page, out of the guide's Markdown."""
    markdown = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = markdown.parse(text)
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[place + 1].content))
        for child in token.children or ():
            if child.type == "link_open" and str(child.attrs["href"]).startswith("http"):
                child.attrs |= {"rel": "noreferrer", "target": "_blank"}
    title = next(tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open")
    return _FRAME % (title, markdown.renderer.render(tokens, markdown.options, {}))


if __name__ == "__main__":
    PAGE.write_text(render(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
