# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run does about another one that had its turn first. The rest of a run is tried on real hosts, and what it does
about a machine that has two names in test_owner.py."""

from __future__ import annotations

import shutil

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.reconcile import Apply
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders, new_state

PANEL = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81"
UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"


class Deaf(Host):
    """A host whose commands say nothing."""

    def prefetch(self, *commands):
        pass

    def _run(self, argv, stdin=None, timeout=30, secret=False, lenient=False):
        return ""


def view(version):
    end = {"endpoint": "203.0.113.1", "port": 20001, "routes": [], "public": None}
    return {
        "panel": PANEL,
        "id": 1,
        "uuid": UUID,
        "name": "de-fi",
        "type": "wireguard",
        "active": False,
        "version": version,
        "interface": "mz1",
        "mtu": None,
        "keepalive": 25,
        "dial": True,
        "transport": "udp",
        "post_quantum": "auto",
        "routes": [],
        "local": {**end, "node": "de-1", "role": "source", "addresses": ["10.201.0.2/31"]},
        "peer": {**end, "node": "fi-1", "role": "target", "addresses": ["10.201.0.3/31"]},
    }


def remove(folders):
    shutil.rmtree(folders.path(UUID))


def newer(folders):
    folders.write_state(new_state(view(7)))


def same(folders):
    folders.write_state(dict(new_state(view(4)), name="renamed"))


@pytest.mark.parametrize(
    ("earlier", "meanwhile", "refused"),
    [
        (4, remove, True),
        (4, newer, True),
        (None, newer, True),
        (4, same, False),
        (7, lambda folders: None, False),  # a panel's backup was put back: its older records count
        (4, lambda folders: None, False),
    ],
)
def test_what_another_run_did_while_this_one_waited(tmp_path, monkeypatch, earlier, meanwhile, refused):
    folders = Folders(str(tmp_path / "tunnels"))
    if earlier is not None:
        folders.write_state(new_state(view(earlier)))

    def lock(before_waiting):
        before_waiting()
        meanwhile(folders)

    monkeypatch.setattr(folders, "lock", lock)
    answer = Apply(Deaf(), folders, PANEL, ["wireguard"]).run([view(4)], [{"text": ""}])
    assert answer["tunnels"][0]["refused"] is refused
    assert ("Another run has just changed it here" in (answer["tunnels"][0]["error"] or "")) is refused
