# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The worst words of CONTRIBUTING.md's list are not in the project's files: readers are tired, and English is not their
first language."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PLACES = (
    "plugins",
    "roles",
    "docs",
    "tests",
    "tools",
    "playbooks",
    "inventories",
    "extensions",
    "changelogs/fragments",
)
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile")
#: what not to write → what to write instead
WORDS = {
    r"\b[Mm]end(s|ed|ing)?\b": "hint, fix",
    r"(?<![Tt]here )(?<![Tt]hat )\b(is|are) (no|none) (?!longer)\w": "is not a …, there is no …",
    r"\b[Nn]one that\b": "there is no …",
    r"\b(bears?|bearing)\b": "has",
    r"\b(tells?|told|says?|said) of\b": "reports, answers, prints",
    r"(?<!stand-in )\b(stands?|stood)\b(?!-in| for|ards?)": "is in, is there",
    r"\b(farewell|rehearsal|overtaken)\b": "plain words",
    r"\b(has|have|counts?|is|are|does) no more\b": "does not have any more",
    r"\banew\b": "again, new",
    r"\b[Ww]ho(m?so)?ever\b": "anybody, those who",
    r"\byonder\b": "there",
    r"\b(whence|thereof|wherein|lest)\b": "plain words",
    r"can't be used\. It is missing": "… is required",
}
#: The list itself.
EXCEPT = {"tests/unit/test_words.py"}


def written() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PLACES, *PAGES],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = {name for name in listed.stdout.split("\0") if (TOP / name).is_file()}
    return sorted(names - EXCEPT)


@pytest.mark.parametrize("pattern", WORDS)
def test_words_that_nobody_has_to_look_up(pattern: str) -> None:
    word = re.compile(pattern)
    found = []
    for name in written():
        try:
            text = (TOP / name).read_text()
        except UnicodeDecodeError:  # a picture
            continue
        for number, line in enumerate(text.splitlines(), 1):
            # the list of words in CONTRIBUTING.md is a table
            # names of tests are read as well
            if word.search(line.replace("_", " ")) and not (name == "CONTRIBUTING.md" and line.startswith("|")):
                found.append(f"{name}:{number}: {line.strip()[:120]}")
    assert not found, f"write {WORDS[pattern]}:\n" + "\n".join(found)
