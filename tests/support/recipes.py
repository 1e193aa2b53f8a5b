# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files and the commands of a page of the documentation, as a reader pastes them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`([^`\s]*[./][^`\s]*)`")


@dataclass
class Section:
    """What is below one heading: ``files`` ``{name: text}``, and ``commands``, a text for each block of them."""

    files: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)


def read(page: str) -> dict[str, Section]:
    """The sections of ``docs/…`` that have a file or a command, by their headings.

    A block without a language is commands. One with a language is a file: its name is the first word in backticks, with
    a dot or a slash in it, of the paragraph above; else it is that paragraph.
    """
    found: dict[str, Section] = {}
    text = (TOP / "docs" / page).read_text()
    start, heading = 0, ""
    for block in BLOCK.finditer(text):
        between = text[start : block.start()].rstrip()
        start = block.end()
        heading = (re.findall(r"^#+ (.+)$", between, re.MULTILINE) or [heading])[-1]
        section = found.setdefault(heading, Section())
        language, body = block.groups()
        if language:
            paragraph = between.rpartition("\n\n")[2]
            section.files[(NAME.findall(paragraph) or [paragraph])[0]] = body
        else:
            section.commands.append(body)
    return found
