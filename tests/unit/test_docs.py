# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documentation can be read in a terminal, and its links lead somewhere."""

from __future__ import annotations

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
