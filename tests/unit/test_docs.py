# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documentation can be read in a terminal, and its links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from tests.support import recipes

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "roles/*/README.md", "tests/README.md")
    for path in TOP.glob(pattern)
    if path.is_file()
)
LONGEST, LONGEST_ROW = 120, 160
SERVERS = ("roles/panel/files", "roles/node_api/files")
# Examples in the sentences of the trouble guide, for which the code has a place
EXAMPLE = re.compile(r" ?(?:\bfi-1\b|\bmarzban-panel\b|\b(?:UDP )?\d\d+\b|'[\d.]+'|'free'|/etc/\S+) ?")
PLACE = re.compile(r"%\.?\d*[sdf]|\{[a-z.]*\}")
OTHER_PROGRAMS = {"nft flush ruleset", "skipping: no hosts matched"}


def name(page: Path) -> str:
    return str(page.relative_to(TOP))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short(page: Path) -> None:
    """Rows of tables cannot be folded: what is longer is better a list."""
    lines = enumerate(page.read_text().splitlines(), 1)
    limits = {True: LONGEST_ROW, False: LONGEST}
    assert [(number, len(line)) for number, line in lines if len(line) > limits[line.startswith("|")]] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        target, _hash, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(link)
    assert lost == []


def test_each_page_is_named_in_the_readme_or_beside_it() -> None:
    """A page that nothing links to is not found."""
    linked = set()
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s#]+)", page.read_text()):
            target = (page.parent / link).resolve()
            linked.add(target / "README.md" if target.is_dir() else target)
    assert [name(page) for page in PAGES if page not in linked and name(page) != "README.md"] == []


def test_each_recipe_is_run_by_a_test() -> None:
    """Which has to name a section's files, and gets its commands one by one (tests/support/recipes.py)."""
    tests = (TOP / "tests/integration/test_recipes.py").read_text()
    asked = set(re.findall(r"""\.section\(\s*"([^"]+)\"""", tests))
    page = recipes.read("recipes.md")
    assert page.keys() == asked
    for section in page.values():
        for file, text in section.files.items():
            assert " " not in file, "the sentence above a file names it"
            if file.endswith(".yml"):
                (play, *_more) = yaml.safe_load(text)
                assert "hosts" in play


def sentences() -> str:
    """All that the code says: its texts, cut where a value is put in, with NUL between the pieces."""
    files = [path for folder in ("plugins", *SERVERS) for path in (TOP / folder).rglob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    texts = [node.value for node in nodes if isinstance(node.value, str)]
    for path in (TOP / "playbooks").glob("*.yml"):
        texts += [" ".join(text.split()) for text in re.split(r"\{\{.*?\}\}", path.read_text())]
    return "\0".join(["", *(piece.strip() for text in texts for piece in PLACE.split(text)), ""])


def is_said(text: str, said: str, before: str = "") -> bool:
    """Whether ``text`` is part of a piece, or put together of several. A NUL is the edge of one."""
    if before + text in said:
        return True
    cuts = [(text[:place].strip(), text[place:].strip()) for place in range(1, len(text))]
    return any(f"{before}{begin}\0" in said and is_said(rest, said, "\0") for begin, rest in cuts)


def test_the_trouble_guide_quotes_what_is_said() -> None:
    """A person finds the row by the words of a message."""
    said, page = sentences(), (TOP / "docs/trouble.md").read_text()
    bold = re.findall(r"\*\*(.+?)\*\*", page, re.DOTALL)
    quoted = {" ".join(text.split()) for row in bold for text in re.findall(r"`([^`]+)`", row)} - OTHER_PROGRAMS
    assert len(quoted) > 30
    parts = {part.strip() for text in quoted for part in EXAMPLE.sub("\0…\0", text).split("…")} - {"", "\0"}
    assert [part for part in sorted(parts) if not is_said(part, said)] == []
