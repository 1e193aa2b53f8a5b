# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is quoted of a unit's journal."""

from __future__ import annotations

import base64

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node import units
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host

KEY = bytes(range(180, 212))
PEM = base64.b64encode(KEY * 3)[:64].decode()


class Journal(Host):
    """Of a unit that has said this. A fake."""

    def __init__(self, *lines: str) -> None:
        super().__init__()
        self.lines = lines

    def query(self, *argv: str, stdin: str | None = None, lenient: bool = False) -> str | None:
        assert argv[0] == "journalctl"
        return "\n".join(self.lines)


def test_the_last_words_are_the_end_without_noise() -> None:
    lines = "first", "[#] wg setconf mz4 /dev/fd/63", "RTNETLINK answers: File exists", "", "second", "│ x", "third"
    assert units.last_words(Journal(*lines), "u", "p") == "RTNETLINK answers: File exists / second / third"
    assert units.last_words(Journal(), "u", "p") == "see journalctl -u u"


@pytest.mark.parametrize("key", [base64.b64encode(KEY).decode(), KEY.hex(), KEY.hex()[:32].upper(), PEM])
def test_the_last_words_hold_nothing_that_may_be_a_key(key: str) -> None:
    said = Journal(f"Key is not the correct length or format: `{key}'", "", key)
    words = units.last_words(said, "u", "p")
    assert words.startswith("Key is not the correct length or format: `********'")
    assert key.rstrip("=")[:20] not in words


def test_the_last_words_keep_paths_and_ids() -> None:
    line = "/etc/marzban/tunnels/58ed5a12-a3f0-410c-8db9-ff8206a52a6e/tls.pem: no such file, fd6c:6162:0003:0000::11"
    assert units.last_words(Journal(line), "u", "p") == line
