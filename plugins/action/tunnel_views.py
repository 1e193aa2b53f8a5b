# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads the records, and gives each host its views of them."""

from __future__ import annotations

from typing import Any

from ansible_collections.marzban.tunnels.plugins.plugin_utils import _panel_steps
from ansible_collections.marzban.tunnels.plugins.plugin_utils._controller import ControllerAction


class ActionModule(ControllerAction):
    """The action of ``tunnel_views``."""

    SPEC = {
        "nodes": {"type": "dict"},
        "records": {"type": "raw"},
        "list_name": {"type": "str", "default": "local"},
        "published": {"type": "dict", "default": {}},
        "orphans": {"type": "dict", "default": {}},
        "post_quantum": {"type": "str", "choices": ["auto", "require", "off"], "default": "auto"},
    }

    def work(self) -> dict[str, Any]:
        """``panel``, ``views``, ``confirmed_deleted``, ``broken`` and, for a hand-written list, ``list_digest``."""
        given = self.options
        nodes = given["nodes"]
        nodes = self.nodes() if nodes is None else {host: name or host for host, name in nodes.items()}
        read = _panel_steps.read(self.source(), nodes, given["orphans"], given["published"], self.warn)
        return dict(read._asdict(), gone=read.confirmed_deleted)  # its old name, until 1.0
