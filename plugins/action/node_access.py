# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks the panel what lets it into the services of the nodes."""

from __future__ import annotations

from typing import Any

from ansible_collections.marzban.tunnels.plugins.plugin_utils import _node_steps
from ansible_collections.marzban.tunnels.plugins.plugin_utils._controller import ControllerAction


class ActionModule(ControllerAction):
    """The action of ``node_access``."""

    SPEC = {"nodes": {"type": "dict"}, "without_key": {"type": "bool", "default": False}}

    def work(self) -> dict[str, Any]:
        """``panel``, ``manager``, ``hosts``, ``refused``, ``panel_addresses``."""
        nodes = self.options["nodes"]
        nodes = self.nodes() if nodes is None else {host: name or host for host, name in nodes.items()}
        answer = _node_steps.access(self.panel(), nodes, self.options["without_key"], self.check_mode)
        return dict(answer, panel_addresses=self.panel_addresses())

    @property
    def by_hand(self) -> bool:
        """A panel is asked."""
        return False
